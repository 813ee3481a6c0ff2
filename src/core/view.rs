//! What the store showed, and since when on our own clock.
//!
//! Nobody compares another machine's timestamps: a record is as old as the time for which *we* have
//! seen its revision unchanged while our own access to the store worked (`docs/protocol.md`,
//! section 4).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Floor;
use super::ids::{Epoch, Incarnation, MemberId, Revision, SystemId};
use super::order::Order;
use super::records::{ClusterState, Heartbeat, Invalid, Lease, Slot, Snapshot};
use super::time::{Instant, StoreTime};

/// A revision and since when we have seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Seen {
    revision: Revision,
    since: Instant,
}

/// The store's records with the times of our own observation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct View {
    snapshot: Snapshot,
    lease_seen: Option<Seen>,
    heartbeats_seen: BTreeMap<MemberId, Seen>,
    /// When the latest successful read arrived.
    last_read: Option<Instant>,
    /// Since when every read has succeeded, without a gap.
    access_since: Option<Instant>,
    /// Why the store is not obeyed, when it is not.
    disobeyed: Option<Disobeyed>,
    /// The last lease that was valid and obeyed.
    last_lease: Option<Lease>,
    /// The last description of the cluster that was valid and obeyed.
    last_cluster: Option<(Revision, ClusterState)>,
    /// The newest revision of a description that was valid and obeyed: a read may show an older one.
    #[serde(default)]
    newest_described: Option<Revision>,
}

/// Why nothing this store says is obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disobeyed {
    /// Another life of the store.
    Incarnation {
        /// The one we know.
        known: Incarnation,
        /// The one it shows.
        found: Incarnation,
    },
    /// A lower epoch than we know.
    Epoch {
        /// The highest we know.
        known: Epoch,
        /// The one it shows.
        found: Epoch,
    },
    /// A lower lease revision than we know, or none where there was one.
    Revision {
        /// The highest we know.
        known: Revision,
        /// The one it shows.
        found: Option<Revision>,
    },
}

impl std::fmt::Display for Disobeyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Incarnation { known, found } => {
                write!(f, "store was replaced: incarnation {found}, known {known}")
            }
            Self::Epoch { known, found } => {
                write!(f, "store was rolled back: epoch {found}, known {known}")
            }
            Self::Revision { known, found: Some(found) } => {
                write!(f, "store was rolled back: lease revision {found}, known {known}")
            }
            Self::Revision { known, found: None } => {
                write!(f, "store was rolled back: no lease, known revision {known}")
            }
        }
    }
}

impl View {
    /// Takes in a successful read that arrived at `now`. `longest_gap` is the longest time between
    /// two reads that still counts as unbroken access.
    pub fn update(
        &mut self,
        now: Instant,
        snapshot: Snapshot,
        floor: Option<&Floor>,
        longest_gap: Duration,
    ) {
        let gap = self.last_read.is_none_or(|last| now.since(last) > longest_gap);
        if gap || self.access_since.is_none() {
            self.access_since = Some(now);
        }
        self.last_read = Some(now);
        self.disobeyed = floor.and_then(|floor| disobeyed(&snapshot, floor));
        note(&mut self.lease_seen, snapshot.lease.revision(), now);
        self.heartbeats_seen.retain(|member, _| snapshot.heartbeats.contains_key(member));
        for (member, slot) in &snapshot.heartbeats {
            let mut seen = self.heartbeats_seen.get(member).copied();
            note(&mut seen, slot.revision(), now);
            if let Some(seen) = seen {
                self.heartbeats_seen.insert(member.clone(), seen);
            }
        }
        self.snapshot = snapshot;
        if let Some(lease) = self.lease() {
            self.last_lease = Some(lease.clone());
        }
        if let Slot::Valid { record, revision, .. } = &self.snapshot.cluster
            && self.obeyed()
        {
            self.newest_described = self.newest_described.max(Some(*revision));
            self.last_cluster = Some((*revision, record.clone()));
        }
    }

    /// The last lease that was valid and obeyed, even if what is there now is neither.
    pub fn last_lease(&self) -> Option<&Lease> {
        self.last_lease.as_ref()
    }

    /// Takes in a read that failed: whatever window was running starts again.
    pub fn access_broken(&mut self) {
        self.access_since = None;
    }

    /// The lease, if there is one that may be obeyed.
    pub fn lease(&self) -> Option<&Lease> {
        self.obeyed().then(|| self.snapshot.lease.record()).flatten()
    }

    /// The lease as found, obeyed or not.
    pub fn lease_slot(&self) -> &Slot<Lease> {
        &self.snapshot.lease
    }

    /// The operation that wrote the lease.
    pub fn lease_operation(&self) -> Option<&str> {
        match &self.snapshot.lease {
            Slot::Valid { header, .. } => Some(&header.operation),
            Slot::Absent | Slot::Invalid { .. } => None,
        }
    }

    /// The cluster's description, if there is one that may be obeyed: the one in the store, or while
    /// that is damaged the last one seen.
    pub fn cluster(&self) -> Option<&ClusterState> {
        self.description().map(|(_, cluster)| cluster)
    }

    /// The revision of that description.
    pub fn described(&self) -> Option<Revision> {
        self.description().map(|(revision, _)| revision)
    }

    /// The newest revision of a description that was ever seen.
    pub fn newest_described(&self) -> Option<Revision> {
        self.newest_described
    }

    fn description(&self) -> Option<(Revision, &ClusterState)> {
        let found = match &self.snapshot.cluster {
            Slot::Valid { record, revision, .. } => Some((*revision, record)),
            Slot::Invalid { why: Invalid::Damaged(_), .. } => {
                self.last_cluster.as_ref().map(|(revision, cluster)| (*revision, cluster))
            }
            Slot::Invalid { why: Invalid::Schema(_) | Invalid::ForeignIncarnation(_), .. }
            | Slot::Absent => None,
        };
        found.filter(|_| self.obeyed())
    }

    /// There is a description of the cluster, and nothing is known of what it says: whether automatic
    /// transitions are paused, who must have a commit.
    pub fn cluster_unreadable(&self) -> bool {
        matches!(self.snapshot.cluster, Slot::Invalid { .. }) && self.cluster().is_none()
    }

    /// The cluster's description as found.
    pub fn cluster_slot(&self) -> &Slot<ClusterState> {
        &self.snapshot.cluster
    }

    /// Valid heartbeats by member.
    pub fn heartbeats(&self) -> impl Iterator<Item = (&MemberId, &Heartbeat)> {
        self.snapshot.heartbeats.iter().filter_map(|(member, slot)| Some((member, slot.record()?)))
    }

    /// A member's heartbeat as found.
    pub fn heartbeat_slot(&self, member: &MemberId) -> Option<&Slot<Heartbeat>> {
        self.snapshot.heartbeats.get(member)
    }

    /// How long a member's heartbeat has not changed.
    pub fn heartbeat_age(&self, member: &MemberId, now: Instant) -> Option<Duration> {
        self.heartbeats_seen.get(member).map(|seen| now.since(seen.since))
    }

    /// How long the lease's revision has not changed, as we saw it.
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        self.lease_seen.map(|seen| now.since(seen.since))
    }

    /// Since when the lease has been seen unchanged through unbroken access: the start of a
    /// candidate's window.
    pub fn window_start(&self) -> Option<Instant> {
        Some(self.lease_seen?.since.max(self.access_since?))
    }

    /// Since when every read has succeeded, without a gap.
    pub fn access_since(&self) -> Option<Instant> {
        self.access_since
    }

    /// When the latest successful read arrived.
    pub fn last_read(&self) -> Option<Instant> {
        self.last_read
    }

    /// Reads work now: the latest one succeeded and is not older than `longest_gap`.
    pub fn is_fresh(&self, now: Instant, longest_gap: Duration) -> bool {
        self.access_since.is_some()
            && self.last_read.is_some_and(|last| now.since(last) <= longest_gap)
    }

    /// The store may be obeyed: it shows no less than we know.
    pub fn obeyed(&self) -> bool {
        self.disobeyed.is_none()
    }

    /// Why the store is not obeyed.
    pub fn disobeyed(&self) -> Option<&Disobeyed> {
        self.disobeyed.as_ref()
    }

    /// The newest time the store has put on a record, by its clock.
    pub fn store_now(&self) -> Option<StoreTime> {
        self.snapshot.newest_time()
    }

    /// Why automatic transitions are paused, when they are.
    pub fn paused(&self) -> Option<&str> {
        let pause = self.cluster()?.paused.as_ref()?;
        pause.holds(self.store_now()).then_some(pause.reason.as_str())
    }

    /// What a person asked for of the holder of `epoch`. Not of a damaged record's last contents: it may
    /// have been withdrawn.
    pub fn order(&self, epoch: Epoch) -> Option<&Order> {
        let cluster = self.snapshot.cluster.record().filter(|_| self.obeyed())?;
        cluster.order.as_ref().filter(|order| order.epoch == epoch)
    }

    /// Incarnation the store shows.
    pub fn incarnation(&self) -> Option<&Incarnation> {
        self.snapshot.incarnation.as_ref()
    }

    /// Identity of the cluster's data, once published.
    pub fn system(&self) -> Option<SystemId> {
        self.cluster().and_then(|cluster| cluster.system)
    }

    /// What the store's clock says about the lease: our own newest heartbeat against it.
    pub fn witness(&self, me: &MemberId, lease_duration: Duration) -> Witness {
        let Slot::Valid { created: lease, revision: lease_revision, .. } = &self.snapshot.lease
        else {
            return Witness::Waits;
        };
        match self.snapshot.heartbeats.get(me) {
            Some(Slot::Valid { created, revision, .. }) => {
                compare(*created, *revision, *lease, *lease_revision, lease_duration)
            }
            Some(Slot::Absent | Slot::Invalid { .. }) | None => Witness::Waits,
        }
    }

    /// Records that are not obeyed, for people: key and why.
    pub fn invalid(&self) -> Vec<(String, Invalid)> {
        let mut found = Vec::new();
        let mut check = |key: String, why: Option<&Invalid>| {
            if let Some(why) = why {
                found.push((key, why.clone()));
            }
        };
        check("lease".to_owned(), why(&self.snapshot.lease));
        check("cluster_state".to_owned(), why(&self.snapshot.cluster));
        for (member, slot) in &self.snapshot.heartbeats {
            check(format!("heartbeat.{member}"), why(slot));
        }
        found
    }
}

/// The store clock's word on whether the lease has run out: it can delay a takeover, never allow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The store's clock agrees that the lease duration has passed.
    Agrees,
    /// Not yet, or our heartbeat is not there yet.
    Waits,
    /// The store's clock ran backwards between two revisions whose order is known: its word is void,
    /// and the candidate waits a lease duration more instead.
    Void,
}

fn compare(
    mine: StoreTime,
    my_revision: Revision,
    lease: StoreTime,
    lease_revision: Revision,
    lease_duration: Duration,
) -> Witness {
    match mine.since(lease) {
        Some(passed) if passed >= lease_duration => Witness::Agrees,
        None if my_revision > lease_revision => Witness::Void,
        Some(_) | None => Witness::Waits,
    }
}

fn why<T>(slot: &Slot<T>) -> Option<&Invalid> {
    match slot {
        Slot::Invalid { why, .. } => Some(why),
        Slot::Absent | Slot::Valid { .. } => None,
    }
}

fn note(seen: &mut Option<Seen>, revision: Option<Revision>, now: Instant) {
    match (revision, *seen) {
        (None, _) => *seen = None,
        (Some(revision), Some(known)) if known.revision == revision => {}
        (Some(revision), _) => *seen = Some(Seen { revision, since: now }),
    }
}

fn disobeyed(snapshot: &Snapshot, floor: &Floor) -> Option<Disobeyed> {
    let known = &floor.incarnation;
    if let Some(found) = snapshot.incarnation.as_ref().filter(|found| *found != known) {
        let (known, found) = (known.clone(), found.clone());
        return Some(Disobeyed::Incarnation { known, found });
    }
    if snapshot.lease.revision().unwrap_or_default() < floor.revision {
        let (known, found) = (floor.revision, snapshot.lease.revision());
        return Some(Disobeyed::Revision { known, found });
    }
    let found = snapshot.lease.record()?.epoch;
    (found < floor.epoch).then_some(Disobeyed::Epoch { known: floor.epoch, found })
}
