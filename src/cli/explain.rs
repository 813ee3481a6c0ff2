//! `harmony-agent explain`: why the cluster is as it is, and what would happen if its primary died now.

use serde::Serialize;

use super::Settings;
use super::exit::Failure;
use super::output::{self, Format, bytes};
use super::status::{age, ask};
use crate::core::ids::{ClusterId, Epoch, MemberId};
use crate::core::order::Order;
use crate::core::synchronous::SynchronousMode;
use crate::http::view::{
    MemberView, NotObeyed, PauseView, Role, SynchronousView, View, WatchdogView,
};

/// Arguments of `explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Agent to ask, http://host:port; may be repeated, the first that answers counts
    /// [default: the local agent, by http.listen]
    #[arg(long, value_name = "URL")]
    pub url: Vec<String>,
}

/// What is said of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The member whose agent was asked.
    pub member: MemberId,
    /// Who holds the lease.
    pub primary: Option<MemberId>,
    /// The epoch it knows.
    pub epoch: Epoch,
    /// How it is, and why, in sentences.
    pub now: Vec<String>,
    /// Who would take over if the primary died now, in order.
    pub line: Vec<Heir>,
    /// Who would not.
    pub others: Vec<Other>,
    /// What is missing for a failover to be sure and safe.
    pub missing: Vec<String>,
}

/// A member that would take over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heir {
    /// The member.
    pub member: MemberId,
    /// Seconds after the primary's last sign.
    pub after_seconds: f64,
    /// Bytes behind the primary when it last compared: what may be lost, at least.
    pub behind_bytes: Option<u64>,
    /// What keeps the primary from handing over to it now, but for a failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubtful: Option<String>,
}

/// A member that would not take over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Other {
    /// The member.
    pub member: MemberId,
    /// Why not.
    pub why: String,
}

/// Asks an agent and says in words what it decides, by the same functions, and why.
///
/// # Errors
/// As [`super::status::status`].
pub fn explain(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let view = super::runtime()?.block_on(ask(&arguments.url, settings))?;
    let explanation = explanation(&view);
    output::print(&match arguments.output {
        Format::Table => page(&explanation),
        Format::Json => output::json(&explanation)?,
        Format::Yaml => output::yaml(&explanation)?,
    })
}

/// The explanation of a view.
#[doc(hidden)]
pub fn explanation(view: &View) -> Explanation {
    Explanation {
        cluster_id: view.cluster_id.clone(),
        member: view.member.clone(),
        primary: view.lease.holder.clone(),
        epoch: view.lease.epoch,
        now: now(view),
        line: line(view),
        others: others(view),
        missing: missing(view),
    }
}

/// An explanation for people.
#[doc(hidden)]
pub fn page(said: &Explanation) -> String {
    let mut lines = vec![format!("cluster {} as {} sees it", said.cluster_id, said.member)];
    lines.push(String::new());
    lines.extend(said.now.iter().cloned());
    lines.push(String::new());
    lines.extend(then(said));
    lines.push(String::new());
    lines.push(match said.missing.len() {
        0 => "Nothing is missing for a failover.".to_owned(),
        _ => "Missing for a failover to be sure and safe:".to_owned(),
    });
    lines.extend(said.missing.iter().map(|what| format!("  - {what}")));
    output::plain(&lines.join("\n"))
}

/// How it is, and why.
fn now(view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let sign = view
        .staleness_seconds
        .map_or_else(String::new, |age| format!("; its lease last moved {age:.1} s ago"));
    lines.push(match &view.lease.holder {
        Some(holder) => format!("{holder} is the primary since epoch {}{sign}.", view.lease.epoch),
        None => format!("Nobody holds the lease; the last epoch is {}{sign}.", view.lease.epoch),
    });
    if let Some(left) = view.lease.seconds_left {
        lines.push(format!("It may write for {left:.1} s more without another renewal."));
    }
    if view.lease.epoch > Epoch(0) {
        lines.push(format!("How it became so: `harmony-agent history show {}`.", view.lease.epoch));
    }
    if let Some(last) = &view.last_transition {
        lines.push(format!(
            "{} went from {} to {} {:.0} s ago: {}.",
            view.member, last.from, last.to, last.seconds_ago, last.reason
        ));
    }
    if let Some(PauseView { reason, by, .. }) = &view.paused {
        lines.push(format!("Automatic transitions are paused: {reason} ({by})."));
    }
    if let Some(Order { wish, to, by, .. }) = &view.order {
        let to = to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
        lines.push(format!("A {}{to} is asked for ({by}).", wish.name()));
    }
    lines.push(kept(&view.synchronous));
    lines
}

/// Who has what was acknowledged.
fn kept(view: &SynchronousView) -> String {
    let SynchronousView { mode, members, .. } = view;
    if !members.is_empty() {
        let names: Vec<&str> = members.iter().map(MemberId::as_str).collect();
        return format!(
            "Every acknowledged commit is on {}: nobody else takes over.",
            names.join(", ")
        );
    }
    match mode {
        SynchronousMode::Off => {
            "Replication is asynchronous: what is not yet on a standby is lost with \
                                 the primary."
                .to_owned()
        }
        SynchronousMode::On => {
            "No standby has every commit: for now replication is asynchronous, and \
                                what is not yet on a standby is lost with the primary."
                .to_owned()
        }
        SynchronousMode::Strict => {
            "No standby has every commit yet: until one has, none is acknowledged.".to_owned()
        }
    }
}

/// Who would take over if the primary died.
fn line(view: &View) -> Vec<Heir> {
    let of = |name: &MemberId| view.members.iter().find(|it| it.member == *name);
    let after = |place: usize| {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        view.failover_seconds + view.takeover_step_seconds * f64::from(place)
    };
    let heir = |(place, name): (usize, &MemberId)| Heir {
        member: name.clone(),
        after_seconds: after(place),
        behind_bytes: of(name).and_then(|it| it.lag),
        doubtful: of(name).and_then(|it| it.doubtful.clone()),
    };
    view.line.iter().enumerate().map(heir).collect()
}

/// Who would not.
fn others(view: &View) -> Vec<Other> {
    let not_in_line =
        |it: &&MemberView| it.role != Role::Primary && !view.line.contains(&it.member);
    let other = |it: &MemberView| Other { member: it.member.clone(), why: why_not(it) };
    view.members.iter().filter(not_in_line).map(other).collect()
}

fn why_not(member: &MemberView) -> String {
    let heard = member.age_seconds.map_or_else(
        || "it has not been heard of".to_owned(),
        |seconds| format!("last heard of {}", age(seconds)),
    );
    match (&member.ineligible, member.state) {
        (Some(why), _) => format!("{why} ({heard})"),
        (None, Some(state)) => format!("it is {state} ({heard})"),
        (None, None) => heard,
    }
}

/// What would happen if the primary died.
fn then(said: &Explanation) -> Vec<String> {
    let primary = said.primary.as_ref().map_or("the primary", |holder| holder.as_str());
    let mut lines = vec![format!("If {primary} died now:")];
    for (place, heir) in said.line.iter().enumerate() {
        let Heir { member, after_seconds: after, behind_bytes, doubtful } = heir;
        let behind = behind_bytes
            .map_or_else(String::new, |lag| format!(", {} behind when last compared", bytes(lag)));
        let but = output::but(doubtful.as_deref());
        lines.push(match place {
            0 => {
                format!("  {member} would take over {after:.2} s after its last sign{behind}{but}")
            }
            _ => format!("  then {member}, after {after:.2} s{behind}{but}"),
        });
    }
    if said.line.is_empty() {
        lines.push("  nobody would take over".to_owned());
    }
    lines.extend(said.others.iter().map(|it| format!("  not {}: {}", it.member, it.why)));
    lines
}

fn missing(view: &View) -> Vec<String> {
    let mut missing: Vec<String> = view
        .alarms
        .iter()
        .map(|alarm| format!("the alarm {alarm} stands; see the runbook of its name"))
        .collect();
    if view.line.is_empty() && view.paused.is_none() {
        missing.push("a member that could take over".to_owned());
    }
    if view.paused.is_some() {
        missing.push("the end of the pause: `harmony-agent resume`".to_owned());
    }
    if !view.store.connected {
        let why = view.store.trouble.as_deref().unwrap_or("not connected");
        missing.push(format!("the store, as seen from {}: {why}", view.member));
    }
    if view.watchdog == WatchdogView::Off {
        missing.push(format!(
            "a watchdog of {}: an agent that dies or freezes there leaves a database that goes on writing",
            view.member
        ));
    }
    for NotObeyed { what, why } in &view.not_obeyed {
        missing.push(format!("{what}, which is not obeyed: {why}"));
    }
    missing
}
