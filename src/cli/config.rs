//! `harmony-agent config …`: check, explain and write configurations.

use std::time::Duration;

use clap::Subcommand;
use tokio::time::Instant;

use super::exit::{Code, Failure};
use super::order::failure;
use super::output::{self, Format};
use super::{Settings, runtime};
use crate::config::budget::{Budget, budget};
use crate::config::{self, Changes, Config, Effective, TimingRule, show_duration, template};
use crate::core::ids::MemberId;
use crate::core::policy::Policy;
use crate::core::records::{ClusterSettings, ClusterState, Slot, Snapshot};
use crate::operator::{Operator, Trouble};

/// What to do with configurations.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print every problem, or what the configuration amounts to
    Check,
    /// Print a commented configuration with all keys and their defaults
    Template,
    /// Print how long recovery takes per fault, worst and typical
    Budget {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Print every key with its value and where it came from
    Show {
        /// As it counts now: what was set for the cluster wins (asks the store)
        #[arg(long)]
        effective: bool,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Change settings of all members while they run: KEY VALUE, as often as wanted
    ///
    /// Keys: timing.* and profile (within the timing rule, all timings at once), synchronous.mode,
    /// synchronous.standbys, failover.maximum_lag_on_failover, failover.failback_after,
    /// failover.on_hung, failover.on_disk_full, and failover.priority with --of. Several go in
    /// together or not at all. Values are as in the environment: 16MiB, 10m, strict
    Set {
        /// A key and its value, and further ones
        #[arg(required = true, num_args = 2.., value_names = ["KEY", "VALUE"])]
        pairs: Vec<String>,
        /// Whose failover.priority it is
        #[arg(long, value_name = "MEMBER")]
        of: Option<MemberId>,
    },
    /// Let every member's own configuration count again
    Unset {
        /// One of the same keys, or `timing` for all timings
        key: String,
        /// Whose failover.priority it is
        #[arg(long, value_name = "MEMBER")]
        of: Option<MemberId>,
    },
}

/// Does what `command` says.
///
/// # Errors
/// The configuration file cannot be read (66), or the configuration is wrong (78); what is to be set is
/// refused (64), or the store does not take it (65, 69, 75, 77).
pub fn config(command: &Command, settings: &Settings) -> Result<(), Failure> {
    match command {
        Command::Check => output::print(&summary(&settings.load()?.config)),
        Command::Template => output::print(template().trim_end()),
        Command::Budget { output } => show_budget(&settings.load()?.config, *output),
        Command::Show { effective: false, output } => show(&settings.load()?.effective, *output),
        Command::Show { effective: true, output } => show_effective(settings, *output),
        Command::Set { pairs, of } => {
            let changes = changes(pairs, of.as_ref()).map_err(usage)?;
            change(settings, |set, own| changes.apply(set, own))
        }
        Command::Unset { key, of } => {
            let unset = |set: &ClusterSettings| config::unset_for_cluster(set, key, of.as_ref());
            // What is wrong in itself is said before anybody is asked.
            unset(&ClusterSettings::default()).map_err(usage)?;
            change(settings, |set, _| unset(set))
        }
    }
}

fn summary(config: &Config) -> String {
    let rule = TimingRule::of(&config.policy);
    let policy = &config.policy;
    let spare = rule.allowed.saturating_sub(rule.needed);
    let until = policy.less_drift(policy.lease_duration);
    let after = |less: Duration| show_duration(until.saturating_sub(less));
    [
        "ok".to_owned(),
        format!(
            "member {} of cluster {}, store {}, profile {}",
            config.member,
            config.cluster_id,
            config.store.backend(),
            config.profile.name()
        ),
        format!("timing rule: {rule}; {} to spare", show_duration(spare)),
        format!(
            "after the last renewal: fencing starts by {}, the watchdog kills at {}, a candidate may \
             take over after {}",
            after(policy.safety_margin + policy.fence_timeout),
            after(policy.safety_margin + policy.kill_allowance()),
            show_duration(policy.failover_timeout(policy.lease_duration)),
        ),
    ]
    .join("\n")
}

fn show_budget(config: &Config, format: Format) -> Result<(), Failure> {
    let budget = budget(&config.policy);
    output::print(&match format {
        Format::Table => budget_table(&budget),
        Format::Json => output::json(&budget)?,
        Format::Yaml => output::yaml(&budget)?,
    })
}

fn budget_table(budget: &Budget) -> String {
    let time = |time: Option<Duration>| {
        time.map_or_else(|| "until mended".to_owned(), |time| show_duration(rounded(time)))
    };
    let rows = budget
        .rows
        .iter()
        .map(|row| vec![row.fault.name().to_owned(), time(row.typical), time(row.worst)]);
    let mut text = output::table(&["FAULT", "TYPICAL", "WORST"], rows);
    text.push_str("\n\nworst:\n");
    for row in &budget.rows {
        text.push_str(&format!("  {}: {}\n    {}\n", row.fault.name(), row.formula, row.note));
    }
    text.push_str("\nassumed:\n");
    for assumption in &budget.assumptions {
        text.push_str(&format!("  {assumption}\n"));
    }
    text.trim_end().to_owned()
}

/// To whole milliseconds: finer figures would claim to know more than the assumptions do.
fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn show(effective: &[Effective], format: Format) -> Result<(), Failure> {
    let rows = effective
        .iter()
        .map(|entry| vec![entry.key.to_owned(), entry.value.clone(), entry.origin.clone()]);
    output::print(&match format {
        Format::Table => output::table(&["KEY", "VALUE", "FROM"], rows),
        Format::Json => output::json(&effective)?,
        Format::Yaml => output::yaml(&effective)?,
    })
}

fn show_effective(settings: &Settings, format: Format) -> Result<(), Failure> {
    let loaded = settings.load()?;
    let snapshot = runtime()?.block_on(async {
        let operator = Operator::open(&loaded.config).await?;
        operator.read().await
    });
    let snapshot = snapshot.map_err(failure)?;
    let set = match &snapshot.cluster {
        Slot::Absent => return Err(failure(Trouble::NoCluster)),
        Slot::Invalid { why, .. } => return Err(failure(Trouble::Unreadable(why.to_string()))),
        Slot::Valid { record, .. } => &record.settings,
    };
    show(&config::effective(&loaded.effective, set, &loaded.config.member), format)
}

fn usage(why: String) -> Failure {
    Failure::new(Code::Usage, why)
}

fn changes(pairs: &[String], member: Option<&MemberId>) -> Result<Changes, String> {
    let (whole, rest) = pairs.as_chunks::<2>();
    if let [key] = rest {
        return Err(format!("{key} has no value; write KEY VALUE, as often as wanted"));
    }
    let pairs = whole.iter().map(|[key, value]| (key.as_str(), value.as_str()));
    Changes::parse(pairs, member.cloned())
}

/// How long the primary is given to show that it has read what was set.
const HEARD: Duration = Duration::from_secs(5);

/// Changes what is set for the cluster, and waits until its primary counts by it.
fn change(
    settings: &Settings,
    wanted: impl Fn(&ClusterSettings, &Policy) -> Result<ClusterSettings, String>,
) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let config = settings.read()?.config;
        let mut operator = Operator::open(&config).await.map_err(failure)?;
        let put = |snapshot: &Snapshot, cluster: ClusterState| {
            let settings = wanted(&cluster.settings, &config.policy)?;
            for member in settings.priorities.keys() {
                let new = !cluster.settings.priorities.contains_key(member);
                let known = cluster.members.contains_key(member)
                    || snapshot.heartbeats.contains_key(member);
                if new && !known {
                    return Err(format!("there is no member {member}"));
                }
            }
            let changes = settings != cluster.settings;
            Ok(changes.then_some(ClusterState { settings, ..cluster }))
        };
        if !operator.change(put).await.map_err(failure)? {
            return output::print("nothing to change");
        }
        let heard = until_heard(&operator).await?;
        output::print(&match heard {
            Some(holder) => format!(
                "set; {holder}, the primary, counts by it, and nobody takes over who has not read it"
            ),
            None => "set; no primary has shown yet that it counts by it: each agent does from its next \
                     read of the store on, and nobody takes over who has not read what the primary knew"
                .to_owned(),
        })
    })
}

/// The holder of the lease, once that says that its holder knows the description as it is now.
async fn until_heard(operator: &Operator) -> Result<Option<MemberId>, Failure> {
    let end = Instant::now() + HEARD;
    loop {
        let snapshot = operator.read().await.map_err(failure)?;
        let lease = snapshot.lease.record().filter(|lease| lease.released.is_none());
        if let Some(lease) = lease.filter(|lease| lease.described >= snapshot.cluster.revision()) {
            return Ok(Some(lease.holder.clone()));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
