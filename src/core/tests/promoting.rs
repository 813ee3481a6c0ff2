use super::bench::*;
use crate::core::event::{
    Action, ActionOutcome, Effect, Event, Process, Reason, State, WatchdogStatus, WriteOutcome,
};
use crate::core::ids::Epoch;
use crate::core::policy::{Policy, WatchdogMode};
use crate::core::records::{Key, Release};

fn promoting_with(policy: Policy) -> Bench {
    let mut bench = Bench::watching_with(policy, |_| {});
    if bench.agent.policy().watchdog == WatchdogMode::Required {
        bench.step(Event::Watchdog(WatchdogStatus::Idle));
    }
    let release = Release {
        to: Some(member("a")),
        reason: "hand_over".to_owned(),
        lsn: None,
        timeline: crate::core::ids::TimelineId(1),
        fence: Default::default(),
        token: None,
    };
    bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(release));
    bench.read();
    bench.apply(&Key::Lease);
    assert_eq!(bench.agent.state(), State::ReplicaPromoting);
    bench
}

#[test]
fn nothing_is_promoted_before_the_epoch_is_on_disk() {
    let mut bench = promoting_with(policy());
    assert!(bench.actions().is_empty());
    bench.remember();
    assert_eq!(bench.actions(), [Action::Promote]);
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::Promoted)));
}

#[test]
fn nothing_is_promoted_before_a_required_watchdog_is_armed() {
    let mut bench = promoting_with(Policy { watchdog: WatchdogMode::Required, ..policy() });
    bench.remember();
    assert!(bench.actions().is_empty());
    let until = bench.now + seconds(10);
    bench.step(Event::Watchdog(WatchdogStatus::Armed(until)));
    assert_eq!(bench.actions(), [Action::Promote]);
}

#[test]
fn the_lease_is_renewed_while_promoting() {
    let mut bench = promoting_with(policy());
    bench.remember();
    bench.advance_ms(1_000);
    let lease = bench.lease_written().unwrap();
    assert_eq!((lease.seq, lease.status), (1, State::ReplicaPromoting));
}

#[test]
fn a_lease_lost_while_promoting_fences() {
    let mut bench = promoting_with(policy());
    bench.remember();
    bench.advance_ms(1_000);
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseLost)));
    assert!(bench.fences());
    assert!(bench.effects.contains(&Effect::EpochEnded(Epoch(7))));
}

#[test]
fn a_failed_promotion_fences_releases_and_cools_down() {
    let mut bench = promoting_with(policy());
    bench.remember();
    bench.acted(ActionOutcome::Refused("no".to_owned()));
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::PromotionFailed)));
    let won = |effect: &Effect| matches!(effect, Effect::Became(it) if it.epoch == Epoch(6));
    assert!(bench.effects.iter().any(won), "the epoch that was won, read or not");
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::HandOver)));
    assert!(bench.lease_written().unwrap().released.is_some());
}

#[test]
fn a_standby_whose_promotion_failed_is_never_started_as_a_primary() {
    let mut bench = promoting_with(policy());
    bench.remember();
    bench.acted(ActionOutcome::Refused("no".to_owned()));
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    bench.observe(Process::StoppedStandby);
    bench.quiet_seconds(19);
    bench.observe(Process::StoppedStandby);
    for _ in 0..3 {
        bench.quiet_seconds(1);
        assert!(!bench.actions().contains(&Action::StartPrimary));
        if bench.agent.state() == State::ReplicaInitializing {
            return;
        }
    }
    panic!("{:?}", bench.agent.state());
}

#[test]
fn a_promotion_that_takes_too_long_is_ended() {
    let mut bench = promoting_with(policy());
    bench.remember();
    for _ in 0..29 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
    }
    assert_eq!(bench.agent.state(), State::ReplicaPromoting);
    bench.advance_ms(1_000);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::PromotionFailed)));
}
