//! Reasons and alarms that no other story is about, each given where `docs/protocol.md` section 6 says.

use super::bench::*;
use crate::core::event::{
    Action, ActionOutcome, Alarm, Condition, Effect, Event, FenceProof, Observation, Process,
    ReadFailure, Reason, State, WatchdogStatus, WriteOutcome,
};
use crate::core::ids::{Epoch, SystemId};
use crate::core::policy::{Policy, Reaction, WatchdogMode};
use crate::core::records::Key;

fn last(bench: &Bench) -> (State, Reason) {
    let (transition, _) = bench.agent.status().last_transition.expect("a transition");
    (transition.to, transition.reason)
}

fn alarmed(bench: &Bench, alarm: Alarm) -> bool {
    bench.agent.status().alarms.contains(&alarm)
}

fn observe(bench: &mut Bench, change: impl FnOnce(&mut Observation)) {
    let mut observation = seen(Process::RunningPrimary);
    change(&mut observation);
    bench.step(Event::Observed(observation));
}

#[test]
fn an_agent_beside_a_running_primary_says_so() {
    let mut store = Store::new();
    store.put_lease(&identity("a", 0), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::RunningPrimary);
    assert_eq!(last(&bench), (State::PrimaryInitializing, Reason::StartedBesidePrimary));
}

#[test]
fn a_primary_seen_as_a_standby_is_fenced() {
    let mut bench = Bench::healthy();
    bench.observe(Process::RunningStandby);
    assert_eq!(last(&bench), (State::PrimaryFailed, Reason::DatabaseNotPrimary));
    assert!(bench.fences());
}

#[test]
fn a_full_disk_is_handed_over_only_when_told_to_and_when_somebody_can_take_it() {
    for (reaction, candidate, fails) in [
        (Reaction::FailOver, true, true),
        (Reaction::FailOver, false, false),
        (Reaction::Alert, true, false),
    ] {
        let mut bench = Bench::healthy_with(Policy { on_disk_full: reaction, ..policy() });
        if candidate {
            bench.store.put_heartbeat(&identity("b", 1), |_| {});
        }
        bench.read();
        observe(&mut bench, |seen| seen.condition = Condition::DiskFull("full".to_owned()));
        assert!(fails || alarmed(&bench, Alarm::DatabaseDiskFull));
        let failed = last(&bench) == (State::PrimaryFailed, Reason::DatabaseDiskFull);
        assert_eq!(failed, fails, "{reaction:?}, candidate: {candidate}");
    }
}

#[test]
fn what_a_primary_s_database_suffers_from_is_an_alarm_until_it_is_over() {
    let text = || "why".to_owned();
    for (condition, alarm) in [
        (Condition::Hung(text()), Alarm::DatabaseHung),
        (Condition::DiskFull(text()), Alarm::DatabaseDiskFull),
        (Condition::ConnectionsExhausted, Alarm::ConnectionsExhausted),
        (Condition::Denied(text()), Alarm::DatabaseDenied),
        (Condition::Broken(text()), Alarm::DatabaseBroken),
    ] {
        let mut bench = Bench::healthy_with(Policy { on_hung: Reaction::Alert, ..policy() });
        observe(&mut bench, |seen| seen.condition = condition.clone());
        assert!(bench.effects.contains(&Effect::Alarm(alarm)), "{condition:?}");
        observe(&mut bench, |seen| seen.condition = condition.clone());
        assert!(!bench.effects.contains(&Effect::Alarm(alarm)), "said once: {condition:?}");
        bench.observe(Process::RunningPrimary);
        assert!(!alarmed(&bench, alarm), "{condition:?}");
        assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    }
}

#[test]
fn a_start_that_fails_gives_the_lease_away_and_says_that_the_database_is_broken() {
    let mut bench = Bench::healthy();
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.observe(Process::StoppedPrimary);
    if bench.lease_written().is_none() {
        bench.read();
    }
    bench.apply(&Key::Lease);
    assert_eq!(bench.actions(), [Action::StartPrimary]);
    bench.acted(ActionOutcome::Refused("no".to_owned()));
    assert_eq!(last(&bench), (State::PrimaryFailed, Reason::StartFailed));
    assert!(alarmed(&bench, Alarm::DatabaseBroken));
    assert!(bench.fences());
}

#[test]
fn a_release_that_nobody_takes_is_taken_back() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.observe(Process::StoppedPrimary);
    bench.apply(&Key::Lease);
    assert_eq!(bench.agent.state(), State::PrimaryYielding);
    bench.quiet_seconds(21);
    let reasons = (bench.agent.state(), last(&bench).1);
    assert_eq!(reasons, (State::PrimaryInitializing, Reason::TakenBack));
}

#[test]
fn a_replica_that_failed_begins_again_when_it_can() {
    let mut bench = Bench::watching();
    bench.step(Event::Died);
    assert_eq!(last(&bench), (State::ReplicaFailed, Reason::DatabaseUnfit));
    bench.observe(Process::StoppedStandby);
    bench.quiet_seconds(3);
    let (transition, _) = bench.agent.status().last_transition.unwrap();
    assert_eq!(transition.reason, Reason::Recovered);
}

#[test]
fn who_was_deposed_and_finds_nobody_to_follow_comes_up_alone() {
    let mut bench = Bench::healthy();
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    bench.advance_ms(1_000);
    assert_eq!(bench.apply(&Key::Lease), WriteOutcome::Refused);
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.read();
    bench.acted(ActionOutcome::Refused("b is gone".to_owned()));
    assert!(alarmed(&bench, Alarm::RejoinFailed));
    for _ in 0..60 {
        bench.quiet_seconds(1);
        if bench.open.iter().any(|effect| matches!(effect, Effect::Act(..))) {
            bench.acted(ActionOutcome::Refused("b is gone".to_owned()));
        }
        if last(&bench).1 == Reason::UpstreamChanged {
            return;
        }
    }
    panic!("{:?}", last(&bench));
}

#[test]
fn a_fence_that_fails_is_an_alarm_until_one_succeeds() {
    let mut bench = Bench::healthy();
    bench.step(Event::Died);
    bench.acted(ActionOutcome::Unknown("timed out".to_owned()));
    assert!(alarmed(&bench, Alarm::FenceStepFailed));
    bench.acted(fenced());
    assert!(!alarmed(&bench, Alarm::FenceStepFailed));
}

#[test]
fn alarms_of_the_store_end_with_their_cause() {
    let mut bench = Bench::watching();
    bench.read_as(Err(ReadFailure::Rejected("access denied".to_owned())));
    assert!(alarmed(&bench, Alarm::StoreRejects));
    bench.read();
    assert!(!alarmed(&bench, Alarm::StoreRejects));
    bench.store.damage(Key::Heartbeat(member("c")));
    bench.read();
    assert!(alarmed(&bench, Alarm::RecordInvalid));
    bench.store.put_heartbeat(&identity("c", 1), |_| {});
    bench.read();
    assert!(!alarmed(&bench, Alarm::RecordInvalid));
}

#[test]
fn a_floor_that_cannot_be_written_is_an_alarm_and_tried_again() {
    let mut bench = Bench::watching();
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(6));
    bench.read();
    let saving = |bench: &mut Bench| {
        let found = bench.open.iter().find_map(|effect| match effect {
            Effect::Remember(op, _) => Some(*op),
            _ => None,
        });
        bench.open.retain(|effect| !matches!(effect, Effect::Remember(..)));
        found
    };
    let op = saving(&mut bench).expect("the new epoch is written down");
    bench.step(Event::Remembered(op, false));
    assert!(alarmed(&bench, Alarm::FloorNotWritten));
    bench.advance_ms(1_000);
    let op = saving(&mut bench).expect("it is tried again");
    bench.step(Event::Remembered(op, true));
    assert!(!alarmed(&bench, Alarm::FloorNotWritten));
}

#[test]
fn a_watchdog_that_is_down_is_an_alarm_unless_none_is_wanted() {
    for (mode, wanted) in [(WatchdogMode::Automatic, true), (WatchdogMode::Off, false)] {
        let mut bench = Bench::healthy_with(Policy { watchdog: mode, ..policy() });
        bench.step(Event::Watchdog(WatchdogStatus::Down));
        assert_eq!(alarmed(&bench, Alarm::WatchdogDown), wanted);
        bench.step(Event::Watchdog(WatchdogStatus::Idle));
        assert!(!alarmed(&bench, Alarm::WatchdogDown));
    }
}

#[test]
fn a_primary_that_nobody_could_replace_says_so() {
    let mut bench = Bench::healthy();
    for _ in 0..31 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
        bench.settle();
    }
    assert!(alarmed(&bench, Alarm::NoCandidate));
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    assert!(!alarmed(&bench, Alarm::NoCandidate));
}

#[test]
fn data_of_another_cluster_is_an_alarm() {
    let mut store = Store::new();
    let b = identity("b", 1);
    store.put_lease(&b, |_| {});
    store.put_cluster(&b, |_| {});
    let mut bench = Bench::start(store);
    bench.step(Event::Observed(Observation {
        system: Some(SystemId(8)),
        ..seen(Process::StoppedStandby)
    }));
    bench.read();
    assert!(alarmed(&bench, Alarm::ForeignData));
    assert!(bench.actions().is_empty());
}

/// A stop that was not clean names no position: what the old primary wrote last is not known.
#[test]
fn an_unclean_stop_releases_without_a_position() {
    for clean in [true, false] {
        let mut bench = Bench::healthy();
        bench.store.put_heartbeat(&identity("b", 1), |_| {});
        bench.read();
        bench.step(Event::Died);
        let ActionOutcome::Applied(crate::core::event::Done::Fenced(proof)) = fenced() else {
            panic!("a proof")
        };
        let proof = FenceProof { clean, ..proof };
        bench.acted(ActionOutcome::Applied(crate::core::event::Done::Fenced(proof)));
        bench.step(Event::Tick);
        let released = bench
            .open
            .iter()
            .find_map(|effect| match effect {
                Effect::Write(_, write, _) if write.key == Key::Lease => match &write.record {
                    crate::core::records::Record::Lease(lease) => lease.released.clone(),
                    _ => None,
                },
                _ => None,
            })
            .expect("a release");
        assert_eq!(released.lsn.is_some(), clean);
    }
}
