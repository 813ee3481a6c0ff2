//! What a person asks for: another primary.

use super::bench::*;
use crate::core::event::{
    Action, Effect, Event, Observation, Process, Reason, ShutdownMode, State, StoreWrite,
};
use crate::core::ids::{Epoch, Lsn};
use crate::core::order::{Answer, Order, Wish};
use crate::core::policy::Policy;
use crate::core::records::{ClusterState, Heartbeat, Key, Record};
use crate::core::time::StoreTime;

pub(super) fn order(wish: Wish, to: Option<&str>) -> Order {
    Order {
        id: "order-1".to_owned(),
        wish,
        epoch: Epoch(6),
        to: to.map(member),
        by: "somebody".to_owned(),
        not_before: None,
        rehearsal: false,
    }
}

pub(super) fn to_b() -> Order {
    order(Wish::Switchover, Some("b"))
}

/// A healthy primary beside `b`, given `order`.
pub(super) fn ordered(order: Order, b: impl FnOnce(&mut Heartbeat)) -> Bench {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), b);
    bench.read();
    bench.settle();
    bench.read();
    give(&mut bench, |cluster| cluster.order = Some(order));
    bench
}

/// Changes the description of the cluster as a person would, and has it read when every member has
/// reported since.
pub(super) fn give(bench: &mut Bench, change: impl FnOnce(&mut ClusterState)) {
    put(bench, change);
    bench.store.all_report_again();
    bench.step(Event::Changed);
    bench.read();
}

pub(super) fn put(bench: &mut Bench, change: impl FnOnce(&mut ClusterState)) {
    bench.store.put_cluster(&identity("a", 1), |cluster| {
        cluster.epoch = Epoch(6);
        change(cluster);
    });
}

/// What the primary is writing down as its answer.
pub(super) fn answered(bench: &Bench) -> Option<Answer> {
    bench.open.iter().find_map(|effect| match effect {
        Effect::Write(_, StoreWrite { record: Record::ClusterState(cluster), .. }, _) => {
            cluster.answer.clone()
        }
        _ => None,
    })
}

/// Time passes until the primary writes down its answer.
fn until_answered(bench: &mut Bench) -> Answer {
    let describes =
        |it: &Effect| matches!(it, Effect::Write(_, write, _) if write.key == Key::ClusterState);
    for _ in 0..6 {
        if let Some(answer) = answered(bench) {
            return answer;
        }
        // The admission of its members, which would be in the way of the answer.
        if bench.open.iter().any(describes) {
            bench.apply(&Key::ClusterState);
        }
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
    }
    panic!("no answer: {:?}", bench.open);
}

/// What the primary answered, once it has written it down.
pub(super) fn answer(bench: &mut Bench) -> Answer {
    let answer = until_answered(bench);
    let (_, write) = bench.writing(&Key::ClusterState).unwrap();
    let Record::ClusterState(cluster) = write.record else { panic!("no cluster state") };
    assert_eq!(cluster.order, None, "an answered order is over");
    answer
}

#[test]
fn a_switchover_drains_stops_and_hands_the_lease_to_the_member_named() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    // Ahead of b in line.
    bench.store.put_heartbeat(&identity("c", 1), |c| c.priority = 9);
    bench.read();
    give(&mut bench, |cluster| cluster.order = Some(to_b()));
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
    assert_eq!(bench.actions(), [Action::Checkpoint]);
    bench.acted(done());
    assert!(bench.fences());
    bench.acted(fenced());
    let release = bench.lease_written().unwrap().released.unwrap();
    assert_eq!((release.to, release.reason.as_str()), (Some(member("b")), "switchover"));
    assert!(release.lsn.is_some(), "the target waits for what was written last");
    bench.apply(&Key::Lease);
    assert!(!bench.exits());
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    bench.read();
    assert!(matches!(&bench.actions()[..],
        [Action::Rejoin { upstream }] if upstream.member == member("b")));
}

#[test]
fn a_switchover_without_a_name_goes_to_the_first_in_line() {
    let bench = ordered(order(Wish::Switchover, None), |_| {});
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
}

#[test]
fn what_cannot_be_done_is_answered_and_over() {
    type Change = fn(&mut Heartbeat);
    let cases: [(&str, &str, Change); 7] = [
        ("a", "primary already", |_| {}),
        ("x", "no member x reports; those that do: b", |_| {}),
        ("b", "would not take over: priority is 0", |b| {
            b.ineligible = Some("priority is 0: never promoted".to_owned());
        }),
        ("b", "is in state replica_failed", |b| b.status = State::ReplicaFailed),
        ("b", "does not stream", |b| b.streaming = false),
        ("b", "bytes behind", |b| b.database.lsn = Lsn(1)),
        ("b", "paused: x", |_| {}),
    ];
    for (to, expected, change) in cases {
        let strict = Policy { maximum_lag_on_failover: 100, ..policy() };
        let mut bench = Bench::healthy_with(strict);
        bench.store.put_heartbeat(&identity("b", 1), change);
        bench.step(Event::Observed(Observation {
            // One that follows under another name: only its heartbeat tells of it.
            standbys: vec![("walreceiver".to_owned(), Lsn(1))],
            ..seen(Process::RunningPrimary)
        }));
        bench.read();
        bench.settle();
        give(&mut bench, |cluster| {
            cluster.order = Some(order(Wish::Switchover, Some(to)));
            cluster.paused = expected.starts_with("paused").then(|| pause("x"));
        });
        let answer = answer(&mut bench);
        assert_eq!((answer.id.as_str(), answer.done), ("order-1", false));
        assert!(answer.text.contains(expected), "{expected}: {}", answer.text);
        assert_eq!(bench.agent.state(), State::PrimaryHealthy);
        assert!(bench.actions().is_empty());
    }
}

/// The lease is held, so there is nothing to wait for.
#[test]
fn a_target_lost_while_the_database_was_stopped_has_it_opened_again_at_once() {
    let mut bench = ordered(to_b(), |_| {});
    bench.acted(done());
    bench.store.put_heartbeat(&identity("b", 1), |b| b.status = State::ReplicaFailed);
    bench.step(Event::Changed);
    bench.read();
    bench.acted(fenced());
    assert_eq!(bench.became(), Some((State::PrimaryFenced, Reason::CalledOff)));
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryInitializing, Reason::LeaseKept)));
    bench.observe(Process::StoppedPrimary);
    if bench.lease_written().is_none() {
        bench.read();
    }
    bench.apply(&Key::Lease);
    assert_eq!(bench.actions(), [Action::StartPrimary]);
}

#[test]
fn a_rehearsal_changes_nothing() {
    let mut bench = ordered(Order { rehearsal: true, ..to_b() }, |_| {});
    let answer = answer(&mut bench);
    assert!(answer.done && answer.text.contains("b would take over"), "{answer:?}");
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
}

#[test]
fn an_order_about_another_epoch_is_void() {
    for epoch in [5, 7] {
        let bench = ordered(Order { epoch: Epoch(epoch), ..to_b() }, |_| {});
        assert_eq!(bench.agent.state(), State::PrimaryHealthy, "epoch {epoch}");
    }
}

#[test]
fn an_order_waits_for_its_time_by_the_store_s_clock() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    let now = bench.store.clock;
    let later = StoreTime(now + 5_000_000_000);
    give(&mut bench, |cluster| cluster.order = Some(Order { not_before: Some(later), ..to_b() }));
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.store.clock = later.0 + 1;
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    bench.read();
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
}

#[test]
fn an_order_is_called_off_as_long_as_clients_are_served() {
    // Withdrawn, or its target lost.
    for withdrawn in [true, false] {
        let mut bench = ordered(to_b(), |_| {});
        assert_eq!(bench.actions(), [Action::Checkpoint]);
        if withdrawn {
            give(&mut bench, |cluster| cluster.order = None);
        } else {
            bench.store.put_heartbeat(&identity("b", 1), |b| b.status = State::ReplicaFailed);
            bench.step(Event::Changed);
            bench.read();
        }
        assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::CalledOff)));
        bench.acted(done());
        if !withdrawn {
            bench.read();
            assert!(answer(&mut bench).text.contains("replica_failed"));
        }
        assert_eq!(bench.agent.state(), State::PrimaryHealthy);
        assert!(!bench.fences());
    }
}

#[test]
fn another_order_takes_the_place_of_the_one_that_is_being_prepared() {
    let mut bench = ordered(to_b(), |_| {});
    bench.store.put_heartbeat(&identity("c", 1), |_| {});
    give(&mut bench, |cluster| {
        let order = order(Wish::Switchover, Some("c"));
        cluster.order = Some(Order { id: "order-2".to_owned(), ..order });
    });
    assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::CalledOff)));
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
    bench.acted(done());
    bench.acted(fenced());
    assert_eq!(bench.lease_written().unwrap().released.unwrap().to, Some(member("c")));
}

#[test]
fn once_the_database_is_being_stopped_nothing_calls_it_back() {
    let mut bench = ordered(to_b(), |_| {});
    bench.acted(done());
    assert!(bench.fences());
    give(&mut bench, |cluster| cluster.order = None);
    assert_eq!(bench.agent.state(), State::PrimaryYielding);
    bench.acted(fenced());
    assert_eq!(bench.lease_written().unwrap().released.unwrap().to, Some(member("b")));
}

#[test]
fn a_hand_over_that_nobody_takes_is_taken_back_and_said() {
    let mut bench = ordered(to_b(), |_| {});
    bench.acted(done());
    bench.acted(fenced());
    bench.apply(&Key::Lease);
    bench.observe(Process::StoppedPrimary);
    bench.quiet_seconds(21);
    bench.apply(&Key::Lease);
    assert_eq!(bench.actions(), [Action::StartPrimary]);
    bench.acted(done());
    bench.observe(Process::RunningPrimary);
    let answer = answer(&mut bench);
    assert!(!answer.done && answer.text.contains("a is the primary"), "{answer:?}");
}

#[test]
fn who_was_ordered_says_that_it_is_done() {
    let mut store = Store::new();
    let a = identity("a", 1);
    store.put_lease(&a, |_| {});
    store.put_cluster(&a, |cluster| {
        cluster.primary = member("b");
        cluster.order = Some(Order { epoch: Epoch(5), ..order(Wish::Switchover, Some("a")) });
    });
    let mut bench = Bench::start(store);
    bench.read();
    bench.observe(Process::RunningPrimary);
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    bench.observe(Process::RunningPrimary);
    let answer = answer(&mut bench);
    assert!(answer.done && answer.text.contains("a is the primary since epoch 6"), "{answer:?}");
}

#[test]
fn a_shutdown_during_a_switchover_keeps_its_target() {
    let mut bench = ordered(to_b(), |_| {});
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    bench.acted(done());
    bench.acted(fenced());
    assert_eq!(bench.lease_written().unwrap().released.unwrap().to, Some(member("b")));
}

#[test]
fn what_was_answered_stays_answered_until_it_is_in_the_store() {
    let mut bench = ordered(to_b(), |b| b.streaming = false);
    assert!(!until_answered(&mut bench).done);
    // It streams while the answer is on its way.
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.step(Event::Changed);
    bench.read();
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    assert!(!answer(&mut bench).done);
}

#[test]
fn nothing_begins_before_the_drain_that_was_called_off_is_over() {
    let mut bench = ordered(to_b(), |_| {});
    assert_eq!(bench.actions(), [Action::Checkpoint]);
    give(&mut bench, |cluster| cluster.order = None);
    assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::CalledOff)));
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    give(&mut bench, |cluster| cluster.order = Some(Order { id: "order-2".to_owned(), ..to_b() }));
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Shutdown)));
}

#[test]
fn after_a_stop_that_was_not_clean_nobody_is_handed_what_he_may_lack() {
    let wishes = [Wish::Switchover, Wish::Failback, Wish::Failover { accept_loss: false }];
    for wish in wishes.into_iter().chain([Wish::Failover { accept_loss: true }]) {
        let mut bench = ordered(order(wish, Some("b")), |_| {});
        bench.acted(done());
        assert!(bench.fences());
        bench.acted(fenced_by_kill());
        let accepted = wish == Wish::Failover { accept_loss: true };
        assert_eq!(bench.lease_written().is_some_and(|it| it.released.is_some()), accepted);
        let fenced = Some((State::PrimaryFenced, Reason::CalledOff));
        assert_eq!(bench.became() == fenced, !accepted, "{wish:?}");
    }
}
