//! `harmony-agent config …`: check, explain and write configurations.

use std::time::Duration;

use clap::Subcommand;

use super::Settings;
use super::exit::Failure;
use super::output::{self, Format};
use crate::config::budget::{Budget, budget};
use crate::config::{Config, Loaded, TimingRule, show_duration, template};

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
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// Does what `command` says.
///
/// # Errors
/// The configuration file cannot be read (66), or the configuration is wrong (78).
pub fn config(command: &Command, settings: &Settings) -> Result<(), Failure> {
    match command {
        Command::Check => output::print(&summary(&settings.load()?.config)),
        Command::Template => output::print(template().trim_end()),
        Command::Budget { output } => show_budget(&settings.load()?.config, *output),
        Command::Show { output } => show(&settings.load()?, *output),
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
    let rows = budget.rows.iter().map(|row| {
        vec![row.fault.name().to_owned(), time(row.typical), time(row.worst)]
    });
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

fn show(loaded: &Loaded, format: Format) -> Result<(), Failure> {
    let rows = loaded
        .effective
        .iter()
        .map(|entry| vec![entry.key.to_owned(), entry.value.clone(), entry.origin.clone()]);
    output::print(&match format {
        Format::Table => output::table(&["KEY", "VALUE", "FROM"], rows),
        Format::Json => output::json(&loaded.effective)?,
        Format::Yaml => output::yaml(&loaded.effective)?,
    })
}
