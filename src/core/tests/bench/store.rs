//! The store as data.

use std::collections::{BTreeMap, BTreeSet};

use super::{SYSTEM, identity, seconds};
use crate::core::event::{State, StoreWrite, WriteOutcome};
use crate::core::ids::{Epoch, Incarnation, Lsn, Revision, TimelineId};
use crate::core::records::{
    ClusterSettings, ClusterState, Header, Heartbeat, Invalid, Key, Lease, MemberSettings,
    Position, Record, Slot, Snapshot,
};
use crate::core::shared::{Identity, header};
use crate::core::time::StoreTime;

type Value = (Result<(Record, Header), Invalid>, Revision, StoreTime);

/// The store: one slot per key with its revision, and a clock.
#[derive(Clone, Debug)]
pub(in crate::core::tests) struct Store {
    pub(in crate::core::tests) incarnation: Incarnation,
    pub(in crate::core::tests) revision: u64,
    pub(in crate::core::tests) clock: i64,
    slots: BTreeMap<Key, Value>,
}

impl Store {
    pub(in crate::core::tests) fn new() -> Self {
        let incarnation = "life-1".parse().unwrap();
        Self { incarnation, revision: 0, clock: 0, slots: BTreeMap::new() }
    }

    fn slot<T>(&self, key: &Key, pick: impl Fn(&Record) -> T) -> Slot<T> {
        match self.slots.get(key) {
            None => Slot::Absent,
            Some((Ok((record, header)), revision, created)) => Slot::Valid {
                record: pick(record),
                header: header.clone(),
                revision: *revision,
                created: *created,
            },
            Some((Err(why), revision, _)) => {
                Slot::Invalid { revision: *revision, why: why.clone() }
            }
        }
    }

    pub(in crate::core::tests) fn snapshot(&self) -> Snapshot {
        let lease = |record: &Record| match record {
            Record::Lease(lease) => lease.clone(),
            other => panic!("not a lease: {other:?}"),
        };
        let cluster = |record: &Record| match record {
            Record::ClusterState(cluster) => cluster.clone(),
            other => panic!("not a cluster state: {other:?}"),
        };
        let heartbeat = |record: &Record| match record {
            Record::Heartbeat(heartbeat) => heartbeat.clone(),
            other => panic!("not a heartbeat: {other:?}"),
        };
        let members = self.slots.keys().filter_map(|key| match key {
            Key::Heartbeat(member) => Some(member.clone()),
            Key::Lease | Key::ClusterState | Key::Journal(_) => None,
        });
        Snapshot {
            incarnation: Some(self.incarnation.clone()),
            lease: self.slot(&Key::Lease, lease),
            cluster: self.slot(&Key::ClusterState, cluster),
            heartbeats: members
                .map(|m| (m.clone(), self.slot(&Key::Heartbeat(m), heartbeat)))
                .collect(),
        }
    }

    pub(in crate::core::tests) fn put(
        &mut self,
        key: Key,
        value: Result<(Record, Header), Invalid>,
    ) -> Revision {
        self.revision += 1;
        let (revision, created) = (Revision(self.revision), StoreTime(self.clock));
        self.slots.insert(key, (value, revision, created));
        revision
    }

    /// Compare-and-set; the identical operation sent again is answered as the first time.
    pub(in crate::core::tests) fn write(
        &mut self,
        id: &Identity,
        write: &StoreWrite,
    ) -> WriteOutcome {
        let header = header(id, &self.incarnation, write.number);
        let found = self.slots.get(&write.key);
        match found {
            Some((Ok((_, known)), revision, _)) if known.operation == header.operation => {
                return WriteOutcome::Applied(*revision);
            }
            _ => {}
        }
        if found.map(|(_, revision, _)| *revision) != write.expected {
            return WriteOutcome::Refused;
        }
        WriteOutcome::Applied(self.put(write.key.clone(), Ok((write.record.clone(), header))))
    }

    pub(in crate::core::tests) fn lease(&self) -> Lease {
        match self.snapshot().lease {
            Slot::Valid { record, .. } => record,
            other => panic!("no valid lease: {other:?}"),
        }
    }

    /// A lease written by another member (or another life of ours).
    pub(in crate::core::tests) fn put_lease(
        &mut self,
        by: &Identity,
        change: impl FnOnce(&mut Lease),
    ) -> Revision {
        let mut lease = Lease {
            holder: by.member.clone(),
            boot: by.boot.clone(),
            instance: by.instance.clone(),
            epoch: Epoch(5),
            seq: 0,
            status: State::PrimaryHealthy,
            lease_duration: seconds(15),
            database: Position {
                system: Some(SYSTEM),
                timeline: TimelineId(1),
                lsn: Lsn(5_000),
                replayed: Lsn(5_000),
            },
            address: by.address.clone(),
            described: None,
            token: None,
            synchronous: BTreeSet::new(),
            released: None,
        };
        change(&mut lease);
        let header = header(by, &self.incarnation, self.revision + 1_000);
        self.put(Key::Lease, Ok((Record::Lease(lease), header)))
    }

    pub(in crate::core::tests) fn put_cluster(
        &mut self,
        by: &Identity,
        change: impl FnOnce(&mut ClusterState),
    ) {
        let admitted = ["a", "b", "c"].map(|name| {
            let id = identity(name, 1);
            let settings = MemberSettings {
                instance: id.instance,
                address: id.address,
                priority: 1,
                site: None,
            };
            (id.member, settings)
        });
        let mut cluster = ClusterState {
            epoch: Epoch(5),
            primary: by.member.clone(),
            system: Some(SYSTEM),
            timeline: TimelineId(1),
            members: BTreeMap::from(admitted),
            drained: BTreeSet::new(),
            removed: BTreeMap::new(),
            paused: None,
            order: None,
            answer: None,
            settings: ClusterSettings::default(),
            synchronous: Vec::new(),
            last_transition: String::new(),
        };
        change(&mut cluster);
        let header = header(by, &self.incarnation, self.revision + 1_000);
        self.put(Key::ClusterState, Ok((Record::ClusterState(cluster), header)));
    }

    /// Somebody changes what the description of the cluster says.
    pub(in crate::core::tests) fn change_cluster(
        &mut self,
        change: impl FnOnce(&mut ClusterState),
    ) {
        let Slot::Valid { mut record, header, .. } = self.snapshot().cluster else {
            panic!("no description of the cluster")
        };
        change(&mut record);
        self.put(Key::ClusterState, Ok((Record::ClusterState(record), header)));
    }

    /// A heartbeat of a replica that would take over.
    pub(in crate::core::tests) fn put_heartbeat(
        &mut self,
        by: &Identity,
        change: impl FnOnce(&mut Heartbeat),
    ) {
        let mut heartbeat = Heartbeat {
            boot: by.boot.clone(),
            instance: by.instance.clone(),
            seq: self.revision,
            status: State::ReplicaWatching,
            epoch: Epoch(5),
            database: Position {
                system: Some(SYSTEM),
                timeline: TimelineId(1),
                lsn: Lsn(5_000),
                replayed: Lsn(5_000),
            },
            address: by.address.clone(),
            priority: 1,
            site: None,
            streaming: true,
            lag: 0,
            ineligible: None,
            doubtful: None,
        };
        change(&mut heartbeat);
        let header = header(by, &self.incarnation, self.revision + 1_000);
        let key = Key::Heartbeat(by.member.clone());
        self.put(key, Ok((Record::Heartbeat(heartbeat), header)));
    }

    /// Every member says again what it said last.
    pub(in crate::core::tests) fn all_report_again(&mut self) {
        let said = self.slots.iter().filter(|(key, _)| matches!(key, Key::Heartbeat(_)));
        let said: Vec<_> = said.map(|(key, slot)| (key.clone(), slot.0.clone())).collect();
        for (key, value) in said {
            let value = value.map(|(record, header)| {
                let operation = format!("{}-again", header.operation);
                (record, Header { operation, ..header })
            });
            self.put(key, value);
        }
    }

    pub(in crate::core::tests) fn remove(&mut self, key: &Key) {
        self.slots.remove(key);
    }

    pub(in crate::core::tests) fn damage(&mut self, key: Key) -> Revision {
        self.put(key, Err(Invalid::Damaged("not a record".to_owned())))
    }
}
