//! What reaches the core and what the core asks for.

mod database;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hook::HookOutcome;
use super::ids::{Epoch, Incarnation, MemberId, OpId, Revision, SystemId};
use super::journal::Report;
use super::policy::Policy;
use super::promise::{Bound, PromiseAnswer, PromiseRequest};
use super::records::{Address, Key, Record, Snapshot};
use super::time::Instant;
pub use database::{
    Action, ActionOutcome, Condition, Done, FenceProof, Ladder, Observation, Process, Upstream,
    Word,
};

/// Where a member is in its workflow (`docs/protocol.md`, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Start-up reconciliation of a database that was, or is, a primary.
    PrimaryInitializing,
    /// Lease held, database writable.
    PrimaryHealthy,
    /// Fencing runs.
    PrimaryFailed,
    /// Confirmed not writable.
    PrimaryFenced,
    /// Handing over, or rejoining after having been deposed.
    PrimaryYielding,
    /// Becoming a standby of the current primary.
    ReplicaInitializing,
    /// Following, and ready to take over when eligible.
    ReplicaWatching,
    /// Lease won; promotion runs.
    ReplicaPromoting,
    /// Not a candidate; keeps trying to recover.
    ReplicaFailed,
}

impl State {
    /// Stable name for logs, metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::PrimaryInitializing => "primary_initializing",
            Self::PrimaryHealthy => "primary_healthy",
            Self::PrimaryFailed => "primary_failed",
            Self::PrimaryFenced => "primary_fenced",
            Self::PrimaryYielding => "primary_yielding",
            Self::ReplicaInitializing => "replica_initializing",
            Self::ReplicaWatching => "replica_watching",
            Self::ReplicaPromoting => "replica_promoting",
            Self::ReplicaFailed => "replica_failed",
        }
    }

    /// Every state, in order.
    pub const ALL: [Self; 9] = [
        Self::PrimaryInitializing,
        Self::PrimaryHealthy,
        Self::PrimaryFailed,
        Self::PrimaryFenced,
        Self::PrimaryYielding,
        Self::ReplicaInitializing,
        Self::ReplicaWatching,
        Self::ReplicaPromoting,
        Self::ReplicaFailed,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A compare-and-set of one record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreWrite {
    /// The key.
    pub key: Key,
    /// The revision it was decided on; `None`: never written.
    pub expected: Option<Revision>,
    /// The new record.
    pub record: Record,
    /// Number of this write within the agent's boot. Sent again after an unknown outcome, a write
    /// keeps it, and everything else.
    pub number: u64,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteOutcome {
    /// It is in the store.
    Applied(Revision),
    /// Somebody else wrote first: it is not in the store and will not be.
    Refused,
    /// Not known.
    Unknown {
        /// False when it certainly was not sent.
        may_land: bool,
        /// What was seen, for logs.
        cause: String,
    },
    /// It did not land, and trying again changes nothing until an operator mends the cause: the
    /// store denies access, is full, or is another one. For the lease this is no better than unknown.
    Rejected(String),
}

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadFailure {
    /// No answer.
    Unavailable(String),
    /// The bucket is not the one we opened, or lets us not in: an operator has to mend it.
    Rejected(String),
}

/// What no restart may forget: a store that shows less is rolled back, another incarnation a
/// replaced one, and neither is obeyed (`docs/protocol.md`, section 9).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Floor {
    /// Incarnation of the store.
    pub incarnation: Incarnation,
    /// Highest epoch seen.
    pub epoch: Epoch,
    /// Highest lease revision seen.
    pub revision: Revision,
    /// Identity of the data, once known.
    pub system: Option<SystemId>,
    /// The holder that this member may have promised not to take over from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

/// The watchdog process beside the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WatchdogStatus {
    /// Not running or not answering.
    Down,
    /// Running, with no deadline armed.
    Idle,
    /// Running; it kills the instance at the deadline.
    Armed(Instant),
}

/// What the watchdog is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// Kill the instance at this time unless told otherwise before.
    Until(Instant, Epoch),
    /// The instance is proven down, or is no primary: nothing to guard.
    Released,
}

/// What to do with the database when the agent is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownMode {
    /// Give the lease to a fit replica; without one, fence and release.
    HandOver,
    /// PostgreSQL goes on; the next agent continues the lease.
    LeaveRunning,
}

/// Something happened.
#[allow(clippy::large_enum_variant, reason = "one value at a time passes through the driver")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The deadline passed.
    Tick,
    /// The store may have changed.
    Changed,
    /// Answer to [`Effect::Read`].
    Read(OpId, Result<Snapshot, ReadFailure>),
    /// Answer to [`Effect::Write`].
    Written(OpId, WriteOutcome),
    /// Answer to [`Effect::Act`].
    Acted(OpId, ActionOutcome),
    /// Answer to [`Effect::BeforePromote`].
    HookEnded(OpId, HookOutcome),
    /// Answer to [`Effect::Remember`]: false when the file could not be written.
    Remembered(OpId, bool),
    /// A look at the database. One that was begun before the last completion handed in as
    /// [`Event::Acted`] must not be handed in after it: what it saw is not so any more.
    Observed(Observation),
    /// The postmaster ended. At most once for each one; not for one that had ended before the last
    /// completed action.
    Died,
    /// The watchdog's state changed.
    Watchdog(WatchdogStatus),
    /// A holder asks us for a promise; answered by [`Effect::Promise`] with the same number.
    PromiseAsked(u64, PromiseRequest),
    /// An answer to [`Effect::AskPromises`]. It may be late, repeated, or never come.
    PromiseAnswered(PromiseAnswer),
    /// Stop the agent.
    Shutdown(ShutdownMode),
    /// Settings were read again.
    Reconfigured(Policy),
}

/// Something to do. Effects of one step start in order; "after" is never expressed by order.
#[allow(clippy::large_enum_variant, reason = "few, and soon taken apart")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Read all records.
    Read(OpId, Duration),
    /// Write one record; give up as unknown after the duration.
    Write(OpId, StoreWrite, Duration),
    /// Do something to the database, in the name of an epoch, within the duration.
    Act(OpId, Action, Epoch, Duration),
    /// Run the `before_promote` hook for this transition, within the duration. It ends, too, with its
    /// transition's epoch.
    BeforePromote(OpId, Transition, Duration),
    /// Stop an action. It still answers, with whatever became of it.
    Cancel(OpId),
    /// Cancel every action and hook of epochs before this one.
    EpochEnded(Epoch),
    /// Look at the database now, instead of at the next interval.
    Observe,
    /// Write the floor to disk and flush it.
    Remember(OpId, Floor),
    /// Tell the watchdog.
    Guard(Guard),
    /// Ask these members directly for a promise; give up after the duration.
    AskPromises(PromiseRequest, Vec<(MemberId, Address)>, Duration),
    /// Answer to [`Event::PromiseAsked`].
    Promise(u64, PromiseAnswer),
    /// A transition; the only source of transition logs, metrics and journal.
    Became(Transition),
    /// Write a report into the journal, if that is possible without holding anything up. Not answered.
    Report(Box<Report>),
    /// Somebody should look; once per onset.
    Alarm(Alarm),
    /// The agent may stop now.
    Exit(Exit),
}

/// One transition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transition {
    /// State left.
    pub from: State,
    /// State entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// Epoch in which it happened.
    pub epoch: Epoch,
}

/// Why the agent stops.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It was told to, and is done.
    Asked,
    /// It was told to, and could not make sure in time that the database is down; the watchdog will.
    Overdue,
    /// Another agent with this member name is alive elsewhere.
    NameTaken(String),
}

pub use super::reason::{Alarm, Reason};
