//! Records of the store. `l`, `c`, `h`: a value as it lies there. `L`, `C`, `H`: the record in it, as JSON,
//! so that a checksum is no wall. `S`: three lines with a lease, a cluster state and a heartbeat.
//! A replica is shown the outcome: it must not take over on the strength of a read.

use std::time::Duration;

use harmony_agent::core::event::{
    Action, Condition, Effect, Event, Observation, Process, WatchdogStatus, WriteOutcome,
};
use harmony_agent::core::ids::{Incarnation, Lsn, Revision, TimelineId};
use harmony_agent::core::policy::{Policy, Reaction, WatchdogMode};
use harmony_agent::core::records::{
    Address, ClusterState, Header, Heartbeat, Key, Lease, Record, Slot, Snapshot,
};
use harmony_agent::core::time::{Instant, StoreTime};
use harmony_agent::core::{Agent, Identity};
use harmony_agent::store::Versioned;
use harmony_agent::store::codec;
use serde::de::DeserializeOwned;

use super::{assert_says, split};

pub(crate) fn body(data: &[u8]) {
    let Some((kind, rest)) = split(data) else { return };
    let values: Vec<(Key, Vec<u8>)> = match kind {
        b'l' => vec![(Key::Lease, rest.to_vec())],
        b'c' => vec![(Key::ClusterState, rest.to_vec())],
        b'h' => vec![(other(), rest.to_vec())],
        b'L' => lease(rest).into_iter().collect(),
        b'C' => cluster(rest).into_iter().collect(),
        b'H' => heartbeat(rest).into_iter().collect(),
        b'S' => {
            let mut lines = rest.split(|byte| *byte == b'\n');
            let mut next = || lines.next().unwrap_or_default();
            [lease(next()), cluster(next()), heartbeat(next())].into_iter().flatten().collect()
        }
        _ => return,
    };
    if values.is_empty() {
        return;
    }
    let revision = |at: usize| Revision(at as u64 + 7);
    let listing: Vec<Versioned> = values
        .into_iter()
        .enumerate()
        .map(|(at, (key, value))| {
            drop(codec::operation_of(&value));
            Versioned { key, value, revision: revision(at), created: StoreTime(1_000_000_000) }
        })
        .collect();
    let snapshot = codec::snapshot(&listing, &incarnation());
    check_slots(&snapshot);
    show_to_a_replica(&snapshot);
}

fn incarnation() -> Incarnation {
    "life".parse().unwrap()
}

fn other() -> Key {
    Key::Heartbeat("b".parse().unwrap())
}

/// `json` as a record, written as we write it, and read back the same.
fn written<T: DeserializeOwned + Clone + PartialEq + std::fmt::Debug>(
    json: &[u8],
    key: Key,
    record: impl Fn(T) -> Record,
) -> Option<(Key, Vec<u8>)> {
    let value: T = serde_json::from_slice(json).ok()?;
    let header = Header {
        incarnation: incarnation(),
        operation: "other-7".to_owned(),
        member: "b".parse().unwrap(),
        boot: "other".parse().unwrap(),
    };
    let bytes = codec::encode(&header, &record(value.clone()));
    let name = key.to_string();
    let name = name.split('.').next().unwrap_or_default();
    let read = |value: Vec<u8>| {
        let (revision, created) = (Revision(1), StoreTime(1));
        let versioned = Versioned { key: key.clone(), value, revision, created };
        codec::decode::<T>(&versioned, name, &incarnation())
    };
    // One bit: the same, or not obeyed.
    for at in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 1 << (at % 8);
        if let Slot::Valid { record, .. } = read(spoilt) {
            assert_eq!(record, value, "changed at {at}");
        }
    }
    let read = read(bytes.clone());
    // Only what is too long to be written is not read.
    match read {
        Slot::Valid { record, header: found, .. } => assert_eq!((record, found), (value, header)),
        Slot::Invalid { why, .. } => {
            assert!(bytes.len() > harmony_agent::store::LONGEST_VALUE, "{why}");
        }
        Slot::Absent => unreachable!("there is a value"),
    }
    Some((key, bytes))
}

fn lease(json: &[u8]) -> Option<(Key, Vec<u8>)> {
    written(json, Key::Lease, Record::Lease)
}

fn cluster(json: &[u8]) -> Option<(Key, Vec<u8>)> {
    written(json, Key::ClusterState, Record::ClusterState)
}

fn heartbeat(json: &[u8]) -> Option<(Key, Vec<u8>)> {
    written(json, other(), Record::Heartbeat)
}

/// What is not obeyed says why; what is obeyed is written as it was read.
fn check_slots(snapshot: &Snapshot) {
    fn check<T>(slot: &Slot<T>, record: impl Fn(&T) -> Record)
    where
        T: DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        match slot {
            Slot::Absent => {}
            Slot::Invalid { why, .. } => assert_says(&why.to_string()),
            Slot::Valid { record: found, header, .. } => {
                let bytes = codec::encode(header, &record(found));
                let written = codec::operation_of(&bytes);
                assert!(written.is_none_or(|operation| operation == header.operation));
            }
        }
    }
    check(&snapshot.lease, |lease: &Lease| Record::Lease(lease.clone()));
    check(&snapshot.cluster, |state: &ClusterState| Record::ClusterState(state.clone()));
    for slot in snapshot.heartbeats.values() {
        check(slot, |heartbeat: &Heartbeat| Record::Heartbeat(heartbeat.clone()));
    }
}

pub(super) fn policy() -> Policy {
    let ms = Duration::from_millis;
    Policy {
        heartbeat_interval: ms(1_000),
        heartbeat_timeout: ms(1_500),
        failure_threshold: 6,
        fence_timeout: ms(3_000),
        safety_margin: ms(1_000),
        lease_duration: ms(15_000),
        clock_drift_ppm: 10_000,
        takeover_step: ms(500),
        maximum_lag_on_failover: 16 << 20,
        priority: 1,
        site: None,
        may_bootstrap: true,
        failback_after: None,
        synchronous: harmony_agent::core::synchronous::SynchronousMode::On,
        synchronous_standbys: 1,
        cool_down: ms(30_000),
        hand_over_timeout: ms(10_000),
        stop_timeout: ms(30_000),
        start_timeout: ms(120_000),
        promote_timeout: ms(60_000),
        before_promote: None,
        rejoin_timeout: ms(21_600_000),
        promises: true,
        watchdog: WatchdogMode::Off,
        on_hung: Reaction::Alert,
        on_disk_full: Reaction::Alert,
        demotes: false,
        shutdown_timeout: ms(60_000),
    }
}

pub(super) fn replica(now: Instant) -> Agent {
    let id = Identity {
        member: "a".parse().unwrap(),
        boot: "boot".parse().unwrap(),
        instance: "instance".parse().unwrap(),
        address: Address { host: "10.0.0.1".to_owned(), port: 5432, http: None },
    };
    Agent::new(id, policy(), None, now)
}

fn standby() -> Observation {
    Observation {
        process: Process::RunningStandby,
        condition: Condition::Ok,
        system: Some("7123456789012345678".parse().unwrap()),
        timeline: TimelineId(1),
        lsn: Lsn(0x0300_0060),
        replayed: Lsn(0x0300_0060),
        streaming: false,
        upstream: None,
        required: false,
        deputy_of: None,
        hindered: None,
        doubtful: None,
        standbys: Vec::new(),
    }
}

/// A replica sees this, and nothing else, for half a minute; whatever it writes to the lease has an
/// unknown outcome.
fn show_to_a_replica(snapshot: &Snapshot) {
    let begin = Instant::from_millis(1_000_000);
    let mut now = begin;
    let mut agent = replica(now);
    let mut events =
        vec![Event::Watchdog(WatchdogStatus::Down), Event::Observed(standby()), Event::Tick];
    let mut revision = 100;
    for _ in 0..120 {
        let event = match events.is_empty() {
            false => events.remove(0),
            true => {
                let due = agent.deadline().map_or(now, |deadline| deadline.at);
                now = due.max(now + Duration::from_millis(1));
                Event::Tick
            }
        };
        if now.since(begin) > Duration::from_secs(30) {
            return;
        }
        let observe = matches!(event, Event::Acted(..));
        for effect in agent.step(now, event) {
            match effect {
                Effect::Read(op, _) => events.push(Event::Read(op, Ok(snapshot.clone()))),
                Effect::Remember(op, _) => events.push(Event::Remembered(op, true)),
                Effect::Write(op, write, _) => {
                    let outcome = match write.key {
                        Key::Lease => {
                            check_acquisition(snapshot, now.since(begin));
                            WriteOutcome::Unknown { may_land: true, cause: "lost".to_owned() }
                        }
                        Key::ClusterState | Key::Heartbeat(_) | Key::Journal(_) => {
                            revision += 1;
                            WriteOutcome::Applied(Revision(revision))
                        }
                    };
                    events.push(Event::Written(op, outcome));
                }
                Effect::Act(op, action, _, _) => {
                    check_action(&action, snapshot);
                    let outcome = harmony_agent::core::event::ActionOutcome::Refused("no".into());
                    events.push(Event::Acted(op, outcome));
                }
                Effect::Observe => events.push(Event::Observed(standby())),
                Effect::Exit(_) => return,
                // The policy has no hook.
                Effect::BeforePromote(..)
                | Effect::Cancel(_)
                | Effect::EpochEnded(_)
                | Effect::Guard(_)
                | Effect::AskPromises(..)
                | Effect::Promise(..)
                | Effect::Became(_)
                | Effect::Report(_)
                | Effect::Alarm(_) => {}
            }
        }
        if observe {
            events.push(Event::Observed(standby()));
        }
        drop(agent.status());
    }
}

/// A lease that may not be obeyed is not taken over, one that is held not before its time.
fn check_acquisition(snapshot: &Snapshot, waited: Duration) {
    match &snapshot.lease {
        Slot::Invalid { why, .. } => panic!("acquired over a lease that is not obeyed: {why}"),
        Slot::Absent => {}
        Slot::Valid { record, .. } => {
            let own = record.holder.as_str() == "a" && record.instance.as_str() == "instance";
            let free = record.released.is_some() || own;
            assert!(free || waited >= record.lease_duration, "acquired after {waited:?}");
        }
    }
}

/// Nothing was applied: nothing may be opened. A read that shows our own write applied it.
fn check_action(action: &Action, snapshot: &Snapshot) {
    let ours = match &snapshot.lease {
        Slot::Valid { header, .. } => header.operation.starts_with("boot-"),
        Slot::Absent | Slot::Invalid { .. } => false,
    };
    let opens = action.opens();
    assert!(ours || !opens, "{action:?} without an applied lease");
}
