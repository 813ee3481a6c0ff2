//! How long the cluster is without a writable primary, per fault, with this configuration.
//!
//! The figures follow from the timings alone; the assumptions beside them are what was measured on
//! one machine, and are printed with every budget.

use std::time::Duration;

use serde::Serialize;

use super::value::show_duration;
use crate::core::policy::{Policy, WatchdogMode};

/// One write of the store that meets no trouble.
const WRITE: Duration = Duration::from_millis(5);
/// A hint of the store on its way.
const HINT: Duration = Duration::from_millis(5);
/// A promotion of a standby that has replayed all it received.
const PROMOTE: Duration = Duration::from_millis(30);
/// The same on a busy machine.
const PROMOTE_BUSY: Duration = Duration::from_millis(100);
/// Proof that nothing of a dead instance is left.
const PROOF: Duration = Duration::from_millis(20);
/// A fast shutdown right after a checkpoint.
const STOP: Duration = Duration::from_millis(80);

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Agent and PostgreSQL are gone at once: power, kernel, machine.
    NodeDeath,
    /// The postmaster ends, the agent lives.
    PostgresDeath,
    /// The agent dies or freezes, PostgreSQL lives.
    AgentDeath,
    /// The agent is restarted at once.
    AgentRestart,
    /// The lease is handed over on purpose.
    PlannedStop,
    /// The store does not answer anybody.
    StoreAway,
}

impl Fault {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeDeath => "node death",
            Self::PostgresDeath => "postgres death",
            Self::AgentDeath => "agent death or freeze",
            Self::AgentRestart => "agent restart",
            Self::PlannedStop => "planned stop",
            Self::StoreAway => "store away",
        }
    }
}

/// How long one fault takes to recover from. Times are in milliseconds in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The fault.
    pub fault: Fault,
    /// Time without an acknowledged commit when all goes as it usually does; `None`: until mended.
    #[serde(rename = "typical_ms", serialize_with = "millis")]
    pub typical: Option<Duration>,
    /// The longest such time while no second fault comes; `None`: until mended.
    #[serde(rename = "worst_ms", serialize_with = "millis")]
    pub worst: Option<Duration>,
    /// How `worst` is made up.
    pub formula: String,
    /// What else to know.
    pub note: String,
}

/// The budget of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// One row per fault.
    pub rows: Vec<Row>,
    /// What the figures take for granted.
    pub assumptions: Vec<String>,
}

/// The budget of `policy`.
pub fn budget(policy: &Policy) -> Budget {
    Budget {
        rows: vec![
            node_death(policy),
            postgres_death(policy),
            agent_death(policy),
            agent_restart(),
            planned_stop(policy),
            store_away(policy),
        ],
        assumptions: vec![
            format!(
                "a write of the store takes {}, at worst heartbeat_timeout",
                show_duration(WRITE)
            ),
            format!(
                "a change in the store is seen after {}, at worst heartbeat_interval + heartbeat_timeout",
                show_duration(HINT)
            ),
            format!(
                "a promotion takes {}, at worst {} (a replica with much left to replay takes longer)",
                show_duration(PROMOTE),
                show_duration(PROMOTE_BUSY)
            ),
            "a before_promote hook takes no time, at worst hooks.timeout".to_owned(),
            "the first candidate in line takes over; each one that does not adds takeover_step"
                .to_owned(),
            "clients find the new primary at once".to_owned(),
        ],
    }
}

/// From the moment the lease may be acquired to a writable primary: typical and worst.
fn takeover(policy: &Policy) -> (Duration, Duration) {
    let hook = policy.before_promote.map_or(Duration::ZERO, |hook| hook.limit);
    (WRITE + PROMOTE, policy.heartbeat_timeout + hook + PROMOTE_BUSY)
}

/// The last part of the formulas: a promotion, at worst.
fn promotion(policy: &Policy) -> String {
    let hook = policy.before_promote;
    let hook = hook.map_or(String::new(), |hook| format!("hook {} + ", show_duration(hook.limit)));
    format!("{hook}promote {}", show_duration(PROMOTE_BUSY))
}

/// Until a change in the store is seen, at worst.
fn poll(policy: &Policy) -> Duration {
    policy.heartbeat_interval + policy.heartbeat_timeout
}

fn node_death(policy: &Policy) -> Row {
    let (typical, worst) = takeover(policy);
    let wait = policy.failover_timeout(policy.lease_duration);
    Row {
        fault: Fault::NodeDeath,
        typical: Some((wait + HINT + typical).saturating_sub(policy.heartbeat_interval / 2)),
        worst: Some(wait + poll(policy) + worst),
        formula: format!(
            "lease_duration {} + safety_margin {} + seen {} + acquire {} + {}",
            show_duration(policy.lease_duration),
            show_duration(policy.safety_margin),
            show_duration(poll(policy)),
            show_duration(policy.heartbeat_timeout),
            promotion(policy)
        ),
        note: "counted from the last renewal, which is half a heartbeat_interval old on average"
            .to_owned(),
    }
}

fn postgres_death(policy: &Policy) -> Row {
    let (typical, worst) = takeover(policy);
    Row {
        fault: Fault::PostgresDeath,
        typical: Some(PROOF + WRITE + HINT + typical),
        worst: Some(policy.fence_timeout + policy.heartbeat_timeout + poll(policy) + worst),
        formula: format!(
            "fence {} + release {} + seen {} + acquire {} + {}",
            show_duration(policy.fence_timeout),
            show_duration(policy.heartbeat_timeout),
            show_duration(poll(policy)),
            show_duration(policy.heartbeat_timeout),
            promotion(policy)
        ),
        note: "the lease is given back, not waited out; without a fit replica PostgreSQL is started again"
            .to_owned(),
    }
}

fn agent_death(policy: &Policy) -> Row {
    let (typical, worst) = takeover(policy);
    let held = policy.less_drift(policy.lease_duration);
    let before_end = policy.safety_margin + policy.kill_allowance();
    let killed = held.saturating_sub(before_end);
    let wait = policy.failover_timeout(policy.lease_duration);
    let guarded = policy.watchdog != WatchdogMode::Off;
    let note = if guarded {
        format!(
            "PostgreSQL goes on until the watchdog kills it {} after the last renewal",
            show_duration(killed)
        )
    } else {
        "NOT SAFE with watchdog.mode off: the old PostgreSQL goes on accepting writes".to_owned()
    };
    Row {
        fault: Fault::AgentDeath,
        typical: Some((wait + HINT + typical).saturating_sub(killed)),
        worst: Some((wait + poll(policy) + worst).saturating_sub(killed)),
        formula: format!(
            "lease_duration {} + safety_margin {} + seen {} + acquire {} + {} − killed at {} \
             (lease_duration × (1 − clock_drift) − safety_margin − fence_timeout/4)",
            show_duration(policy.lease_duration),
            show_duration(policy.safety_margin),
            show_duration(poll(policy)),
            show_duration(policy.heartbeat_timeout),
            promotion(policy),
            show_duration(killed)
        ),
        note,
    }
}

fn agent_restart() -> Row {
    Row {
        fault: Fault::AgentRestart,
        typical: Some(Duration::ZERO),
        worst: Some(Duration::ZERO),
        formula: "0: PostgreSQL goes on, the new agent continues the lease".to_owned(),
        note: "as long as it is back before the watchdog's deadline".to_owned(),
    }
}

fn planned_stop(policy: &Policy) -> Row {
    let (typical, worst) = takeover(policy);
    let give = policy.stop_timeout + policy.fence_timeout + policy.heartbeat_timeout;
    Row {
        fault: Fault::PlannedStop,
        typical: Some(STOP + WRITE + HINT + typical),
        worst: Some(give + poll(policy) + worst),
        formula: format!(
            "stop {} + fence {} + release {} + seen {} + acquire {} + {}",
            show_duration(policy.stop_timeout),
            show_duration(policy.fence_timeout),
            show_duration(policy.heartbeat_timeout),
            show_duration(poll(policy)),
            show_duration(policy.heartbeat_timeout),
            promotion(policy)
        ),
        note: format!(
            "a checkpoint comes before the stop; a taker that does not come within hand_over_timeout {} \
             loses its turn",
            show_duration(policy.hand_over_timeout)
        ),
    }
}

fn store_away(policy: &Policy) -> Row {
    let patience = policy.heartbeat_timeout.saturating_mul(policy.failure_threshold);
    let promises = if policy.promises {
        "; with the promise of every other member ridden out for as long as it takes"
    } else {
        ""
    };
    Row {
        fault: Fault::StoreAway,
        typical: None,
        worst: None,
        formula: format!(
            "ridden out for failure_threshold {} × heartbeat_timeout {} = {}; then fenced until the \
             store is back{promises}",
            policy.failure_threshold,
            show_duration(policy.heartbeat_timeout),
            show_duration(patience)
        ),
        note: "nobody can take over without the store".to_owned(),
    }
}

fn millis<S: serde::Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.serialize_some(&u64::try_from(value.as_millis()).unwrap_or(u64::MAX)),
        None => to.serialize_none(),
    }
}
