use std::time::Duration;

use super::bench::*;
use crate::core::event::{
    Action, ActionOutcome, Effect, Event, Ladder, Process, Reason, State, WriteOutcome,
};
use crate::core::ids::Epoch;
use crate::core::records::Key;

/// Deposed by `b` and fenced.
fn deposed() -> Bench {
    let mut bench = Bench::healthy();
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    bench.advance_ms(1_000);
    assert_eq!(bench.apply(&Key::Lease), WriteOutcome::Refused);
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Deposed)));
    bench
}

#[test]
fn the_deposed_rejoins_the_new_holder() {
    let mut bench = deposed();
    bench.assert_no_storm();
    bench.read();
    assert!(matches!(&bench.actions()[..],
        [Action::Rejoin { upstream }] if upstream.member == member("b")));
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::ReplicaInitializing, Reason::Following)));
}

#[test]
fn a_failed_rejoin_is_tried_again_later() {
    let mut bench = deposed();
    bench.read();
    bench.acted(ActionOutcome::Refused("no".to_owned()));
    bench.assert_no_storm();
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    bench.quiet_seconds(3);
    assert!(bench.actions().is_empty());
    bench.advance_ms(1_000);
    assert!(matches!(bench.actions()[..], [Action::Rejoin { .. }]));
}

#[test]
fn nobody_to_follow_is_waited_for_without_a_storm_and_not_for_ever() {
    let mut bench = deposed();
    bench.read();
    bench.acted(ActionOutcome::Refused("b is gone".to_owned()));
    bench.assert_no_storm();
    for _ in 0..40 {
        bench.quiet_seconds(1);
        bench.assert_no_storm();
        if bench.agent.state() == State::ReplicaInitializing {
            return;
        }
        if bench.open.iter().any(|effect| matches!(effect, Effect::Act(..))) {
            bench.acted(ActionOutcome::Refused("b is gone".to_owned()));
        }
    }
    panic!("{:?}", bench.agent.state());
}

#[test]
fn a_lease_nobody_takes_is_taken_back() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    bench.observe(Process::StoppedPrimary);
    bench.assert_no_storm();
    bench.quiet_seconds(19);
    assert_eq!(bench.agent.state(), State::PrimaryYielding);
    bench.quiet_seconds(1);
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    bench.quiet_seconds(1);
    bench.apply(&Key::Lease);
    assert_eq!(bench.actions(), [Action::StartPrimary]);
}

#[test]
fn a_lone_primary_that_cannot_start_tries_again_only_after_its_cool_down() {
    let mut bench = Bench::healthy();
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.observe(Process::StoppedPrimary);
    if bench.lease_written().is_none() {
        bench.read();
    }
    let mut epoch = Epoch(7);
    for _ in 0..3 {
        bench.apply(&Key::Lease);
        assert_eq!(bench.actions(), [Action::StartPrimary]);
        assert_eq!(bench.store.lease().epoch, epoch);
        bench.acted(ActionOutcome::Refused("pg_wal is gone".to_owned()));
        bench.acted(fenced());
        bench.step(Event::Tick);
        bench.apply(&Key::Lease);
        assert!(bench.store.lease().released.is_some(), "anybody else may have it at once");
        bench.observe(Process::StoppedPrimary);
        bench.assert_no_storm();
        bench.quiet_seconds(59);
        assert_eq!(bench.agent.state(), State::PrimaryYielding);
        bench.quiet_seconds(2);
        assert_eq!(bench.agent.state(), State::PrimaryInitializing);
        epoch = epoch.next();
    }
}

#[test]
fn a_refused_release_means_deposed() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    assert_eq!(bench.apply(&Key::Lease), WriteOutcome::Refused);
    bench.read();
    assert!(matches!(bench.actions()[..], [Action::Rejoin { .. }]));
}

/// Whoever started it has no lease, and the lease may be somebody else's already.
#[test]
fn a_primary_that_somebody_brings_up_again_is_stopped_at_once() {
    let released = || {
        let mut bench = Bench::healthy();
        bench.store.put_heartbeat(&identity("b", 1), |_| {});
        bench.read();
        bench.step(Event::Died);
        bench.acted(fenced());
        bench.step(Event::Tick);
        bench
    };
    let awaiting = || {
        let mut bench = released();
        bench.apply(&Key::Lease);
        bench
    };
    for mut bench in [deposed(), released(), awaiting()] {
        bench.open.clear();
        bench.observe(Process::RunningPrimary);
        assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::StrayPrimary)));
        let kill = Ladder { fast: Duration::ZERO, immediate: Duration::ZERO };
        assert_eq!(bench.actions(), [Action::Fence { ladder: kill }]);
        bench.acted(fenced());
        bench.step(Event::Tick);
        assert_eq!(bench.agent.state(), State::PrimaryYielding);
        assert!(bench.actions().is_empty());
    }
}

/// While a renewal may still land that was on its way before the fence.
#[test]
fn a_primary_that_comes_up_before_its_fence_is_followed_by_anything_is_stopped_again() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    bench.step(Event::Died);
    bench.acted(fenced());
    assert_eq!(bench.agent.state(), State::PrimaryFenced);
    bench.observe(Process::RunningPrimary);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::StrayPrimary)));
    bench.acted(fenced());
    assert_eq!(bench.agent.state(), State::PrimaryFenced);
}
