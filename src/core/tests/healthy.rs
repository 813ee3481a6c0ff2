use super::bench::*;
use crate::core::event::{
    Action, Condition, Effect, Event, Guard, Process, Reason, State, WatchdogStatus, WriteOutcome,
};
use crate::core::ids::Epoch;
use crate::core::policy::{Policy, WatchdogMode};
use crate::core::records::Key;
use std::time::Duration;

#[test]
fn a_lease_of_a_former_life_is_acquired_with_a_new_epoch() {
    let bench = Bench::healthy();
    assert_eq!(bench.store.lease().epoch, Epoch(6));
    bench.assert_no_storm();
}

#[test]
fn renews_every_interval_and_moves_the_watchdog() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    let lease = bench.lease_written().unwrap();
    assert_eq!((lease.epoch, lease.seq, lease.status), (Epoch(6), 1, State::PrimaryHealthy));
    bench.apply(&Key::Lease);
    let sent = bench.now;
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, sent + Duration::from_millis(14_850));
    let guard = until - seconds(1) - seconds(1);
    assert!(bench.effects.contains(&Effect::Guard(Guard::Until(guard, Epoch(6)))));
}

#[test]
fn a_renewal_counts_from_sending_not_from_the_answer() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    let sent = bench.now;
    bench.now = bench.now + seconds(3);
    bench.apply(&Key::Lease);
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, sent + Duration::from_millis(14_850));
}

#[test]
fn a_refused_renewal_fences_at_once() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseTaken)));
    let kill = crate::core::event::Ladder { fast: Duration::ZERO, immediate: Duration::ZERO };
    assert_eq!(bench.actions(), [Action::Fence { ladder: kill }]);
    assert!(bench.effects.contains(&Effect::EpochEnded(Epoch(7))));
    bench.assert_no_storm();
}

#[test]
fn as_many_unknown_renewals_as_the_threshold_fence() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    for _ in 0..2 {
        bench.answer(&Key::Lease, unknown());
        assert_eq!(bench.agent.state(), State::PrimaryHealthy);
        bench.advance_ms(1_000);
    }
    bench.answer(&Key::Lease, unknown());
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::RenewalsFailed)));
    assert!(bench.fences());
    assert!(bench.lease_written().is_none(), "never renews while fencing");
    for _ in 0..3 {
        bench.advance_ms(1_000);
        assert!(bench.lease_written().is_none(), "never renews while fencing");
    }
}

#[test]
fn an_unknown_renewal_is_sent_again_identically_and_counts_from_its_first_try() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    let first_sent = bench.now;
    let first = bench.answer(&Key::Lease, unknown());
    bench.advance_ms(1_000);
    let (op, again) = bench.writing(&Key::Lease).unwrap();
    assert_eq!(first, again);
    let outcome = bench.store.write(&bench.agent.identity().clone(), &again);
    bench.step(Event::Written(op, outcome));
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, first_sent + Duration::from_millis(14_850));
}

#[test]
fn a_renewal_that_was_not_sent_counts_from_the_try_that_was() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    let not_sent = WriteOutcome::Unknown { may_land: false, cause: "not connected".to_owned() };
    bench.answer(&Key::Lease, not_sent);
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, bench.now + Duration::from_millis(14_850));
}

#[test]
fn an_unknown_renewal_is_resolved_by_a_read() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    let sent = bench.now;
    let (op, write) = bench.writing(&Key::Lease).unwrap();
    bench.store.write(&bench.agent.identity().clone(), &write);
    bench.step(Event::Written(op, unknown()));
    bench.read();
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, sent + Duration::from_millis(14_850));
}

/// What moved the key may have been an earlier sending of our own.
#[test]
fn a_renewal_refused_on_a_later_sending_is_settled_by_a_read() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    let sent = bench.now;
    let (op, write) = bench.writing(&Key::Lease).unwrap();
    bench.store.write(&bench.agent.identity().clone(), &write);
    bench.step(Event::Written(op, unknown()));
    bench.advance_ms(1_000);
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.read();
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, sent + Duration::from_millis(14_850));
}

#[test]
fn a_lease_without_answers_is_fenced_before_it_ends() {
    let mut bench = Bench::healthy();
    let until = bench.agent.status().writable_until.unwrap();
    let fence_at = until - seconds(5);
    bench.now = fence_at - Duration::from_millis(1);
    bench.step(Event::Tick);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.advance_ms(1);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseExpiring)));
    assert!(bench.fences());
}

#[test]
fn waking_after_the_end_of_the_lease_fences_before_anything_else() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    bench.now = bench.now + seconds(600);
    bench.apply(&Key::Lease);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseExpired)));
    assert!(bench.fences());
    assert!(bench.lease_written().is_none());
}

#[test]
fn a_read_that_shows_a_later_holder_fences() {
    let mut bench = Bench::healthy();
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    bench.read();
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseTaken)));
}

#[test]
fn a_dead_database_is_fenced_in_the_same_step() {
    let mut bench = Bench::healthy();
    bench.step(Event::Died);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::DatabaseDied)));
    assert!(bench.fences());
}

#[test]
fn a_slow_database_is_not_dead() {
    let mut bench = Bench::healthy();
    for condition in [Condition::Slow, Condition::Starting, Condition::ConnectionsExhausted] {
        bench.step(Event::Observed(crate::core::event::Observation {
            condition,
            ..seen(Process::RunningPrimary)
        }));
        assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    }
}

#[test]
fn a_hung_database_is_handed_over_only_when_there_is_somebody_to_take_it() {
    let hung = crate::core::event::Observation {
        condition: Condition::Hung("no answer".to_owned()),
        ..seen(Process::RunningPrimary)
    };
    let mut bench = Bench::healthy();
    bench.step(Event::Observed(hung.clone()));
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::DatabaseHung)));
}

#[test]
fn a_required_watchdog_that_stays_away_ends_leadership() {
    let required = Policy { watchdog: WatchdogMode::Required, ..policy() };
    let mut store = Store::new();
    store.put_lease(&identity("a", 1), |_| {});
    let mut bench = Bench::start_as(identity("a", 1), required, None, store);
    bench.read();
    bench.observe(Process::RunningPrimary);
    bench.step(Event::Tick);
    assert!(bench.lease_written().is_none(), "no leadership without a watchdog");
    bench.step(Event::Watchdog(WatchdogStatus::Idle));
    assert!(bench.lease_written().is_some());
    bench.apply(&Key::Lease);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.step(Event::Watchdog(WatchdogStatus::Down));
    for _ in 0..14 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    }
    bench.advance_ms(1_000);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::WatchdogMissing)));
}

#[test]
fn a_shorter_lease_counts_from_when_it_is_sent() {
    let mut bench = Bench::healthy();
    let short = Policy { lease_duration: seconds(10), ..policy() };
    bench.step(Event::Reconfigured(short));
    let before = bench.agent.status().writable_until.unwrap();
    bench.advance_ms(1_000);
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, bench.now + Duration::from_millis(9_900));
    assert!(until < before, "a candidate may have read the shorter one by now");
}

/// The watchdog's deadline does not move back within an epoch: candidates must not wait for less than
/// it counts on.
#[test]
fn a_shorter_lease_is_not_published_before_the_watchdog_kills_in_time_for_it() {
    let guarding = Policy { watchdog: WatchdogMode::Automatic, ..policy() };
    let mut bench = Bench::healthy_with(guarding.clone());
    let mut guarded = bench.now + Duration::from_millis(12_850);
    let short = Policy { lease_duration: seconds(10), ..guarding };
    bench.step(Event::Reconfigured(short));
    let mut published = Vec::new();
    for _ in 0..8 {
        bench.advance_ms(1_000);
        let lease = bench.lease_written().unwrap();
        let last = guarded <= bench.now + lease.lease_duration.mul_f64(0.99) - seconds(2);
        assert!(last, "published {:?}", lease.lease_duration);
        published.push(lease.lease_duration.as_secs());
        bench.apply(&Key::Lease);
        for effect in &bench.effects {
            if let Effect::Guard(Guard::Until(until, _)) = effect {
                assert!(*until >= guarded, "refused by the watchdog");
                guarded = *until;
            }
        }
    }
    assert_eq!(published, [15, 15, 15, 15, 10, 10, 10, 10]);
}

#[test]
fn a_longer_lease_counts_only_once_it_is_applied() {
    let mut bench = Bench::healthy();
    let before = bench.agent.status().writable_until.unwrap();
    let long = Policy { lease_duration: seconds(60), ..policy() };
    bench.step(Event::Reconfigured(long));
    bench.advance_ms(1_000);
    assert_eq!(bench.agent.status().writable_until.unwrap(), before);
    bench.apply(&Key::Lease);
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, bench.now + Duration::from_millis(59_400));
}

#[test]
fn a_damaged_cluster_state_is_written_again_with_its_pause() {
    let mut store = Store::new();
    let a = identity("a", 1);
    store.put_lease(&a, |_| {});
    store.put_cluster(&a, |cluster| cluster.paused = Some(pause("maintenance")));
    let mut bench = Bench::start(store);
    bench.read();
    bench.observe(Process::RunningPrimary);
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    bench.read();
    bench.settle();
    bench.read();
    bench.store.damage(Key::ClusterState);
    bench.read();
    assert!(bench.writing(&Key::ClusterState).is_none());
    bench.advance_ms(1_000);
    bench.read();
    let (_, write) = bench.writing(&Key::ClusterState).unwrap();
    let crate::core::records::Record::ClusterState(cluster) = write.record else { panic!() };
    assert_eq!(cluster.paused, Some(pause("maintenance")));
}

#[test]
fn cluster_state_is_not_written_in_a_circle() {
    let mut bench = Bench::healthy();
    let mut writes = 0;
    for _ in 0..50 {
        bench.step(Event::Tick);
        if bench
            .open
            .iter()
            .any(|e| matches!(e, Effect::Write(_, w, _) if w.key == Key::ClusterState))
        {
            bench.answer(&Key::ClusterState, unknown());
            writes += 1;
        }
        bench.now = bench.now + Duration::from_millis(1);
        bench.read();
    }
    assert!(writes <= 1, "{writes}");
}

#[test]
fn a_renewal_while_the_database_is_not_seen_keeps_its_last_position() {
    let mut bench = Bench::healthy();
    bench.step(Event::Observed(seen(Process::RunningPrimary)));
    bench.step(Event::Shutdown(crate::core::event::ShutdownMode::HandOver));
    bench.acted(done());
    bench.advance_ms(1_000);
    assert_eq!(bench.lease_written().unwrap().database.system, Some(SYSTEM));
}
