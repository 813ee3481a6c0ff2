//! What an agent says about itself and its cluster: the body of `/status`.

use serde::{Deserialize, Serialize};

use crate::core::event::{Condition, Observation, Process, State};
use crate::core::ids::{ClusterId, Epoch, Incarnation, Lsn, MemberId, Revision, Site, TimelineId};
use crate::core::order::{Answer, Order};
use crate::core::reason::{Alarm, Reason};
use crate::core::records::Address;
use crate::core::synchronous::{Requirement, SynchronousMode};

/// One agent's view, complete in itself. Times are seconds before the view was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The member whose agent this is.
    pub member: MemberId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Where it is in its workflow.
    pub state: State,
    /// The epoch it knows.
    pub epoch: Epoch,
    /// It holds the lease and its database is the primary.
    pub is_primary: bool,
    /// Its database was seen to accept writes, under an unexpired lease of its own.
    pub writable: bool,
    /// The lease as it last saw it.
    pub lease: LeaseView,
    /// Seconds since the lease's revision last changed, as observed here.
    pub staleness_seconds: Option<f64>,
    /// The store.
    pub store: StoreView,
    /// The database as last looked at; `None` before the first look.
    pub database: Option<Observation>,
    /// The watchdog.
    pub watchdog: WatchdogView,
    /// Every member known, this one included, in order of names.
    pub members: Vec<MemberView>,
    /// What this member's database is being brought back with, while it is.
    #[serde(default)]
    pub progress: Option<ProgressView>,
    /// The last transition of this member.
    pub last_transition: Option<TransitionView>,
    /// Who would take over if the primary died now, best first.
    #[serde(default)]
    pub line: Vec<MemberId>,
    /// Seconds from the primary's last sign until the first in line may take over.
    #[serde(default)]
    pub failover_seconds: f64,
    /// Seconds that each one further in line waits more.
    #[serde(default)]
    pub takeover_step_seconds: f64,
    /// If the primary died now: who takes over, when, what may be lost.
    pub takeover: String,
    /// Synchronous replication.
    #[serde(default)]
    pub synchronous: SynchronousView,
    /// Why automatic transitions are paused, while they are.
    #[serde(default)]
    pub paused: Option<PauseView>,
    /// The change of primary that a person asked for, while it is open.
    #[serde(default)]
    pub order: Option<Order>,
    /// Seconds until its time has come, by the store's clock, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_due_in_seconds: Option<f64>,
    /// What became of the latest one.
    #[serde(default)]
    pub answer: Option<Answer>,
    /// What somebody should look at.
    pub alarms: Vec<Alarm>,
    /// What is not obeyed, and why.
    #[serde(default)]
    pub not_obeyed: Vec<NotObeyed>,
    /// Version of the agent.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_seconds: f64,
}

/// Synchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SynchronousView {
    /// This member's setting; the primary's is the one that counts.
    pub mode: SynchronousMode,
    /// Members that have every acknowledged commit, by the lease; empty: commits wait for nobody.
    pub members: Vec<MemberId>,
    /// What this member's server is known to wait for; `None` while the agent has not told it anything.
    pub requirement: Option<Requirement>,
}

/// The lease.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Who may write; `None` when nobody may, or nobody knows.
    pub holder: Option<MemberId>,
    /// Seconds that the holder may go on; only known by the holder itself.
    pub seconds_left: Option<f64>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its revision in the store.
    pub revision: Option<Revision>,
}

/// How far a copy or a rewind is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressView {
    /// What is done now.
    pub step: String,
    /// Bytes done of it, where that is known.
    pub done_bytes: Option<u64>,
    /// Bytes it is about, where that is known.
    pub total_bytes: Option<u64>,
}

/// A pause of automatic transitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PauseView {
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub by: String,
    /// It ends by itself.
    pub ends: bool,
    /// Seconds until then, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_seconds: Option<f64>,
}

/// Something that is read, but not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotObeyed {
    /// "store", the key of a record in it, or "data_dir".
    pub what: String,
    /// What was read and which rule it breaks.
    pub why: String,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreView {
    /// An operation would be tried now.
    pub connected: bool,
    /// The latest trouble.
    pub trouble: Option<String>,
    /// "memory", "sqlite" or "nats".
    pub backend: String,
    /// Which life of the store it is, once known.
    pub incarnation: Option<Incarnation>,
}

/// The watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchdogView {
    /// None is wanted.
    Off,
    /// One is wanted and does not run.
    Down,
    /// It runs and guards nothing.
    Idle,
    /// It runs and kills the database at its deadline.
    Armed,
}

/// What a member is for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It holds the lease.
    Primary,
    /// It follows.
    Replica,
    /// It has not been heard of.
    Unknown,
}

impl Role {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Unknown => "unknown",
        }
    }
}

/// One member as this agent sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub member: MemberId,
    /// What it is for the others.
    pub role: Role,
    /// Its own word on its state.
    pub state: Option<State>,
    /// Its preference as a candidate; 0 means never.
    pub priority: u8,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    /// A person wants it not to take over.
    #[serde(default)]
    pub drained: bool,
    /// Bytes behind the primary.
    pub lag: Option<u64>,
    /// Timeline of its log.
    pub timeline: Option<TimelineId>,
    /// Position of its log.
    pub lsn: Option<Lsn>,
    /// Why it would not take over; `null` when it would, or is the primary.
    pub ineligible: Option<String>,
    /// What keeps the primary from handing over to it now, but for a failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubtful: Option<String>,
    /// Seconds since it was last heard of.
    pub age_seconds: Option<f64>,
    /// Where it is reached.
    pub address: Option<Address>,
}

/// A transition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransitionView {
    /// State left.
    pub from: State,
    /// State entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// How many seconds ago.
    pub seconds_ago: f64,
}

impl View {
    /// Why this member should get no traffic; `None` when it is a primary that may write, or a
    /// replica that follows.
    pub fn unready(&self) -> Option<String> {
        match self.state {
            State::PrimaryHealthy => self.unready_primary(),
            State::ReplicaWatching => self.unready_replica(),
            State::PrimaryInitializing
            | State::PrimaryFailed
            | State::PrimaryFenced
            | State::PrimaryYielding
            | State::ReplicaInitializing
            | State::ReplicaPromoting
            | State::ReplicaFailed => Some(format!("the member is {}", self.state)),
        }
    }

    fn unready_primary(&self) -> Option<String> {
        if self.lease.holder.as_ref() != Some(&self.member) {
            return Some("the lease is not held by this member".to_owned());
        }
        if self.lease.seconds_left.is_none_or(|left| left <= 0.0) {
            return Some("the lease has run out".to_owned());
        }
        (!self.writable).then(|| "the database is not known to accept writes".to_owned())
    }

    fn unready_replica(&self) -> Option<String> {
        let Some(database) = &self.database else {
            return Some("the database has not been looked at yet".to_owned());
        };
        if database.process != Process::RunningStandby {
            return Some("the database does not run as a standby".to_owned());
        }
        match &database.condition {
            Condition::Ok | Condition::Slow => {}
            Condition::Stopped
            | Condition::Starting
            | Condition::Stopping
            | Condition::Hung(_)
            | Condition::DiskFull(_)
            | Condition::ConnectionsExhausted
            | Condition::Denied(_)
            | Condition::Broken(_) => return Some("the database does not answer".to_owned()),
        }
        (!database.streaming).then(|| "no WAL arrives from the primary".to_owned())
    }
}
