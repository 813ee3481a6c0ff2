//! What a person asks for: another primary, a pause.

use super::bench::*;
use crate::core::event::{
    Action, Alarm, Effect, Event, Observation, Process, Reason, ShutdownMode, State,
};
use crate::core::ids::{Epoch, Lsn};
use crate::core::order::{Answer, Order, Pause, Wish};
use crate::core::policy::Policy;
use crate::core::records::{ClusterState, Heartbeat, Key, Record};
use crate::core::time::StoreTime;

fn order(wish: Wish, to: Option<&str>) -> Order {
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

fn to_b() -> Order {
    order(Wish::Switchover, Some("b"))
}

/// A healthy primary beside `b`, given `order`.
fn ordered(order: Order, b: impl FnOnce(&mut Heartbeat)) -> Bench {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), b);
    bench.read();
    bench.settle();
    bench.read();
    give(&mut bench, |cluster| cluster.order = Some(order));
    bench
}

/// Changes the description of the cluster as a person would, and has it read.
fn give(bench: &mut Bench, change: impl FnOnce(&mut ClusterState)) {
    bench.store.put_cluster(&identity("a", 1), |cluster| {
        cluster.epoch = Epoch(6);
        change(cluster);
    });
    bench.step(Event::Changed);
    bench.read();
}

/// What the primary answered, once it has written it down.
fn answer(bench: &mut Bench) -> Answer {
    for _ in 0..3 {
        if let Some((_, write)) = bench.writing(&Key::ClusterState) {
            let Record::ClusterState(cluster) = write.record else { panic!("no cluster state") };
            assert_eq!(cluster.order, None, "an answered order is over");
            return cluster.answer.expect("an answer");
        }
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
    }
    panic!("no answer: {:?}", bench.open);
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

#[test]
fn a_target_that_fell_silent_is_refused() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    for _ in 0..30 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
        bench.settle();
    }
    give(&mut bench, |cluster| cluster.order = Some(to_b()));
    assert!(answer(&mut bench).text.contains("not been heard of"));
}

#[test]
fn by_the_word_of_our_own_sender_the_target_is_near_enough() {
    let strict = Policy { maximum_lag_on_failover: 100, ..policy() };
    let mut bench = Bench::healthy_with(strict);
    let lsn = seen(Process::RunningPrimary).lsn;
    bench.step(Event::Observed(Observation {
        standbys: vec![("b".to_owned(), lsn)],
        ..seen(Process::RunningPrimary)
    }));
    // What it said of itself is older.
    bench.store.put_heartbeat(&identity("b", 1), |b| b.database.lsn = Lsn(1));
    bench.read();
    give(&mut bench, |cluster| cluster.order = Some(to_b()));
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
}

#[test]
fn a_target_that_no_sender_serves_is_refused_although_it_said_that_it_streams() {
    for (attached, refused) in [(vec!["c"], true), (vec![], true), (vec!["walreceiver"], false)] {
        let mut bench = Bench::healthy();
        let standbys = attached.iter().map(|name| ((*name).to_owned(), Lsn(5_000))).collect();
        bench.step(Event::Observed(Observation { standbys, ..seen(Process::RunningPrimary) }));
        for name in ["b", "c"] {
            bench.store.put_heartbeat(&identity(name, 1), |_| {});
        }
        bench.read();
        bench.settle();
        bench.read();
        give(&mut bench, |cluster| cluster.order = Some(to_b()));
        let stays = bench.agent.state() == State::PrimaryHealthy;
        assert_eq!(stays, refused, "attached: {attached:?}");
        assert!(!refused || answer(&mut bench).text.contains("does not stream"));
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
fn a_failover_by_hand_takes_over_in_spite_of_a_pause_and_loses_only_what_it_may() {
    let failover =
        |accept_loss| Order { epoch: Epoch(5), ..order(Wish::Failover { accept_loss }, Some("a")) };
    for (order, behind, takes) in [
        (None, 0, false),
        (Some(failover(false)), 0, true),
        (Some(failover(false)), 1, false),
        (Some(failover(true)), 1 << 30, true),
        (Some(Order { to: Some(member("c")), ..failover(true) }), 0, false),
        (Some(Order { rehearsal: true, ..failover(true) }), 0, false),
    ] {
        let text = format!("{order:?}, {behind} behind");
        let mut bench = Bench::watching_with(policy(), |store| {
            let b = identity("b", 1);
            store.put_lease(&b, |lease| {
                lease.database.lsn = Lsn(seen(Process::RunningStandby).lsn.0 + behind);
            });
            store.put_cluster(&b, |cluster| {
                cluster.paused = Some(pause("x"));
                cluster.order = order;
            });
        });
        for _ in 0..40 {
            bench.quiet_seconds(1);
            bench.observe(Process::RunningStandby);
        }
        let wrote = bench.writing(&Key::Lease).is_some();
        assert_eq!(wrote, takes, "{text}: {}", bench.agent.status().takeover);
    }
}

#[test]
fn while_paused_nothing_changes_by_itself() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    give(&mut bench, |cluster| cluster.paused = Some(pause("x")));
    // A database that died is opened again here, not handed over.
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryInitializing, Reason::LeaseKept)));
    assert!(!bench.agent.status().alarms.contains(&Alarm::NoCandidate));
}

#[test]
fn a_pause_ends_by_the_store_s_clock_alone() {
    let until = StoreTime(5);
    let ending = Pause { until: Some(until), ..pause("x") };
    assert!(pause("x").holds(None) && pause("x").holds(Some(StoreTime(i64::MAX))));
    assert!(ending.holds(None), "an absent store ends no pause");
    assert!(ending.holds(Some(StoreTime(4))) && !ending.holds(Some(until)));
}

#[test]
fn a_pause_that_ended_is_removed() {
    let mut bench = Bench::healthy();
    let until = StoreTime(bench.store.clock);
    give(&mut bench, |cluster| cluster.paused = Some(Pause { until: Some(until), ..pause("x") }));
    let (_, write) = bench.writing(&Key::ClusterState).unwrap();
    let Record::ClusterState(cluster) = write.record else { panic!() };
    assert_eq!(cluster.paused, None);
}

fn preferring(after: u64) -> Bench {
    let mut bench =
        Bench::healthy_with(Policy { failback_after: Some(seconds(after)), ..policy() });
    bench.store.put_heartbeat(&identity("b", 1), |b| b.priority = 5);
    bench.read();
    bench
}

fn renew(bench: &mut Bench) {
    let on_its_way = |it: &Effect| matches!(it, Effect::Write(_, w, _) if w.key == Key::Lease);
    if bench.open.iter().any(on_its_way) {
        bench.apply(&Key::Lease);
    }
}

fn live(bench: &mut Bench, for_seconds: u64, b: impl Fn(&mut Heartbeat)) {
    for _ in 0..for_seconds {
        bench.advance_ms(1_000);
        renew(bench);
        bench.store.put_heartbeat(&identity("b", 1), &b);
        bench.step(Event::Changed);
        bench.read();
        bench.settle();
    }
}

#[test]
fn the_preferred_member_gets_the_lease_back_once_it_has_been_fit_for_long_enough() {
    let mut bench = preferring(10);
    live(&mut bench, 8, |b| b.priority = 5);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    // A moment of weakness begins the time anew.
    live(&mut bench, 1, |b| {
        b.priority = 5;
        b.streaming = false;
    });
    live(&mut bench, 8, |b| b.priority = 5);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    live(&mut bench, 4, |b| b.priority = 5);
    assert_eq!(bench.agent.status().last_transition.unwrap().0.reason, Reason::Failback);
}

#[test]
fn a_failback_is_by_the_cluster_s_settings_rather_than_by_a_member_s_own() {
    let mut bench = preferring(5);
    give(&mut bench, |cluster| cluster.settings.failback_after_ms = Some(0));
    live(&mut bench, 20, |b| b.priority = 5);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    give(&mut bench, |cluster| cluster.settings.failback_after_ms = Some(2_000));
    live(&mut bench, 5, |b| b.priority = 5);
    assert_eq!(bench.agent.status().last_transition.unwrap().0.reason, Reason::Failback);
}

/// Each try costs clients the time for which nobody takes the lease.
#[test]
fn a_failback_that_is_not_taken_is_tried_again_later_and_later() {
    let mut bench = preferring(5);
    let mut waited = Vec::new();
    for _ in 0..3 {
        let since = bench.now;
        while bench.agent.state() == State::PrimaryHealthy {
            live(&mut bench, 1, |b| b.priority = 5);
            assert!(bench.now.since(since) < seconds(100), "no failback");
        }
        assert_eq!(bench.agent.status().last_transition.unwrap().0.reason, Reason::Failback);
        waited.push(bench.now.since(since).as_secs());
        bench.acted(done());
        bench.acted(fenced());
        // A renewal may have been on its way; then the release is, and at last the lease is taken back.
        while bench.agent.state() != State::PrimaryInitializing
            || !bench.open.iter().any(|it| matches!(it, Effect::Act(..)))
        {
            assert!(bench.now.since(since) < seconds(200), "{:?}", bench.agent.status());
            renew(&mut bench);
            bench.observe(Process::StoppedPrimary);
            bench.quiet_seconds(1);
        }
        bench.acted(done());
        bench.observe(Process::RunningPrimary);
        assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    }
    let [first, second, third] = waited[..] else { panic!("{waited:?}") };
    assert!(first >= 5 && second >= 2 * first - 1 && third >= 2 * second - 1, "{waited:?}");
}

#[test]
fn nobody_is_preferred_by_the_same_priority_nor_while_paused() {
    let mut bench = preferring(3);
    live(&mut bench, 20, |_| {});
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    let mut bench = preferring(3);
    give(&mut bench, |cluster| cluster.paused = Some(pause("x")));
    live(&mut bench, 20, |b| b.priority = 5);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
}

#[test]
fn a_failback_by_hand_finds_the_preferred_member() {
    let bench = ordered(order(Wish::Failback, None), |b| b.priority = 5);
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Failback)));
    let mut bench = ordered(order(Wish::Failback, None), |_| {});
    assert!(answer(&mut bench).text.contains("higher priority"));
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
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
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
fn a_pause_calls_off_what_a_pause_would_not_have_begun() {
    for (wish, off) in [(Wish::Switchover, true), (Wish::Failover { accept_loss: false }, false)] {
        let mut bench = ordered(order(wish, Some("b")), |_| {});
        give(&mut bench, |cluster| {
            cluster.order = Some(order(wish, Some("b")));
            cluster.paused = Some(pause("x"));
        });
        let state = if off { State::PrimaryHealthy } else { State::PrimaryYielding };
        assert_eq!(bench.agent.state(), state, "{wish:?}");
    }
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

#[test]
fn in_a_pause_a_target_that_never_takes_over_is_refused_too() {
    let failover = order(Wish::Failover { accept_loss: false }, Some("b"));
    for (why, handed) in [("automatic transitions are paused: x", true), ("priority is 0", false)] {
        let mut bench = Bench::healthy();
        bench.store.put_heartbeat(&identity("b", 1), |b| b.ineligible = Some(why.to_owned()));
        bench.read();
        bench.settle();
        give(&mut bench, |cluster| {
            cluster.order = Some(failover.clone());
            cluster.paused = Some(pause("x"));
        });
        assert_eq!(bench.agent.state() == State::PrimaryYielding, handed, "{why}");
    }
}
