//! The records of `docs/protocol.md` section 2, as values. How they become bytes is `store::codec`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::event::State;
use super::ids::{
    BootId, Epoch, Incarnation, InstanceId, Lsn, MemberId, Revision, Site, SystemId, TimelineId,
};
use super::journal::{Aside, Fence, RING, Report};
use super::order::{Answer, Order, Pause};
use super::policy::{Policy, Reaction};
use super::synchronous::SynchronousMode;
use super::time::StoreTime;
use super::timing::{Timing, safe};
use super::token::Token;

/// Name of a record in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The right to write; the primary's heartbeat.
    Lease,
    /// Members, settings and intent of the cluster.
    ClusterState,
    /// A replica's heartbeat.
    Heartbeat(MemberId),
    /// A place in the journal's ring. Agents decide nothing by it, and never read it.
    Journal(u8),
}

impl Key {
    /// The key called `name`, or `None` when it is none of ours.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "lease" => Some(Self::Lease),
            "cluster_state" => Some(Self::ClusterState),
            other => match other.strip_prefix("journal.") {
                Some(slot) => Self::journal(slot),
                None => other.strip_prefix("heartbeat.")?.parse().ok().map(Self::Heartbeat),
            },
        }
    }

    fn journal(slot: &str) -> Option<Self> {
        let number: u8 = slot.parse().ok().filter(|number| *number < RING)?;
        // One name for each.
        (number.to_string() == slot).then_some(Self::Journal(number))
    }

    /// It is of the journal: no part of what agents decide by, so left out of listings and hints.
    pub fn is_journal(&self) -> bool {
        matches!(self, Self::Journal(_))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("{name:?} is no key of ours")))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease => f.write_str("lease"),
            Self::ClusterState => f.write_str("cluster_state"),
            Self::Heartbeat(member) => write!(f, "heartbeat.{member}"),
            Self::Journal(slot) => write!(f, "journal.{slot}"),
        }
    }
}

/// Where clients, standbys and peers reach a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Host name or IP address of PostgreSQL.
    pub host: String,
    /// Port of PostgreSQL.
    pub port: u16,
    /// `host:port` of the agent's HTTP listener, when it has one others can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
}

/// What a database had in its log when last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Identity of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemId>,
    /// Timeline of the log.
    #[serde(default)]
    pub timeline: TimelineId,
    /// Primary: flushed to disk. Replica: received and flushed.
    #[serde(default)]
    pub lsn: Lsn,
    /// Primary: same as `lsn`. Replica: replayed.
    #[serde(default)]
    pub replayed: Lsn,
}

/// Who wrote a record and in which life of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Header {
    /// Incarnation of the store as the writer knew it.
    pub incarnation: Incarnation,
    /// The write operation that made this record.
    pub operation: String,
    /// The member that wrote it.
    pub member: MemberId,
    /// The start of that member's agent.
    pub boot: BootId,
}

/// The right to write, as its holder last renewed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The member that may write.
    pub holder: MemberId,
    /// The start of its agent.
    pub boot: BootId,
    /// Tells apart two agents configured with one member name.
    pub instance: InstanceId,
    /// Counts acquisitions.
    pub epoch: Epoch,
    /// Counts renewals within the epoch.
    pub seq: u64,
    /// The holder's true state.
    pub status: State,
    /// How long the holder counts on it. Candidates wait by this, not by their own setting.
    #[serde(rename = "lease_duration_ms", with = "millis")]
    pub lease_duration: Duration,
    /// The holder's database.
    pub database: Position,
    /// Where standbys and clients reach the holder.
    pub address: Address,
    /// The revision of `cluster_state` that the holder knew. Whoever sees an older one does not know whom
    /// the holder counts on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub described: Option<Revision>,
    /// Members that have every commit the holder acknowledged: nobody else takes over. Empty: commits
    /// wait for nobody.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub synchronous: BTreeSet<MemberId>,
    /// What it was released to its holder with, until the promotion has used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Given back: the holder is fenced, anyone eligible may acquire.
    pub released: Option<Release>,
}

/// How a lease was given back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Release {
    /// The member meant to take over, when one is.
    pub to: Option<MemberId>,
    /// Why.
    pub reason: String,
    /// The last position the old primary wrote, when it is known for certain (a clean stop).
    pub lsn: Option<Lsn>,
    /// Timeline of that position.
    pub timeline: TimelineId,
    /// How the database was stopped, for the journal.
    #[serde(default, skip_serializing_if = "Aside::is_none")]
    pub fence: Aside<Option<Fence>>,
    /// What the old primary's demotion gave out, for the member meant to take over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
}

/// A replica's word on itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The start of its agent.
    pub boot: BootId,
    /// Tells apart two agents configured with one member name.
    pub instance: InstanceId,
    /// Counts heartbeats of this boot.
    pub seq: u64,
    /// Its true state.
    pub status: State,
    /// The epoch it follows.
    pub epoch: Epoch,
    /// Its database.
    pub database: Position,
    /// Where it is reached.
    pub address: Address,
    /// Its preference as a candidate; 0 means never.
    pub priority: u8,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    /// WAL arrives from the primary right now.
    pub streaming: bool,
    /// Bytes behind the lease's position, as last compared.
    pub lag: u64,
    /// Why it would not take over, or `None` when it would.
    pub ineligible: Option<String>,
    /// What its promotion would fail at now, and may not in a while: it takes over, but nobody hands over to it as
    /// planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubtful: Option<String>,
}

/// What the primary admitted of a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberSettings {
    /// Its state directory: another agent with this name is not admitted.
    pub instance: InstanceId,
    /// Where it is reached.
    pub address: Address,
    /// Its preference as a candidate; 0 means never.
    pub priority: u8,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
}

/// Settings that a person changed for the whole cluster while it runs (`config set`). What is absent is as
/// each member is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// A replica further behind than this does not take over, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_lag_on_failover: Option<u64>,
    /// The lease goes back to a preferred member that has been fit for so long, in milliseconds; 0: not
    /// by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback_after_ms: Option<u64>,
    /// All timings.
    #[serde(default, deserialize_with = "safe", skip_serializing_if = "Option::is_none")]
    pub timing: Option<Box<Timing>>,
    /// Preferences as candidates; 0 means never.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub priorities: BTreeMap<MemberId, u8>,
    /// Whether commits wait for standbys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronous_mode: Option<SynchronousMode>,
    /// For how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronous_standbys: Option<u8>,
    /// What to do when the database hangs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_hung: Option<Reaction>,
    /// What to do when its disk is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_disk_full: Option<Reaction>,
}

impl ClusterSettings {
    /// What `member` counts by, `own` being what it is configured with.
    pub fn over(&self, own: &Policy, member: &MemberId) -> Policy {
        let promotion = own.promote_timeout;
        let mut own = match &self.timing {
            Some(timing) => timing.over(own.clone()),
            None => own.clone(),
        };
        // A promotion has to be given more time than the hook it waits for, which is this member's own.
        if own.before_promote.is_some_and(|hook| hook.limit >= own.promote_timeout) {
            own.promote_timeout = promotion;
        }
        Policy {
            maximum_lag_on_failover: self
                .maximum_lag_on_failover
                .unwrap_or(own.maximum_lag_on_failover),
            failback_after: match self.failback_after_ms {
                Some(milliseconds) => {
                    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
                }
                None => own.failback_after,
            },
            priority: self.priorities.get(member).copied().unwrap_or(own.priority),
            synchronous: self.synchronous_mode.unwrap_or(own.synchronous),
            synchronous_standbys: self
                .synchronous_standbys
                .filter(|number| *number > 0)
                .unwrap_or(own.synchronous_standbys),
            on_hung: self.on_hung.unwrap_or(own.on_hung),
            on_disk_full: self.on_disk_full.unwrap_or(own.on_disk_full),
            ..own
        }
    }
}

/// The cluster as its primary last described it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterState {
    /// Epoch of the lease under which this was written.
    pub epoch: Epoch,
    /// The member that may write.
    pub primary: MemberId,
    /// Identity of the data. Absent only while the first member initialises it.
    pub system: Option<SystemId>,
    /// Timeline the primary writes on.
    pub timeline: TimelineId,
    /// Every member the primary admitted, itself included.
    pub members: BTreeMap<MemberId, MemberSettings>,
    /// Members that a person wants not to take over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drained: BTreeSet<MemberId>,
    /// Members that a person took out, each with the start of its agent that reported last: that one is
    /// not admitted again, another one is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed: BTreeMap<MemberId, BootId>,
    /// No automatic transition while it holds.
    #[serde(default)]
    pub paused: Option<Pause>,
    /// The change of primary a person asked for.
    #[serde(default)]
    pub order: Option<Order>,
    /// What became of the latest one.
    #[serde(default)]
    pub answer: Option<Answer>,
    /// What a person set for all members.
    #[serde(default)]
    pub settings: ClusterSettings,
    /// Whom the lease named when this was written, for people: the lease is what counts.
    pub synchronous: Vec<MemberId>,
    /// The last change of primary, for people.
    pub last_transition: String,
}

impl ClusterState {
    /// A person took out the member whose agent has this start.
    pub fn has_removed(&self, member: &MemberId, boot: &BootId) -> bool {
        !self.members.contains_key(member) && self.removed.get(member) == Some(boot)
    }
}

/// Any record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Under [`Key::Lease`].
    Lease(Lease),
    /// Under [`Key::ClusterState`].
    ClusterState(ClusterState),
    /// Under [`Key::Heartbeat`].
    Heartbeat(Heartbeat),
    /// Under [`Key::Journal`].
    Journal(Box<Report>),
}

/// Why a value in the store is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invalid {
    /// Not a record: wrong JSON, wrong type, wrong checksum, too long.
    Damaged(String),
    /// Written by a release with another major schema: somebody else understands it, we do not.
    Schema(String),
    /// Written in another life of the store.
    ForeignIncarnation(String),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) | Self::Schema(why) | Self::ForeignIncarnation(why) => {
                f.write_str(why)
            }
        }
    }
}

/// What a key held when read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot<T> {
    /// Never written.
    #[default]
    Absent,
    /// A record we understand.
    Valid {
        /// The record.
        record: T,
        /// Who wrote it.
        header: Header,
        /// The revision to compare against.
        revision: Revision,
        /// When, by the store's clock.
        created: StoreTime,
    },
    /// A value that is not obeyed.
    Invalid {
        /// The revision it has.
        revision: Revision,
        /// Why.
        why: Invalid,
    },
}

impl<T> Slot<T> {
    /// The record, when there is a valid one.
    pub fn record(&self) -> Option<&T> {
        match self {
            Self::Valid { record, .. } => Some(record),
            Self::Absent | Self::Invalid { .. } => None,
        }
    }

    /// When a valid record was written, by the store's clock.
    pub fn created(&self) -> Option<StoreTime> {
        match self {
            Self::Valid { created, .. } => Some(*created),
            Self::Absent | Self::Invalid { .. } => None,
        }
    }

    /// The revision to compare against; `None` when the key was never written.
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Absent => None,
            Self::Valid { revision, .. } | Self::Invalid { revision, .. } => Some(*revision),
        }
    }
}

/// All records as one read gave them. Not atomic across keys, and never a proof.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// Incarnation of the store, by the store's own word.
    pub incarnation: Option<Incarnation>,
    /// `lease`.
    pub lease: Slot<Lease>,
    /// `cluster_state`.
    pub cluster: Slot<ClusterState>,
    /// `heartbeat.*`.
    pub heartbeats: BTreeMap<MemberId, Slot<Heartbeat>>,
}

impl Snapshot {
    /// The newest time the store has put on a record, by its clock: the lease's holder writes one every
    /// heartbeat interval.
    pub fn newest_time(&self) -> Option<StoreTime> {
        let heartbeats = self.heartbeats.values().filter_map(Slot::created);
        heartbeats.chain(self.lease.created()).chain(self.cluster.created()).max()
    }

    /// How long before the newest of the records a record was written, by the store's clock. Only
    /// records of a later revision count: they were written later, whatever the clock was set to since.
    /// `None` when the clock ran backwards between them, so that nobody can say.
    pub fn age<T>(&self, record: &Slot<T>) -> Option<Duration> {
        let (revision, created) = (record.revision()?, record.created()?);
        let heartbeats = self.heartbeats.values().map(|slot| (slot.revision(), slot.created()));
        let lease = (self.lease.revision(), self.lease.created());
        let cluster = (self.cluster.revision(), self.cluster.created());
        let all = heartbeats.chain([lease, cluster]);
        let later = all.filter(|(other, _)| *other > Some(revision)).filter_map(|(_, at)| at).max();
        later.map_or(Some(Duration::ZERO), |later| later.since(created))
    }
}

pub(super) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::core) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(in crate::core) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
