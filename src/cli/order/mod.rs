//! `harmony-agent switchover`, `failback`, `failover`: asks the primary for another one, and shows what
//! becomes of it.

mod follow;
mod when;

use std::io::{BufRead, IsTerminal, Write};

use super::exit::{Code, Failure};
use super::output;
use super::{Settings, runtime};
use crate::config::Config;
use crate::core::ids::{MemberId, Revision};
use crate::core::order::{Order, Wish};
use crate::core::records::{ClusterState, Lease, Snapshot};
use crate::operator::{Operator, Trouble, policy};
pub(super) use follow::follow;
use when::When;

/// Arguments of `switchover`.
#[derive(Clone, Debug, clap::Args)]
pub struct Switchover {
    /// Member to be the primary [default: the first in line]
    #[arg(long, value_name = "MEMBER", conflicts_with = "cancel")]
    pub to: Option<MemberId>,
    /// When to begin: +10m, or a time with its offset as in 2026-11-22T03:00:00+01:00
    #[arg(long, value_name = "TIME", conflicts_with_all = ["cancel", "dry_run"], value_parser = when::parse)]
    pub at: Option<When>,
    /// Only ask the primary what it would do
    #[arg(long, conflicts_with = "cancel")]
    pub dry_run: bool,
    /// Do not ask back
    #[arg(short, long)]
    pub yes: bool,
    /// Withdraw what was asked for, as long as the database has not been stopped
    #[arg(long)]
    pub cancel: bool,
}

/// Arguments of `failback`.
#[derive(Clone, Debug, clap::Args)]
pub struct Failback {
    /// Only ask the primary what it would do
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask back
    #[arg(short, long)]
    pub yes: bool,
}

/// Arguments of `failover`.
#[derive(Clone, Debug, clap::Args)]
pub struct Failover {
    /// Member to be the primary
    #[arg(long, value_name = "MEMBER")]
    pub to: MemberId,
    /// Also if it lacks commits that were acknowledged: they are lost
    #[arg(long)]
    pub accept_loss: bool,
    /// Do not ask back
    #[arg(short, long)]
    pub yes: bool,
}

/// Makes another member the primary.
///
/// # Errors
/// It is refused (75), nobody is there to do it (69), or the command line is wrong (64).
pub fn switchover(arguments: Switchover, settings: &Settings) -> Result<(), Failure> {
    if arguments.cancel {
        return runtime()?.block_on(cancel(settings));
    }
    let Switchover { to, at, dry_run, yes, cancel: _ } = arguments;
    let wanted = Wanted { wish: Wish::Switchover, to, at, rehearsal: dry_run, yes };
    runtime()?.block_on(give(wanted, settings))
}

/// Makes the member of the highest priority the primary.
///
/// # Errors
/// As [`switchover`].
pub fn failback(arguments: &Failback, settings: &Settings) -> Result<(), Failure> {
    let Failback { dry_run: rehearsal, yes } = *arguments;
    let wanted = Wanted { wish: Wish::Failback, to: None, at: None, rehearsal, yes };
    runtime()?.block_on(give(wanted, settings))
}

/// Makes a member the primary, also while transitions are paused.
///
/// # Errors
/// As [`switchover`].
pub fn failover(arguments: Failover, settings: &Settings) -> Result<(), Failure> {
    let Failover { to, accept_loss, yes } = arguments;
    let wish = Wish::Failover { accept_loss };
    let wanted = Wanted { wish, to: Some(to), at: None, rehearsal: false, yes };
    runtime()?.block_on(give(wanted, settings))
}

struct Wanted {
    wish: Wish,
    to: Option<MemberId>,
    at: Option<When>,
    rehearsal: bool,
    yes: bool,
}

async fn give(wanted: Wanted, settings: &Settings) -> Result<(), Failure> {
    let config = settings.read()?.config;
    let mut operator = Operator::open(&config).await.map_err(failure)?;
    let snapshot = operator.read().await.map_err(failure)?;
    let (revision, lease) = leased(&snapshot)?;
    if !wanted.rehearsal && !wanted.yes {
        confirm(&plan(&wanted, &config, &snapshot, lease))?;
    }
    let order = Order {
        id: uuid::Uuid::new_v4().to_string(),
        wish: wanted.wish,
        epoch: lease.epoch,
        to: wanted.to,
        by: whoever(&config.member),
        not_before: None,
        rehearsal: wanted.rehearsal,
    };
    let at = wanted.at;
    let place = |snapshot: &Snapshot, cluster: ClusterState| place(&order, at, snapshot, cluster);
    operator.change(place).await.map_err(failure)?;
    if let Some(when) = at {
        return output::print(&format!(
            "{} will begin {when}, by the store's clock; `harmony-agent switchover --cancel` withdraws it",
            order.wish.name()
        ));
    }
    follow(&mut operator, &order, (revision, lease), &policy(&config, &snapshot)).await
}

/// The cluster's description with the order in it, unless another one is open or the lease has moved.
pub(super) fn place(
    order: &Order,
    at: Option<When>,
    snapshot: &Snapshot,
    mut cluster: ClusterState,
) -> Result<Option<ClusterState>, String> {
    let epoch = snapshot.lease.record().map(|lease| lease.epoch);
    if epoch != Some(order.epoch) {
        return Err("the primary changed meanwhile; look at the status and ask again".to_owned());
    }
    if let Some(open) = cluster.order.as_ref().filter(|open| open.epoch == order.epoch) {
        let to = open.to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
        return Err(format!(
            "a {}{to}, asked for by {}, is open; `harmony-agent switchover --cancel` withdraws it",
            open.wish.name(),
            open.by
        ));
    }
    let mut order = order.clone();
    if let Some(when) = at {
        let now = snapshot.newest_time().ok_or("the store shows no time; try again")?;
        order.not_before = Some(when.from(now)?);
    }
    cluster.order = Some(order);
    Ok(Some(cluster))
}

async fn cancel(settings: &Settings) -> Result<(), Failure> {
    let config = settings.read()?.config;
    let mut operator = Operator::open(&config).await.map_err(failure)?;
    let without = |_: &Snapshot, cluster: ClusterState| {
        let open = cluster.order.is_some();
        Ok(open.then_some(ClusterState { order: None, ..cluster }))
    };
    if operator.change(without).await.map_err(failure)? {
        output::print("withdrawn; a primary that has not stopped its database yet goes on")
    } else {
        output::print("nothing is asked for that could be withdrawn")
    }
}

/// The lease that stands in the store.
pub(super) fn leased(snapshot: &Snapshot) -> Result<(Revision, &Lease), Failure> {
    let found = snapshot.lease.revision().zip(snapshot.lease.record());
    found.ok_or_else(|| {
        let text =
            "the store shows no lease that could be obeyed; `harmony-agent status` says more";
        Failure::new(Code::Unavailable, text)
    })
}

/// What is about to happen, for whoever is to say yes.
fn plan(wanted: &Wanted, config: &Config, snapshot: &Snapshot, lease: &Lease) -> String {
    let to = wanted.to.as_ref().map_or_else(|| "the first in line".to_owned(), ToString::to_string);
    let behind = wanted.to.as_ref().and_then(|to| snapshot.heartbeats.get(to)?.record());
    let behind = behind.map_or_else(String::new, |heartbeat| {
        let bytes = lease.database.lsn.bytes_ahead_of(heartbeat.database.lsn);
        format!(", {bytes} bytes behind when it last said")
    });
    let loss = match wanted.wish {
        Wish::Failover { accept_loss: true } => {
            "\nIf the primary is gone, commits that were acknowledged and are not there are lost."
        }
        Wish::Failover { accept_loss: false } | Wish::Switchover | Wish::Failback => "",
    };
    format!(
        "{} of cluster {}: from {} (epoch {}) to {to}{behind}{loss}",
        wanted.wish.name(),
        config.cluster_id,
        lease.holder,
        lease.epoch
    )
}

/// Asks back on the terminal.
pub(super) fn confirm(plan: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let text = format!("{plan}\nnobody can be asked back here; say --yes if that is meant");
        return Err(Failure::new(Code::Usage, text));
    }
    let broken = |error: std::io::Error| Failure::new(Code::Internal, error);
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{}\nGo ahead? [y/N] ", output::plain(plan)).map_err(broken)?;
    stderr.flush().map_err(broken)?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(broken)?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Code::Usage, "nothing was asked for")),
    }
}

/// Who asks, for those who read it later.
pub(super) fn whoever(member: &MemberId) -> String {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let name = name.filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    format!("{name}, beside {member}")
}

/// What went wrong, as the program's end.
pub(super) fn failure(trouble: Trouble) -> Failure {
    let code = match &trouble {
        Trouble::Open(_) | Trouble::Read(_) | Trouble::NoCluster | Trouble::NoStore(_) => {
            Code::Unavailable
        }
        Trouble::Unreadable(_) => Code::Data,
        Trouble::Refused(_) | Trouble::Conflict | Trouble::Unknown(_) => Code::Temporary,
        Trouble::Rejected(_) => Code::Permission,
    };
    Failure::new(code, output::plain(&trouble.to_string()))
}
