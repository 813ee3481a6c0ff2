//! What is seen of the database, what may be done to it, and what became of that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::ids::{Lsn, MemberId, Site, SystemId, TimelineId};
use crate::core::records::Address;
use crate::core::synchronous::Requirement;
use crate::core::token::Token;

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
    /// The instance that CloudNativePG has act for the site, when that is another one. A standby then does not
    /// take over from another site; a primary that has to hand over does so to that one if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deputy_of: Option<String>,
    /// What a promotion would fail at, known before it is tried: the adapter's words. A standby does not take over
    /// meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hindered: Option<String>,
    /// What a promotion, or on a primary a demotion, has been failing at for a while, and may not any more when one
    /// comes: the adapter's words. Nothing that can wait is begun meanwhile; a failover is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubtful: Option<String>,
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
    /// Where it stands, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
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
        #[serde(with = "crate::core::plain::word")]
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
    #[serde(with = "crate::core::plain::word")]
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
