//! A store that shows less than is known, or is another one.
use super::bench::*;
use crate::core::event::{Alarm, Effect, Event, Process, State, WriteOutcome};
use crate::core::ids::{Epoch, Revision};
use crate::core::records::{Key, Release, Slot};

fn released() -> Release {
    Release {
        to: None,
        reason: "hand_over".to_owned(),
        lsn: None,
        timeline: crate::core::ids::TimelineId(1),
        fence: Default::default(),
        token: None,
    }
}

/// A standby with a floor, and a store whose lease everybody may take.
fn beside(epoch: u64, revision: u64, life: &str) -> Bench {
    let mut store = Store::new();
    store.put_lease(&identity("b", 1), |lease| lease.released = Some(released()));
    store.put_cluster(&identity("b", 1), |_| {});
    let floor = Bench::start(store.clone()).floor(epoch, revision);
    store.incarnation = life.parse().unwrap();
    let mut bench = Bench::start_as(identity("a", 1), policy(), Some(floor), store);
    bench.observe(Process::RunningStandby);
    bench.read();
    bench.step(Event::Tick);
    bench
}

#[test]
fn an_obeyed_store_gives_its_lease() {
    let bench = beside(5, 1, "life-1");
    assert!(bench.open.iter().any(|e| matches!(e,
        Effect::Write(_, write, _) if write.key == Key::Lease)));
}

#[test]
fn a_store_that_shows_less_promotes_nobody() {
    for (epoch, revision, life) in [(6, 1, "life-1"), (5, 2, "life-1"), (5, 1, "life-2")] {
        let mut bench = beside(epoch, revision, life);
        bench.quiet_seconds(60);
        assert!(bench.writing(&Key::Lease).is_none(), "{epoch} {revision} {life}");
        assert!(bench.agent.status().not_obeyed.is_some());
    }
}

#[test]
fn a_store_that_catches_up_is_obeyed_again() {
    let mut bench = beside(5, 3, "life-1");
    bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(released()));
    bench.read();
    bench.step(Event::Tick);
    assert!(bench.agent.status().not_obeyed.is_none());
    assert!(bench.writing(&Key::Lease).is_some());
}

#[test]
fn what_was_seen_once_is_not_forgotten() {
    let mut bench = Bench::healthy();
    let before = bench.store.clone();
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    bench.store = before;
    bench.read();
    assert!(bench.agent.status().not_obeyed.is_some());
    assert_eq!(bench.agent.state(), State::PrimaryHealthy, "by its own renewals only");
    bench.advance_ms(1_000);
    assert_eq!(bench.apply(&Key::Lease), WriteOutcome::Refused);
    assert!(bench.fences());
}

#[test]
fn another_life_of_the_store_gives_no_right_to_write() {
    let mut bench = Bench::healthy();
    bench.store.incarnation = "life-2".parse().unwrap();
    bench.read();
    bench.advance_ms(1_000);
    assert!(matches!(bench.apply(&Key::Lease), WriteOutcome::Applied(_)));
    assert!(bench.fences());
}

#[test]
fn a_busy_store_does_not_keep_a_refused_view_outdated() {
    let mut bench = Bench::watching();
    bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(released()));
    bench.read();
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    bench.step(Event::Changed);
    let op = bench.open.iter().find_map(|effect| match effect {
        Effect::Read(op, _) => Some(*op),
        _ => None,
    });
    let snapshot = bench.store.snapshot();
    bench.step(Event::Read(op.unwrap(), Ok(snapshot)));
    assert!(bench.lease_written().is_some(), "begun after the refusal, whatever changed since");
}

#[test]
fn the_floor_is_written_before_it_counts() {
    let bench = Bench::healthy();
    assert!(bench.open.iter().all(|e| !matches!(e, Effect::Remember(..))));
    let Slot::Valid { revision, record, .. } = bench.store.snapshot().lease else { panic!() };
    assert_eq!((record.epoch, revision > Revision(0)), (Epoch(6), true));
}

/// Reads and writes are answered in any order.
#[test]
fn a_read_from_before_our_own_write_is_no_rollback() {
    let mut bench = Bench::healthy();
    bench.read();
    bench.settle();
    bench.advance_ms(1_000);
    let before = bench.store.snapshot();
    let op = bench.reading().expect("a read begun before the write was applied");
    bench.apply(&Key::Lease);
    bench.step(Event::Read(op, Ok(before.clone())));
    assert!(!bench.agent.status().alarms.contains(&Alarm::StoreNotObeyed));
    assert_eq!(bench.agent.status().not_obeyed, None);
    // The next read was begun after it: what it does not show is lost.
    bench.read_as(Ok(before));
    assert!(bench.agent.status().alarms.contains(&Alarm::StoreNotObeyed));
}
