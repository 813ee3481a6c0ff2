//! The hook that a promotion waits for, and who is told of what.

use std::time::Duration;

use super::bench::*;
use crate::core::event::{
    Action, Alarm, Effect, Event, Process, Reason, State, Transition, WriteOutcome,
};
use crate::core::hook::{BeforePromote, Hook, HookOutcome};
use crate::core::ids::{Epoch, OpId, TimelineId};
use crate::core::policy::Policy;
use crate::core::records::{Key, Release};

fn waiting(required: bool) -> Policy {
    Policy { before_promote: Some(BeforePromote { limit: seconds(5), required }), ..policy() }
}

/// Agent `a`, which has just won the lease of epoch 6.
fn promoting(policy: Policy) -> Bench {
    let mut bench = Bench::watching_with(policy, |_| {});
    let (reason, timeline) = ("hand_over".to_owned(), TimelineId(1));
    let release = Release {
        to: Some(member("a")),
        reason,
        lsn: None,
        timeline,
        fence: Default::default(),
        token: None,
    };
    bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(release));
    bench.read();
    bench.apply(&Key::Lease);
    assert_eq!(bench.agent.state(), State::ReplicaPromoting);
    bench
}

fn asked(bench: &Bench) -> Option<(OpId, Transition, Duration)> {
    bench.open.iter().find_map(|effect| match effect {
        Effect::BeforePromote(op, transition, limit) => Some((*op, transition.clone(), *limit)),
        _ => None,
    })
}

fn ends(bench: &mut Bench, outcome: HookOutcome) {
    let (op, ..) = asked(bench).expect("a hook under way");
    bench.step(Event::HookEnded(op, outcome));
}

fn failed() -> HookOutcome {
    HookOutcome::Failed("status 1".to_owned())
}

#[test]
fn without_a_hook_nothing_is_asked_for() {
    let mut bench = promoting(policy());
    assert_eq!(asked(&bench), None);
    bench.remember();
    assert_eq!(bench.actions(), [Action::Promote]);
}

#[test]
fn the_promotion_waits_for_its_hook_while_the_lease_is_renewed() {
    let mut bench = promoting(waiting(true));
    let (_, transition, limit) = asked(&bench).expect("a hook");
    let (from, to) = (State::ReplicaWatching, State::ReplicaPromoting);
    let (reason, epoch) = (Reason::LeaseReleased, Epoch(6));
    assert_eq!(transition, Transition { from, to, reason, epoch });
    assert_eq!(limit, seconds(5));
    bench.remember();
    bench.advance_ms(1_000);
    assert!(bench.actions().is_empty());
    assert_eq!(bench.lease_written().unwrap().status, State::ReplicaPromoting);
    ends(&mut bench, HookOutcome::Succeeded);
    assert_eq!(bench.actions(), [Action::Promote]);
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::Promoted)));
}

#[test]
fn a_hook_that_ends_first_does_not_promote_before_the_epoch_is_on_disk() {
    let mut bench = promoting(waiting(true));
    ends(&mut bench, HookOutcome::Succeeded);
    assert!(bench.actions().is_empty());
    bench.remember();
    assert_eq!(bench.actions(), [Action::Promote]);
}

#[test]
fn a_required_hook_that_fails_gives_the_lease_to_somebody_else() {
    let mut bench = promoting(waiting(true));
    bench.remember();
    ends(&mut bench, failed());
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::HookRefused)));
    assert!(bench.fences(), "whatever it is, it is proven to be no primary");
    assert!(bench.effects.contains(&Effect::Alarm(Alarm::HookFailed)));
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::HandOver)));
    assert!(bench.lease_written().unwrap().released.is_some());
    bench.apply(&Key::Lease);
    // Out of the line for a while.
    bench.observe(Process::StoppedStandby);
    bench.quiet_seconds(19);
    assert!(bench.agent.status().alarms.contains(&Alarm::HookFailed), "until one ends well");
}

#[test]
fn a_hook_that_is_not_required_may_fail() {
    let mut bench = promoting(waiting(false));
    bench.remember();
    ends(&mut bench, failed());
    assert_eq!(bench.actions(), [Action::Promote]);
    assert!(bench.effects.contains(&Effect::Alarm(Alarm::HookFailed)));
}

#[test]
fn a_lease_lost_while_the_hook_runs_fences_at_once() {
    let mut bench = promoting(waiting(true));
    bench.remember();
    bench.advance_ms(1_000);
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseLost)));
    assert!(bench.fences());
    assert!(bench.effects.contains(&Effect::EpochEnded(Epoch(7))), "which ends the hook");
    let before = bench.agent.status().stale_completions;
    ends(&mut bench, HookOutcome::Succeeded);
    assert!(bench.actions().is_empty(), "what it says counts for nothing");
    assert_eq!(bench.agent.status().stale_completions, before + 1);
    assert_eq!(bench.agent.state(), State::PrimaryFailed);
}

#[test]
fn a_hook_that_never_answers_ends_with_the_promotion_s_limit() {
    let mut bench = promoting(waiting(false));
    bench.remember();
    for _ in 0..29 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
    }
    assert_eq!(bench.agent.state(), State::ReplicaPromoting);
    bench.assert_no_storm();
    bench.advance_ms(1_000);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::PromotionFailed)));
}

#[test]
fn who_is_told_of_what() {
    use Hook as H;
    use State as S;
    let told = |from, to| {
        let transition = Transition { from, to, reason: Reason::Promoted, epoch: Epoch(1) };
        Hook::told_of(&transition).collect::<Vec<_>>()
    };
    assert_eq!(told(S::ReplicaPromoting, S::PrimaryHealthy), [H::AfterPromote, H::OnPrimary]);
    assert_eq!(told(S::PrimaryInitializing, S::PrimaryHealthy), [H::OnPrimary]);
    assert_eq!(told(S::PrimaryHealthy, S::PrimaryFailed), [H::OnDemote]);
    assert_eq!(told(S::PrimaryHealthy, S::PrimaryYielding), [H::OnDemote]);
    assert_eq!(told(S::PrimaryFailed, S::PrimaryFenced), [H::OnFence]);
    assert_eq!(told(S::ReplicaInitializing, S::ReplicaWatching), [H::OnReplica]);
    assert_eq!(told(S::ReplicaWatching, S::ReplicaPromoting), []);
}
