use super::bench::*;
use crate::core::event::{
    Action, ActionOutcome, Alarm, Effect, Event, Process, Reason, State, WatchdogStatus,
    WriteOutcome,
};
use crate::core::ids::Epoch;
use crate::core::policy::{Policy, WatchdogMode};
use crate::core::records::Key;
use std::time::Duration;

fn died() -> Bench {
    let mut bench = Bench::healthy();
    bench.step(Event::Died);
    bench
}

#[test]
fn a_failed_fence_is_tried_again_by_killing_and_then_with_pauses() {
    let mut bench = died();
    bench.acted(ActionOutcome::Refused("no".to_owned()));
    assert!(bench.effects.contains(&Effect::Alarm(Alarm::FenceStepFailed)));
    let kill = crate::core::event::Ladder { fast: Duration::ZERO, immediate: Duration::ZERO };
    assert_eq!(bench.actions(), [Action::Fence { ladder: kill }]);
    bench.acted(ActionOutcome::Refused("no".to_owned()));
    assert!(!bench.fences(), "not in a circle");
    assert_eq!(bench.agent.state(), State::PrimaryFailed);
    bench.advance_ms(1_000);
    assert!(bench.fences());
    bench.assert_no_storm();
}

#[test]
fn only_a_proof_leaves_failed() {
    let mut bench = died();
    bench.acted(ActionOutcome::Unknown("timeout".to_owned()));
    bench.acted(done());
    bench.observe(Process::StoppedPrimary);
    bench.read();
    assert_eq!(bench.agent.state(), State::PrimaryFailed);
}

#[test]
fn without_a_candidate_the_database_is_opened_again_by_an_applied_acquisition() {
    let mut bench = died();
    bench.acted(fenced());
    assert_eq!(bench.became(), Some((State::PrimaryFenced, Reason::FenceConfirmed)));
    bench.assert_no_storm();
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryInitializing, Reason::LeaseKept)));
    bench.observe(Process::StoppedPrimary);
    if bench.lease_written().is_none() {
        bench.read();
    }
    assert_eq!(bench.lease_written().unwrap().epoch, Epoch(7));
    assert!(bench.actions().is_empty(), "not before the acquisition is applied");
    bench.apply(&Key::Lease);
    assert_eq!(bench.actions(), [Action::StartPrimary]);
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::LeaseKept)));
}

#[test]
fn with_a_candidate_the_lease_is_released_to_it() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::HandOver)));
    let release = bench.lease_written().unwrap().released.unwrap();
    assert_eq!(release.to, Some(member("b")));
}

#[test]
fn a_renewal_refused_while_fencing_means_deposed() {
    let mut bench = Bench::healthy();
    bench.advance_ms(1_000);
    bench.step(Event::Died);
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Deposed)));
}

#[test]
fn a_renewal_that_lands_while_fencing_is_what_the_release_compares_against() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    bench.advance_ms(1_000);
    bench.step(Event::Died);
    bench.apply(&Key::Lease);
    assert_eq!(bench.agent.state(), State::PrimaryFailed);
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert!(matches!(bench.apply(&Key::Lease), WriteOutcome::Applied(_)));
    assert!(bench.store.lease().released.is_some());
}

#[test]
fn fenced_waits_until_what_was_cancelled_is_over() {
    let mut bench = died();
    bench.advance_ms(4_000);
    let second = bench.effects.iter().find_map(|effect| match effect {
        Effect::Act(op, ..) => Some(*op),
        _ => None,
    });
    bench.step(Event::Acted(second.unwrap(), fenced()));
    bench.step(Event::Tick);
    assert_eq!(bench.agent.state(), State::PrimaryFenced);
    bench.assert_no_storm();
    bench.acted(ActionOutcome::Unknown("cancelled".to_owned()));
    bench.step(Event::Tick);
    assert_ne!(bench.agent.state(), State::PrimaryFenced);
}

/// The agent stood still, and comes back with less than a fence's time left.
#[test]
fn a_fence_that_begins_late_is_gentle_only_as_long_as_the_lease_lasts() {
    let ladder_after = |standstill: u64| {
        let mut bench = Bench::healthy();
        bench.advance_ms(standstill);
        match bench.actions().as_slice() {
            [Action::Fence { ladder }] => *ladder,
            other => panic!("{other:?}"),
        }
    };
    // The lease ends at 14.85 s, a fence begins at 9.85 s, and a watchdog would kill at 12.85 s.
    let in_time = ladder_after(9_850);
    assert_eq!((in_time.fast, in_time.immediate), (seconds(2), seconds(3)));
    let late = ladder_after(12_000);
    assert_eq!(late.fast, Duration::from_millis(850));
    assert_eq!(late.immediate, Duration::from_millis(850));
    assert_eq!(ladder_after(13_500).immediate, Duration::ZERO);
}

/// Its last word was from before it was told to let go.
#[test]
fn a_watchdog_that_was_let_go_guards_nothing_until_it_says_so_anew() {
    let required = Policy { watchdog: WatchdogMode::Required, ..policy() };
    let mut bench = Bench::healthy();
    let old = bench.now + seconds(12);
    bench.step(Event::Watchdog(WatchdogStatus::Armed(old)));
    bench.step(Event::Reconfigured(required));
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.observe(Process::StoppedPrimary);
    if bench.lease_written().is_none() {
        bench.read();
    }
    bench.advance_ms(10);
    bench.apply(&Key::Lease);
    assert!(bench.actions().is_empty(), "nothing is known of a guard for this epoch");
    bench.step(Event::Watchdog(WatchdogStatus::Armed(old)));
    assert!(bench.actions().is_empty(), "an answer that was on its way");
    bench.step(Event::Watchdog(WatchdogStatus::Armed(bench.now + seconds(13))));
    assert_eq!(bench.actions(), [Action::StartPrimary]);
}
