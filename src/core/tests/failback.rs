//! The lease goes back to the member that is preferred: by itself, or because a person says so.

use super::bench::*;
use super::orders::{answer, give, order, ordered};
use crate::core::event::{Effect, Event, Process, Reason, State};
use crate::core::order::Wish;
use crate::core::policy::Policy;
use crate::core::records::{Heartbeat, Key};

pub(super) fn preferring(after: u64) -> Bench {
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

pub(super) fn live(bench: &mut Bench, for_seconds: u64, b: impl Fn(&mut Heartbeat)) {
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
