//! What is told of every change of primary: one report per epoch, kept in the store in a ring, so that
//! the store stays bounded although nothing is ever deleted there (`adr/0020`).
//!
//! No decision reads any of it.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::event::{FenceProof, State};
use super::ids::{BootId, Epoch, Lsn, MemberId, Revision, TimelineId};
use super::records::{Invalid, Key, Position, Slot};

/// Places in the ring: so many epochs back the journal goes.
pub const RING: u8 = 32;

/// Members that a report tells of at most, so that a record stays small.
pub const MOST_CONTENDERS: usize = 16;

/// Characters of one text in a report at most.
pub const LONGEST_TEXT: usize = 120;

/// The key that the report of `epoch` has.
pub fn key(epoch: Epoch) -> Key {
    let slot = epoch.0 % u64::from(RING);
    Key::Journal(u8::try_from(slot).unwrap_or_default())
}

/// What is to become of a report, by what is at its place in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Write it, on this revision.
    Free(Option<Revision>),
    /// It is there already.
    Written,
    /// A later epoch's is there, or something that is not ours to overwrite.
    Taken,
}

/// The journal only grows: a report never replaces one of a later epoch, nor what a later release or
/// another life of the store wrote.
pub fn place(found: &Slot<Report>, epoch: Epoch, boot: &BootId) -> Place {
    match found {
        Slot::Absent => Place::Free(None),
        Slot::Valid { record, revision, .. } if record.epoch < epoch => {
            Place::Free(Some(*revision))
        }
        Slot::Valid { record, header, .. } if record.epoch == epoch && header.boot == *boot => {
            Place::Written
        }
        Slot::Invalid { revision, why: Invalid::Damaged(_) } => Place::Free(Some(*revision)),
        Slot::Valid { .. } | Slot::Invalid { .. } => Place::Taken,
    }
}

/// Why and how one member became the primary, or did not although it had the lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// The epoch it is about.
    pub epoch: Epoch,
    /// Who acquired the lease.
    pub holder: MemberId,
    /// Why: a name of [`super::event::Reason`].
    pub reason: String,
    /// What became of it.
    pub outcome: Ending,
    /// When it was written, by the wall clock of the member that wrote it; for people only.
    #[serde(default)]
    pub at: String,
    /// The lease that was replaced, and what was known of it; absent when there was none to be obeyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What a person had asked for then, when its time had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Everybody who might have taken over.
    #[serde(default)]
    pub contenders: Vec<Contender>,
    /// Bytes of the old primary's log that the new one is not known to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_risk: Option<AtRisk>,
    /// Members that had every acknowledged commit, by the lease that was replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub synchronous: Vec<MemberId>,
    /// What took how long, in order.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// Milliseconds from the old holder's last sign, as the new one saw it, until the database was
    /// writable; without an old holder from the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_ms: Option<u64>,
}

/// What became of an acquisition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The database was writable.
    Opened,
    /// It was not opened, for this reason.
    GivenUp(String),
}

/// The lease that was replaced, and how old it was on both clocks at the decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Evidence {
    /// Who held it.
    pub holder: MemberId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its revision: what the acquisition was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Renewals in that epoch.
    pub seq: u64,
    /// The state its holder published last.
    pub status: State,
    /// The position its holder published last.
    pub database: Position,
    /// How long the holder said it would count on it, in milliseconds.
    pub lease_duration_ms: u64,
    /// For how long that revision had been seen, on the new holder's own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unchanged_ms: Option<u64>,
    /// For how long every read of the store had succeeded, on that clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_ms: Option<u64>,
    /// Between the lease and the new holder's newest heartbeat, on the store's clock; absent when there
    /// is no such heartbeat, or that clock ran backwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ms: Option<u64>,
    /// The word of the store's clock: "agrees", "waits" or "void"; not asked about a lease that was
    /// released, or was the new holder's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
    /// How it was released, when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseTold>,
    /// How its holder was fenced, as far as it said, or as this member knows of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReleaseTold {
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberId>,
    /// Why.
    pub reason: String,
    /// Where the log ends, after a clean stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// On this timeline.
    pub timeline: TimelineId,
}

/// How a primary was ended, by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// Why it stopped being a primary: a name of [`super::event::Reason`].
    pub why: String,
    /// The rung that did it: "fast", "immediate", "kill", or "down" when it was down already.
    pub rung: String,
    /// It was a clean shutdown.
    pub clean: bool,
    /// From the start of the fence to its proof.
    pub took_ms: u64,
    /// What became of its demotion, where there is such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demotion: Option<Demotion>,
}

/// How a stopped primary was made a standby before its lease was released, by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Demotion {
    /// "applied", "refused" or "unknown".
    pub outcome: String,
    /// It gave out a token.
    pub token: bool,
    /// How long it took.
    pub took_ms: u64,
}

impl Fence {
    pub(super) fn new(why: &str, proof: &FenceProof, took_ms: u64) -> Self {
        Self {
            why: why.to_owned(),
            rung: proof.rung.to_owned(),
            clean: proof.clean,
            took_ms,
            demotion: None,
        }
    }
}

/// What a person had asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Asked {
    /// The order.
    pub id: String,
    /// "switchover", "failback" or "failover".
    pub wish: String,
    /// Whom it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberId>,
    /// Who asked.
    pub by: String,
}

/// A member that might have taken over, as the new holder saw it at the decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Contender {
    /// The member.
    pub member: MemberId,
    /// Its place in line, counted from 0; absent when it was not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    /// Its timeline.
    #[serde(default)]
    pub timeline: TimelineId,
    /// What it had of the log.
    #[serde(default)]
    pub lsn: Lsn,
    /// Bytes behind the old holder's last known position.
    #[serde(default)]
    pub behind: u64,
    /// Its preference.
    #[serde(default)]
    pub priority: u8,
    /// It was in the synchronous set.
    #[serde(default)]
    pub synchronous: bool,
    /// How long its heartbeat had not changed; absent for the new holder itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Why it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
}

/// What may be lost by the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AtRisk {
    /// Bytes between what the old primary last said and what the new one had.
    pub bytes: u64,
    /// The old primary said where its log ends. Otherwise it may have written more after its last sign.
    pub exact: bool,
}

/// One part of the change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Phase {
    /// "detected", "acquired", "prepared", "promoted", "started" or "initialised".
    pub name: String,
    /// How long it took.
    pub took_ms: u64,
    /// How long it may take: for "detected" the time that the rules make a candidate wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<u64>,
}

/// Something that is kept to be told, and read by no decision. So it is part of what equals, and of what
/// is recorded, but not of what a search has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aside<T>(pub T);

impl<T> Aside<Option<T>> {
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl<T> Hash for Aside<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl<T: Serialize> Serialize for Aside<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Aside<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

/// `text`, no longer than a report may have it, and nothing in it that JSON writes at length.
pub(super) fn short(text: &str) -> String {
    let plain = text.chars().map(|it| if it.is_control() { ' ' } else { it });
    plain.take(LONGEST_TEXT).collect()
}
