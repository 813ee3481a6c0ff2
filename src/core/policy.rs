//! The settings the core decides by.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hook::BeforePromote;
use super::ids::Site;
use super::synchronous::SynchronousMode;
use super::time::Instant;
use super::timing::less_drift;

/// Whether a watchdog process is a condition of leadership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchdogMode {
    /// None is started.
    Off,
    /// One is started; leadership goes on without it while it is being restarted.
    #[default]
    Automatic,
    /// No leadership without one.
    Required,
}

/// What to do about a database that lives but does not work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    /// Raise an alarm and go on.
    #[default]
    Alert,
    /// Raise an alarm, and hand over when a healthy candidate exists.
    FailOver,
}

/// Timings and rules, checked by `config` before they get here (`docs/protocol.md`, section 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// Time between renewals and heartbeats.
    pub heartbeat_interval: Duration,
    /// Limit of one store operation.
    pub heartbeat_timeout: Duration,
    /// Renewals in a row that may fail before the primary fences itself.
    pub failure_threshold: u32,
    /// All that fencing may take.
    pub fence_timeout: Duration,
    /// Time between the latest end of fencing and the earliest takeover.
    pub safety_margin: Duration,
    /// How long an applied renewal gives the right to write.
    pub lease_duration: Duration,
    /// Clocks of two machines drift apart by at most this, in parts per million.
    pub clock_drift_ppm: u32,
    /// The n-th candidate in line waits n of these more.
    pub takeover_step: Duration,
    /// A replica further behind than this does not take over, in bytes.
    pub maximum_lag_on_failover: u64,
    /// Preference of this member; 0 means never.
    pub priority: u8,
    /// Where this member stands.
    #[serde(default)]
    pub site: Option<Site>,
    /// This member may initialise an empty cluster.
    pub may_bootstrap: bool,
    /// After a failed promotion this member waits so long before it is a candidate again.
    pub cool_down: Duration,
    /// The lease goes back to a member of higher priority once that has been fit to take over for so
    /// long; `None`: only when a person says so.
    #[serde(default)]
    pub failback_after: Option<Duration>,
    /// After a hand-over the old primary waits so long for a taker before it takes the lease back.
    pub hand_over_timeout: Duration,
    /// Limit of a planned stop (fast shutdown while the lease is still being renewed).
    pub stop_timeout: Duration,
    /// Limit of starting PostgreSQL, crash recovery included, before the lease is released instead.
    pub start_timeout: Duration,
    /// Limit of a promotion, its hook included.
    pub promote_timeout: Duration,
    /// The hook that a promotion waits for, if there is one.
    #[serde(default)]
    pub before_promote: Option<BeforePromote>,
    /// Limit of a rewind or clone.
    pub rejoin_timeout: Duration,
    /// While the store does not answer, the other members' promises may extend the lease.
    pub promises: bool,
    /// Whether a watchdog is a condition.
    pub watchdog: WatchdogMode,
    /// Whether commits wait for standbys.
    #[serde(default)]
    pub synchronous: SynchronousMode,
    /// For how many, when there are so many.
    #[serde(default = "one")]
    pub synchronous_standbys: u8,
    /// What to do when the database hangs.
    pub on_hung: Reaction,
    /// What to do when its disk is full.
    pub on_disk_full: Reaction,
    /// This kind of database is made a standby, in an orderly way, before its lease is released as
    /// planned.
    #[serde(default)]
    pub demotes: bool,
    /// Bound of the whole shutdown of the agent.
    pub shutdown_timeout: Duration,
}

fn one() -> u8 {
    1
}

impl Policy {
    /// `duration` less the clock drift allowed.
    pub fn less_drift(&self, duration: Duration) -> Duration {
        less_drift(duration, self.clock_drift_ppm)
    }

    /// End of the right to write that a renewal sent at `sent`, publishing `duration`, gives.
    pub fn lease_until(&self, sent: Instant, duration: Duration) -> Instant {
        sent + self.less_drift(duration)
    }

    /// Latest start of fencing for a lease that ends at `until` and was published with these timings.
    pub fn fence_at(&self, until: Instant) -> Instant {
        until - self.fence_lead()
    }

    /// How long before a lease's end fencing has to start.
    pub fn fence_lead(&self) -> Duration {
        self.safety_margin + self.fence_timeout
    }

    /// When the watchdog kills for a lease that ends at `until`: it needs only the ladder's last rung.
    pub fn guard_at(&self, until: Instant) -> Instant {
        until - self.safety_margin - self.kill_allowance()
    }

    /// The last rung's share of the fencing time.
    pub fn kill_allowance(&self) -> Duration {
        self.fence_timeout / 4
    }

    /// How long the primary waits for what a member lacks that a person wants in its place, before it
    /// refuses it.
    pub fn order_patience(&self) -> Duration {
        self.heartbeat_interval * 2
    }

    /// Time a candidate lets pass without a sign of a holder that published `lease_duration`.
    pub fn failover_timeout(&self, lease_duration: Duration) -> Duration {
        lease_duration + self.safety_margin
    }
}
