//! Metrics of an agent, in OpenMetrics text. The driver calls the update functions; `/metrics` prints.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::core::event::{
    Action, ActionOutcome, Alarm, State, Transition, WatchdogStatus, WriteOutcome,
};
use crate::core::ids::Epoch;

/// All metrics. Clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    state: Family<StateLabel, Gauge>,
    epoch: Gauge<u64, AtomicU64>,
    lease_seconds_left: Gauge<f64, AtomicU64>,
    lease_staleness_seconds: Gauge<f64, AtomicU64>,
    heartbeats: Family<OutcomeLabel, Counter>,
    transitions: Family<TransitionLabels, Counter>,
    phases: Family<PhaseLabel, Histogram>,
    replication_lag_bytes: Gauge<u64, AtomicU64>,
    store_operations: Family<OperationLabels, Counter>,
    store_latency: Family<KindLabel, Histogram>,
    watchdog_up: Gauge,
    paused: Gauge,
    synchronous: Gauge,
    alarms: Family<AlarmLabel, Counter>,
    actions: Family<ActionLabels, Counter>,
    promises: Family<OutcomeLabel, Counter>,
    hook_runs: Family<HookLabels, Counter>,
}

/// A part of a failover, timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the last sign of the old primary to the decision.
    Detect,
    /// From the decision to an applied acquisition.
    Acquire,
    /// From the acquisition to a promoted database.
    Promote,
    /// From the order to fence to its proof.
    Fence,
    /// From the proof of a planned stop to a standby, where databases are demoted.
    Demote,
    /// From the start of a rejoin to following.
    Rejoin,
    /// From promotion to the first write of ours.
    FirstWrite,
}

impl Phase {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Acquire => "acquire",
            Self::Promote => "promote",
            Self::Fence => "fence",
            Self::Demote => "demote",
            Self::Rejoin => "rejoin",
            Self::FirstWrite => "first_write",
        }
    }

    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Detect,
        Self::Acquire,
        Self::Promote,
        Self::Fence,
        Self::Demote,
        Self::Rejoin,
        Self::FirstWrite,
    ];
}

/// An operation of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// A read; its outcome is "ok", "unavailable" or "rejected".
    Read(&'static str),
    /// A write.
    Write(&'static str),
}

impl StoreOperation {
    /// A write with this outcome.
    pub fn written(outcome: &WriteOutcome) -> Self {
        Self::Write(write_outcome(outcome))
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TransitionLabels {
    from: &'static str,
    to: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AlarmLabel {
    alarm: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HookLabels {
    hook: &'static str,
    outcome: &'static str,
}

/// How the run of a hook may end; a dropped one was never begun.
const HOOK_OUTCOMES: [&str; 6] = ["ok", "failed", "timed_out", "not_begun", "cancelled", "dropped"];

impl Metrics {
    /// New metrics, all at zero. Series whose labels are known beforehand exist from the start, so
    /// that a first alarm or failed heartbeat shows as an increase.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            state: Family::default(),
            epoch: Gauge::default(),
            lease_seconds_left: Gauge::default(),
            lease_staleness_seconds: Gauge::default(),
            heartbeats: Family::default(),
            transitions: Family::default(),
            phases: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 18))
            }),
            replication_lag_bytes: Gauge::default(),
            store_operations: Family::default(),
            store_latency: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
            }),
            watchdog_up: Gauge::default(),
            paused: Gauge::default(),
            synchronous: Gauge::default(),
            alarms: Family::default(),
            actions: Family::default(),
            promises: Family::default(),
            hook_runs: Family::default(),
        };
        metrics.registry = Arc::new(metrics.registry());
        metrics.create_series();
        metrics
    }

    fn registry(&self) -> Registry {
        let mut all = Registry::with_prefix("harmony");
        all.register("state", "1 for the state the member is in", self.state.clone());
        all.register("epoch", "Epoch the agent knows", self.epoch.clone());
        all.register(
            "lease_seconds_left",
            "Seconds this member may go on writing without a renewal; 0 when it does not hold the lease",
            self.lease_seconds_left.clone(),
        );
        all.register(
            "lease_staleness_seconds",
            "Seconds since the lease's revision was last seen to change",
            self.lease_staleness_seconds.clone(),
        );
        all.register("heartbeats", "Renewals and heartbeats by outcome", self.heartbeats.clone());
        all.register("transitions", "Transitions by states and reason", self.transitions.clone());
        all.register("phase_seconds", "Duration of the phases of a failover", self.phases.clone());
        all.register(
            "replication_lag_bytes",
            "Bytes this member is behind the primary",
            self.replication_lag_bytes.clone(),
        );
        all.register("store_operations", "Operations of the store", self.store_operations.clone());
        all.register(
            "store_latency_seconds",
            "Time an operation of the store took",
            self.store_latency.clone(),
        );
        all.register("watchdog_up", "1 while the watchdog runs", self.watchdog_up.clone());
        all.register(
            "synchronous_members",
            "Members that have every acknowledged commit, by the lease; 0: commits wait for nobody",
            self.synchronous.clone(),
        );
        all.register("paused", "1 while automatic transitions are paused", self.paused.clone());
        all.register("alarms", "Alarms by kind, one per onset", self.alarms.clone());
        all.register("actions", "Actions on the database by outcome", self.actions.clone());
        all.register(
            "promises",
            "Other members' answers when asked not to take over while the store is away",
            self.promises.clone(),
        );
        all.register("hook_runs", "Runs of hooks by outcome", self.hook_runs.clone());
        let build =
            [("version", env!("CARGO_PKG_VERSION")), ("architecture", std::env::consts::ARCH)];
        all.register("build", "The program", Info::new(build.to_vec()));
        all
    }

    fn create_series(&self) {
        for state in State::ALL {
            drop(self.state.get_or_create(&StateLabel { state: state.name() }));
        }
        for outcome in ["applied", "refused", "unknown", "not_sent", "rejected"] {
            drop(self.heartbeats.get_or_create(&OutcomeLabel { outcome }));
        }
        for outcome in ["granted", "refused"] {
            drop(self.promises.get_or_create(&OutcomeLabel { outcome }));
        }
        for phase in Phase::ALL {
            drop(self.phases.get_or_create(&PhaseLabel { phase: phase.name() }));
        }
        for alarm in Alarm::ALL {
            drop(self.alarms.get_or_create(&AlarmLabel { alarm: alarm.name() }));
        }
    }

    /// The member is in `state`.
    pub fn set_state(&self, state: State) {
        for each in State::ALL {
            let label = StateLabel { state: each.name() };
            self.state.get_or_create(&label).set(i64::from(each == state));
        }
    }

    /// The agent knows `epoch`.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.epoch.set(epoch.0);
    }

    /// The lease: how long this member may go on (zero when it does not hold it), and how long its
    /// revision has not changed.
    pub fn set_lease(&self, left: Duration, staleness: Duration) {
        self.lease_seconds_left.set(left.as_secs_f64());
        self.lease_staleness_seconds.set(staleness.as_secs_f64());
    }

    /// A renewal or heartbeat ended.
    pub fn heartbeat(&self, outcome: &WriteOutcome) {
        let outcome = write_outcome(outcome);
        self.heartbeats.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A transition happened; also sets the state.
    pub fn transition(&self, transition: &Transition) {
        let labels = TransitionLabels {
            from: transition.from.name(),
            to: transition.to.name(),
            reason: transition.reason.name(),
        };
        self.transitions.get_or_create(&labels).inc();
        self.set_state(transition.to);
    }

    /// A phase of a failover ended after `duration`.
    pub fn phase(&self, phase: Phase, duration: Duration) {
        self.phases
            .get_or_create(&PhaseLabel { phase: phase.name() })
            .observe(duration.as_secs_f64());
    }

    /// This member is `bytes` behind the primary.
    pub fn set_replication_lag(&self, bytes: u64) {
        self.replication_lag_bytes.set(bytes);
    }

    /// An operation of the store ended after `duration`.
    pub fn store_operation(&self, operation: StoreOperation, duration: Duration) {
        let (kind, outcome) = match operation {
            StoreOperation::Read(outcome) => ("read", outcome),
            StoreOperation::Write(outcome) => ("write", outcome),
        };
        self.store_operations.get_or_create(&OperationLabels { kind, outcome }).inc();
        self.store_latency.get_or_create(&KindLabel { kind }).observe(duration.as_secs_f64());
    }

    /// Automatic transitions are paused, or not.
    pub fn set_paused(&self, paused: bool) {
        self.paused.set(i64::from(paused));
    }

    /// So many members have every acknowledged commit.
    pub fn set_synchronous(&self, members: usize) {
        self.synchronous.set(i64::try_from(members).unwrap_or(i64::MAX));
    }

    /// The watchdog's state changed.
    pub fn set_watchdog(&self, status: WatchdogStatus) {
        self.watchdog_up.set(match status {
            WatchdogStatus::Down => 0,
            WatchdogStatus::Idle | WatchdogStatus::Armed(_) => 1,
        });
    }

    /// An alarm was raised.
    pub fn alarm(&self, alarm: Alarm) {
        self.alarms.get_or_create(&AlarmLabel { alarm: alarm.name() }).inc();
    }

    /// Another member answered when asked for a promise.
    pub fn promise(&self, granted: bool) {
        let outcome = if granted { "granted" } else { "refused" };
        self.promises.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A hook is configured: its series exist from now on.
    pub fn hook_exists(&self, hook: &'static str) {
        for outcome in HOOK_OUTCOMES {
            drop(self.hook_runs.get_or_create(&HookLabels { hook, outcome }));
        }
    }

    /// A hook ran, or was dropped.
    pub fn hook(&self, hook: &'static str, outcome: &'static str) {
        self.hook_runs.get_or_create(&HookLabels { hook, outcome }).inc();
    }

    /// An action on the database ended.
    pub fn action(&self, action: &Action, outcome: &ActionOutcome) {
        let outcome = match outcome {
            ActionOutcome::Applied(_) => "applied",
            ActionOutcome::Refused(_) => "refused",
            ActionOutcome::Unknown(_) => "unknown",
        };
        self.actions.get_or_create(&ActionLabels { action: action.name(), outcome }).inc();
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// A metric could not be written, which would be a mistake of ours.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn write_outcome(outcome: &WriteOutcome) -> &'static str {
    match outcome {
        WriteOutcome::Applied(_) => "applied",
        WriteOutcome::Refused => "refused",
        WriteOutcome::Unknown { may_land: true, .. } => "unknown",
        WriteOutcome::Unknown { may_land: false, .. } => "not_sent",
        WriteOutcome::Rejected(_) => "rejected",
    }
}
