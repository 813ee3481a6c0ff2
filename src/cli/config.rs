//! `harmony-agent config …`: check, explain and write configurations.

use std::time::Duration;

use clap::Subcommand;

use super::exit::{Code, Failure};
use super::order::failure;
use super::output::{self, Format};
use super::{Settings, runtime};
use crate::config::budget::{Budget, budget};
use crate::config::{self, Config, Effective, TimingRule, show_duration, template};
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
    /// Change a setting of all members while they run
    Set {
        /// failover.maximum_lag_on_failover or failover.failback_after
        key: String,
        /// As in the environment: 16MiB, 10m
        value: String,
    },
    /// Let every member's own configuration count again
    Unset {
        /// The same keys
        key: String,
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
        Command::Set { key, value } => {
            change(settings, |set| config::set_for_cluster(set, key, value))
        }
        Command::Unset { key } => change(settings, |set| config::unset_for_cluster(set, key)),
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
    show(&config::effective(&loaded.effective, set), format)
}

/// Changes what is set for the cluster.
fn change(
    settings: &Settings,
    wanted: impl Fn(&ClusterSettings) -> Result<ClusterSettings, String>,
) -> Result<(), Failure> {
    // What is wrong in itself is said before anybody is asked.
    wanted(&ClusterSettings::default()).map_err(|why| Failure::new(Code::Usage, why))?;
    runtime()?.block_on(async {
        let config = settings.read()?.config;
        let mut operator = Operator::open(&config).await.map_err(failure)?;
        let put = |_: &Snapshot, cluster: ClusterState| {
            let settings = wanted(&cluster.settings)?;
            let changes = settings != cluster.settings;
            Ok(changes.then_some(ClusterState { settings, ..cluster }))
        };
        match operator.change(put).await.map_err(failure)? {
            true => output::print(
                "set; every agent that reaches the store counts by it from its next read on",
            ),
            false => output::print("nothing to change"),
        }
    })
}
