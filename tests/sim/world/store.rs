//! The store: compare-and-set per key, one counter of revisions, a clock, and lives.

use std::collections::BTreeMap;

use harmony_agent::core::event::{StoreWrite, WriteOutcome};
use harmony_agent::core::ids::{Incarnation, MemberId, Revision};
use harmony_agent::core::journal::Report;
use harmony_agent::core::records::{
    ClusterState, Header, Invalid, Key, Lease, Record, Slot, Snapshot,
};
use harmony_agent::core::time::StoreTime;

/// A record and who wrote it, or why it is none.
pub(crate) type Content = Result<(Record, Header), Invalid>;

/// A value under a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Value {
    pub(crate) content: Content,
    pub(crate) revision: Revision,
    created: StoreTime,
}

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Contents {
    slots: BTreeMap<Key, Value>,
    revision: u64,
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) incarnation: Incarnation,
    pub(crate) lives: u64,
    pub(crate) now: Contents,
    /// What was kept at some times before, oldest first, for a restore.
    backups: Vec<(u64, Contents)>,
    /// Added to true time for the store's clock.
    pub(crate) clock: i64,
    /// It has a leader.
    pub(crate) up: bool,
}

fn incarnation(number: u64) -> Incarnation {
    format!("life-{number}").parse().unwrap()
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            incarnation: incarnation(1),
            lives: 1,
            now: Contents::default(),
            backups: Vec::new(),
            clock: 0,
            up: true,
        }
    }

    /// Everything is lost; what is there now is another store.
    pub(crate) fn wipe(&mut self) {
        self.lives += 1;
        self.incarnation = incarnation(self.lives);
        self.now = Contents::default();
        self.backups.clear();
    }

    /// Keeps a copy to go back to.
    pub(crate) fn back_up(&mut self, now: u64) {
        if self.backups.len() >= 40 {
            self.backups.remove(0);
        }
        self.backups.push((now, self.now.clone()));
    }

    /// Restores what was kept `age` ago, or the oldest there is.
    pub(crate) fn roll_back(&mut self, now: u64, age: u64) -> bool {
        let until = now.saturating_sub(age);
        let at = self.backups.iter().rposition(|(time, _)| *time <= until);
        let Some((_, contents)) = self.backups.get(at.unwrap_or(0)) else { return false };
        self.now = contents.clone();
        self.backups.truncate(at.unwrap_or(0) + 1);
        true
    }

    /// A time by its clock.
    pub(crate) fn stamp(&self, now: u64) -> StoreTime {
        StoreTime(i64::try_from(now).unwrap_or(i64::MAX).saturating_add(self.clock))
    }

    /// Deletes a record. The counter of revisions goes on.
    pub(crate) fn delete(&mut self, key: &Key) {
        self.now.revision += 1;
        self.now.slots.remove(key);
    }

    /// Writes, whatever is there.
    pub(crate) fn put(&mut self, now: u64, key: Key, content: Content) -> Revision {
        self.now.revision += 1;
        let revision = Revision(self.now.revision);
        let value = Value { content, revision, created: self.stamp(now) };
        self.now.slots.insert(key, value);
        revision
    }

    /// What is under a key.
    pub(crate) fn content(&self, key: &Key) -> Option<&Content> {
        self.now.slots.get(key).map(|value| &value.content)
    }

    /// The revision of a key.
    pub(crate) fn revision(&self, key: &Key) -> Option<Revision> {
        self.now.slots.get(key).map(|value| value.revision)
    }

    /// The oldest value of a key that a backup has.
    pub(crate) fn backed_up(&self, key: &Key) -> Option<&Content> {
        self.backups.iter().find_map(|(_, then)| then.slots.get(key)).map(|value| &value.content)
    }

    /// The newest good lease that a backup has.
    pub(crate) fn good_lease(&self) -> Option<(Lease, Header, StoreTime)> {
        let values = self.backups.iter().rev().filter_map(|(_, then)| then.slots.get(&Key::Lease));
        values.into_iter().find_map(|value| match &value.content {
            Ok((Record::Lease(lease), header)) => {
                Some((lease.clone(), header.clone(), value.created))
            }
            _ => None,
        })
    }

    /// The lease as a reader that checks it finds it, when it is not to be obeyed.
    pub(crate) fn bad_lease(&self) -> Option<Invalid> {
        let value = self.now.slots.get(&Key::Lease)?;
        match slot(value, &self.incarnation, as_lease) {
            Slot::Invalid { why, .. } => Some(why),
            Slot::Absent | Slot::Valid { .. } => None,
        }
    }

    /// Compare-and-set; the identical write sent again is answered as the first time.
    pub(crate) fn write(&mut self, now: u64, write: &StoreWrite, header: &Header) -> WriteOutcome {
        let found = self.now.slots.get(&write.key);
        if let Some(Value { content: Ok((_, known)), revision, .. }) = found
            && known.operation == header.operation
        {
            return WriteOutcome::Applied(*revision);
        }
        if found.map(|value| value.revision) != write.expected {
            return WriteOutcome::Refused;
        }
        let content = Ok((write.record.clone(), header.clone()));
        WriteOutcome::Applied(self.put(now, write.key.clone(), content))
    }

    /// The lease as it really is.
    pub(crate) fn lease(&self) -> Option<(&Lease, &Header, Revision)> {
        match self.now.slots.get(&Key::Lease) {
            Some(Value { content: Ok((Record::Lease(lease), header)), revision, .. })
                if header.incarnation == self.incarnation =>
            {
                Some((lease, header, *revision))
            }
            _ => None,
        }
    }

    /// The cluster as its primary described it.
    pub(crate) fn cluster(&self) -> Option<&ClusterState> {
        match self.now.slots.get(&Key::ClusterState) {
            Some(Value { content: Ok((Record::ClusterState(cluster), _)), .. }) => Some(cluster),
            _ => None,
        }
    }

    /// The same, with who wrote it and its revision.
    pub(crate) fn cluster_slot(&self) -> Option<(&ClusterState, &Header, Revision)> {
        match self.now.slots.get(&Key::ClusterState) {
            Some(Value {
                content: Ok((Record::ClusterState(cluster), header)), revision, ..
            }) => Some((cluster, header, *revision)),
            _ => None,
        }
    }

    /// A place in the journal.
    pub(crate) fn journal(&self, key: &Key) -> Slot<Report> {
        let found = self.now.slots.get(key);
        found.map_or(Slot::Absent, |value| slot(value, &self.incarnation, as_report))
    }

    /// Members that the cluster's description names.
    pub(crate) fn admitted(&self) -> impl Iterator<Item = &MemberId> {
        self.cluster().map(|cluster| cluster.members.keys()).into_iter().flatten()
    }

    /// Keys there are that agents read.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.now.slots.keys().filter(|key| !key.is_journal()).cloned().collect()
    }
}

impl Contents {
    /// All records as a read gives them.
    pub(crate) fn snapshot(&self, incarnation: &Incarnation) -> Snapshot {
        let mut snapshot =
            Snapshot { incarnation: Some(incarnation.clone()), ..Snapshot::default() };
        for (key, value) in &self.slots {
            match key {
                Key::Lease => snapshot.lease = slot(value, incarnation, as_lease),
                Key::ClusterState => snapshot.cluster = slot(value, incarnation, as_cluster),
                Key::Heartbeat(member) => {
                    let member: MemberId = member.clone();
                    snapshot.heartbeats.insert(member, slot(value, incarnation, as_heartbeat));
                }
                Key::Journal(_) => {}
            }
        }
        snapshot
    }
}

fn slot<T>(value: &Value, incarnation: &Incarnation, pick: fn(&Record) -> Option<T>) -> Slot<T> {
    let revision = value.revision;
    let wrong = |why| Slot::Invalid { revision, why };
    match &value.content {
        Err(why) => wrong(why.clone()),
        Ok((_, header)) if header.incarnation != *incarnation => {
            wrong(Invalid::ForeignIncarnation("another life of the store".to_owned()))
        }
        Ok((record, header)) => match pick(record) {
            None => wrong(Invalid::Damaged("another kind of record".to_owned())),
            Some(record) => {
                Slot::Valid { record, header: header.clone(), revision, created: value.created }
            }
        },
    }
}

fn as_lease(record: &Record) -> Option<Lease> {
    match record {
        Record::Lease(lease) => Some(lease.clone()),
        Record::ClusterState(_) | Record::Heartbeat(_) | Record::Journal(_) => None,
    }
}

fn as_cluster(record: &Record) -> Option<ClusterState> {
    match record {
        Record::ClusterState(cluster) => Some(cluster.clone()),
        Record::Lease(_) | Record::Heartbeat(_) | Record::Journal(_) => None,
    }
}

fn as_heartbeat(record: &Record) -> Option<harmony_agent::core::records::Heartbeat> {
    match record {
        Record::Heartbeat(heartbeat) => Some(heartbeat.clone()),
        Record::Lease(_) | Record::ClusterState(_) | Record::Journal(_) => None,
    }
}

fn as_report(record: &Record) -> Option<Report> {
    match record {
        Record::Journal(report) => Some((**report).clone()),
        Record::Lease(_) | Record::ClusterState(_) | Record::Heartbeat(_) => None,
    }
}
