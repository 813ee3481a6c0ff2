//! What reaches the core and what the core asks for.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hook::HookOutcome;
use super::ids::{Epoch, Incarnation, Lsn, MemberId, OpId, Revision, SystemId, TimelineId};
use super::journal::Report;
use super::policy::Policy;
use super::promise::{Bound, PromiseAnswer, PromiseRequest};
use super::records::{Address, Key, Record, Snapshot};
use super::synchronous::Requirement;
use super::time::Instant;
use super::token::Token;

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

/// What the database adapter saw when it last looked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Observation {
    /// The instance as processes and files.
    pub process: Process,
    /// How it answers.
    pub condition: Condition,
    /// Identity of the data, from SQL or the control file.
    pub system: Option<SystemId>,
    /// Current timeline, from SQL or the control file.
    pub timeline: TimelineId,
    /// Primary: flushed. Standby: received and flushed (or replayed, when nothing was received yet).
    /// Stopped: the end of the log as the control file knows it.
    pub lsn: Lsn,
    /// Standby: replayed. Otherwise as `lsn`.
    pub replayed: Lsn,
    /// Standby: a WAL receiver is streaming.
    pub streaming: bool,
    /// Standby: host and port of the server it is configured to follow.
    pub upstream: Option<(String, u16)>,
    /// The agent has told this server, or this directory's, to wait for standbys.
    #[serde(default)]
    pub required: bool,
    /// Primary: standbys attached, by `application_name` (the member name), with the flushed position.
    pub standbys: Vec<(String, Lsn)>,
}

/// The instance as processes and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    /// There is no data directory, or it is empty.
    Absent,
    /// There is something in the data directory that is not a usable database of ours; the
    /// [`Condition::Broken`] that comes with it says what. Nothing may be written over it.
    Unusable,
    /// Stopped; it would come up as a standby.
    StoppedStandby,
    /// Stopped; it was last a primary and nothing marks it as a standby.
    StoppedPrimary,
    /// The postmaster runs; not known yet as what.
    Running,
    /// Running in recovery: it accepts no writes.
    RunningStandby,
    /// Running out of recovery: it accepts writes.
    RunningPrimary,
    /// The postmaster is gone but processes of the instance are left that could still commit.
    Remnants,
}

impl Process {
    /// Processes of the instance exist.
    pub fn is_running(self) -> bool {
        match self {
            Self::Absent | Self::Unusable | Self::StoppedStandby | Self::StoppedPrimary => false,
            Self::Running | Self::RunningStandby | Self::RunningPrimary | Self::Remnants => true,
        }
    }
}

/// How the database answers. Slow is not dead: a long query, VACUUM or checkpoint stays `Ok`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "condition", content = "detail")]
pub enum Condition {
    /// It answered.
    Ok,
    /// It is not running.
    Stopped,
    /// It starts up or recovers and does not accept connections yet.
    Starting,
    /// It is shutting down.
    Stopping,
    /// No answer, or no finished write probe, or a stopped postmaster, for the configured time, though
    /// the process lives.
    Hung(String),
    /// Writes fail for want of space.
    DiskFull(String),
    /// It lives, but there is no connection left for us.
    ConnectionsExhausted,
    /// It lives, but does not let us in (password, pg_hba.conf).
    Denied(String),
    /// It lives, the last look took too long; not (yet) counted as hung.
    Slow,
    /// It cannot be run as it is: no binaries, wrong owner, another cluster's data, port taken.
    Broken(String),
}

/// A server to follow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Upstream {
    /// The member it belongs to.
    pub member: MemberId,
    /// Where it is.
    pub address: Address,
}

/// Something to do to the database. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// `initdb` into an absent data directory; does not start it. Refused over anything else.
    Bootstrap,
    /// Take a base backup into an absent data directory and start it as a standby.
    Clone {
        /// Where from.
        upstream: Upstream,
    },
    /// Start as a standby, or re-point a running one. Without an upstream it only replays what it has.
    Follow {
        /// Whom to follow.
        upstream: Option<Upstream>,
    },
    /// Make a stopped (or diverged) instance a standby of `upstream`: rewind, else set the old
    /// directory aside and clone; then start it.
    Rejoin {
        /// Whom to follow.
        upstream: Upstream,
    },
    /// Start as a primary an instance that is stopped; a running primary is left as it is.
    StartPrimary,
    /// Promote the running standby and wait until it accepts writes.
    Promote,
    /// Promote the running standby with the token of the primary it takes over from: it has to have all
    /// that the token says before it is promoted. Refused when the token is not for this data.
    PromoteWith {
        /// What the old primary's demotion gave out.
        token: Token,
    },
    /// Make the stopped primary a standby of `to`, and get the token that proves it. Only after a proven
    /// fence that was clean. Refused: it is a primary's site as before, and stopped. Whatever becomes of
    /// it, nothing but [`Action::StartPrimary`] or a promotion makes the database writable again.
    Demote {
        /// Whom to follow.
        to: Upstream,
    },
    /// Have the server acknowledge no commit but by this requirement, from its start on when it is
    /// stopped. Applied only when every process of the server goes by it.
    Require {
        /// What a commit has to wait for.
        requirement: Requirement,
    },
    /// Write dirty pages out while clients still work, so that the stop that follows is short.
    Checkpoint,
    /// Make sure that nothing of the instance is left that could commit: the ladder fast → immediate
    /// → kill, with proof.
    Fence {
        /// When each rung starts, counted from the start of the action, and when all must be done.
        ladder: Ladder,
    },
}

impl Action {
    /// Stable name for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Clone { .. } => "clone",
            Self::Follow { .. } => "follow",
            Self::Rejoin { .. } => "rejoin",
            Self::StartPrimary => "start_primary",
            Self::Promote => "promote",
            Self::PromoteWith { .. } => "promote_with_token",
            Self::Demote { .. } => "demote",
            Self::Require { .. } => "require",
            Self::Checkpoint => "checkpoint",
            Self::Fence { .. } => "fence",
        }
    }

    /// It makes the database writable, or is on the way to that.
    pub fn opens(&self) -> bool {
        self.is_promotion() || matches!(self, Self::StartPrimary | Self::Bootstrap)
    }

    /// It makes a standby writable.
    pub fn is_promotion(&self) -> bool {
        match self {
            Self::Promote | Self::PromoteWith { .. } => true,
            Self::Bootstrap
            | Self::Clone { .. }
            | Self::Follow { .. }
            | Self::Rejoin { .. }
            | Self::StartPrimary
            | Self::Demote { .. }
            | Self::Require { .. }
            | Self::Checkpoint
            | Self::Fence { .. } => false,
        }
    }
}

/// The fencing ladder's timetable, counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ladder {
    /// Until here a fast shutdown may take; zero skips it.
    pub fast: Duration,
    /// Until here an immediate shutdown may take; equal to `fast` skips it. Then everything is killed.
    pub immediate: Duration,
}

/// One of a closed list of words.
pub type Word = &'static str;

/// What an action achieved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Done {
    /// As asked, nothing more to say.
    Done,
    /// Promoted and writable.
    Promoted {
        /// The new timeline.
        timeline: TimelineId,
        /// Where it began.
        lsn: Lsn,
    },
    /// It is a standby of the member named now, or certainly becomes one; nothing brings it up as a
    /// primary.
    Demoted {
        /// The proof of it; without one the next primary is promoted as after a failure.
        token: Option<Token>,
    },
    /// Every commit acknowledged from now on is so by the requirement; what was acknowledged before ends
    /// here.
    Required {
        /// End of what is on the server's own disk; 0 when it is stopped or a standby.
        lsn: Lsn,
    },
    /// No process of the instance is left, the socket refuses, control data read back.
    Fenced(FenceProof),
    /// It is a standby now; how it became one.
    Rejoined {
        /// "rewind", "clone", "start" or "demotion".
        #[serde(with = "super::plain::word")]
        by: Word,
    },
}

/// Proof that a database accepts no write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FenceProof {
    /// It was shut down cleanly: everything it wrote is at or before `lsn`, and was offered to standbys.
    pub clean: bool,
    /// End of its log, as the control file says; for an unclean stop a lower bound.
    pub lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
    /// The rung that did it: "fast", "immediate", "kill", or "down" when it was down already.
    #[serde(with = "super::plain::word")]
    pub rung: Word,
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionOutcome {
    /// It happened.
    Applied(Done),
    /// It did not happen and will not; the text says why.
    Refused(String),
    /// Nobody can say (timed out, cancelled, panicked): observe before anything else.
    Unknown(String),
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
