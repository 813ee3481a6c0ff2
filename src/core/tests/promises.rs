//! Peer promises (`docs/protocol.md`, section 10): what the holder gains by them.

use std::time::Duration;

use super::bench::*;
use crate::core::event::{Alarm, Effect, Event, Guard, Process, Reason, State};
use crate::core::ids::{Epoch, MemberId};
use crate::core::policy::Policy;
use crate::core::promise::{PromiseAnswer, PromiseRequest};
use crate::core::records::Key;
use crate::core::shared::Identity;

/// A healthy `a` whose description of the cluster is in the store and was followed by a renewal.
pub(super) fn described(policy: Policy) -> Bench {
    let mut bench = Bench::healthy_with(policy);
    bench.read();
    bench.settle();
    bench.read();
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    bench.read();
    bench
}

/// The renewal that is due gets no answer.
pub(super) fn renewal_unanswered(bench: &mut Bench) {
    bench.advance_ms(1_000);
    bench.answer(&Key::Lease, unknown());
}

/// The latest round asked for and not looked at yet.
pub(super) fn asked(bench: &mut Bench) -> Option<(PromiseRequest, Vec<MemberId>)> {
    let mut found = None;
    bench.open.retain(|effect| match effect {
        Effect::AskPromises(request, peers, _) => {
            let peers = peers.iter().map(|(member, _)| member.clone()).collect();
            found = Some((request.clone(), peers));
            false
        }
        _ => true,
    });
    found
}

pub(super) fn granted(by: &str, request: &PromiseRequest) -> PromiseAnswer {
    let Identity { member, instance, .. } = identity(by, 1);
    PromiseAnswer {
        boot: request.boot.clone(),
        round: request.round,
        member,
        instance,
        refused: None,
    }
}

fn all_grant(bench: &mut Bench, request: &PromiseRequest) {
    for by in ["b", "c"] {
        bench.step(Event::PromiseAnswered(granted(by, request)));
    }
}

/// Time passes in seconds with no store; every round is answered by `answer`.
fn away(bench: &mut Bench, seconds: u64, answer: impl Fn(&mut Bench, &PromiseRequest)) {
    let renews = |e: &Effect| matches!(e, Effect::Write(_, w, _) if w.key == Key::Lease);
    for _ in 0..seconds {
        bench.advance_ms(1_000);
        if bench.open.iter().any(renews) {
            bench.answer(&Key::Lease, unknown());
        }
        if bench.agent.state() != State::PrimaryHealthy {
            return;
        }
        if let Some((request, _)) = asked(bench) {
            answer(bench, &request);
        }
    }
}

#[test]
fn everybody_s_promise_carries_the_primary_through_an_outage() {
    let mut bench = described(policy());
    renewal_unanswered(&mut bench);
    let (request, peers) = asked(&mut bench).expect("a round after the first unanswered renewal");
    assert_eq!(peers, [member("b"), member("c")]);
    assert_eq!((request.epoch, request.duration), (Epoch(6), seconds(15)));
    let before = bench.agent.writable_until();
    bench.advance_ms(10);
    bench.step(Event::PromiseAnswered(granted("b", &request)));
    assert_eq!(bench.agent.writable_until(), before);
    let sent = bench.now - Duration::from_millis(10);
    bench.step(Event::PromiseAnswered(granted("c", &request)));
    // It counts from when the round was sent, less the drift.
    let until = sent + Duration::from_millis(14_850);
    assert_eq!(bench.agent.writable_until(), Some(until));
    let guard = policy().guard_at(until);
    assert!(bench.effects.contains(&Effect::Guard(Guard::Until(guard, Epoch(6)))));

    away(&mut bench, 60, all_grant);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    assert!(bench.agent.status().alarms.contains(&Alarm::HeldByPromises));
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    assert!(!bench.agent.status().alarms.contains(&Alarm::HeldByPromises));
    bench.assert_no_storm();
}

#[test]
fn one_that_does_not_promise_is_enough_to_fence() {
    let refuse = |bench: &mut Bench, request: &PromiseRequest| {
        bench.step(Event::PromiseAnswered(granted("b", request)));
        let refused = Some("no".to_owned());
        bench.step(Event::PromiseAnswered(PromiseAnswer { refused, ..granted("c", request) }));
    };
    let silent = |bench: &mut Bench, request: &PromiseRequest| {
        bench.step(Event::PromiseAnswered(granted("b", request)));
    };
    for answer in [&refuse as &dyn Fn(&mut Bench, &PromiseRequest), &silent] {
        let mut bench = described(policy());
        let lost = bench.agent.writable_until().unwrap();
        away(&mut bench, 20, answer);
        assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseExpiring)));
        assert!(bench.now < lost);
    }
}

#[test]
fn when_promises_end_the_fence_begins_in_time() {
    let mut bench = described(policy());
    away(&mut bench, 10, all_grant);
    let until = bench.agent.writable_until().unwrap();
    away(&mut bench, 30, |_, _| {});
    assert_eq!(bench.agent.state(), State::PrimaryFailed);
    assert!(bench.now <= policy().fence_at(until) + seconds(1), "{:?} {until:?}", bench.now);
}

#[test]
fn only_answers_to_this_round_by_admitted_agents_count() {
    let mut bench = described(policy());
    let before = bench.agent.writable_until();
    renewal_unanswered(&mut bench);
    let (old, _) = asked(&mut bench).unwrap();
    bench.step(Event::PromiseAnswered(granted("b", &old)));
    renewal_unanswered(&mut bench);
    let (new, _) = asked(&mut bench).expect("the next round");
    assert!(new.round > old.round);
    let other_boot = PromiseRequest { boot: identity("a", 9).boot, ..new.clone() };
    let namesake = PromiseAnswer { instance: identity("z", 1).instance, ..granted("c", &new) };
    for answer in [
        granted("c", &old),
        granted("b", &other_boot),
        granted("c", &other_boot),
        granted("b", &new),
        granted("z", &new),
        namesake,
    ] {
        bench.step(Event::PromiseAnswered(answer));
        assert_eq!(bench.agent.writable_until(), before);
    }
    bench.step(Event::PromiseAnswered(granted("c", &new)));
    assert!(bench.agent.writable_until() > before);
}

#[test]
fn who_has_not_answered_is_asked_again_in_the_same_round() {
    let mut bench = described(policy());
    renewal_unanswered(&mut bench);
    let (first, _) = asked(&mut bench).unwrap();
    let sent = bench.now;
    bench.step(Event::PromiseAnswered(granted("b", &first)));
    bench.advance_ms(500);
    let (again, peers) = asked(&mut bench).expect("a try for the one that is missing");
    assert_eq!((again, peers), (first.clone(), vec![member("c")]));
    bench.step(Event::PromiseAnswered(granted("c", &first)));
    // It still counts from the first sending.
    let until = sent + Duration::from_millis(14_850);
    assert_eq!(bench.agent.writable_until(), Some(until));
}

#[test]
fn a_refused_renewal_fences_whatever_was_promised() {
    let mut bench = described(policy());
    away(&mut bench, 10, all_grant);
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    bench.read();
    let (last, _) = bench.agent.status().last_transition.unwrap();
    assert_eq!((last.to, last.reason), (State::PrimaryFailed, Reason::LeaseTaken));
}

#[test]
fn alone_nobody_has_to_promise() {
    let mut store = Store::new();
    let a = identity("a", 1);
    store.put_lease(&a, |_| {});
    store.put_cluster(&a, |cluster| cluster.members.retain(|name, _| *name == member("a")));
    let mut bench = Bench::start_as(a, policy(), None, store);
    bench.read();
    bench.observe(Process::RunningPrimary);
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    bench.settle();
    bench.read();
    bench.settle();
    bench.read();
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    away(&mut bench, 60, |_, _| panic!("nobody is to be asked"));
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
}

#[test]
fn nothing_is_asked_before_a_renewal_has_followed_the_description() {
    // Not described at all in this epoch.
    let mut bench = Bench::healthy();
    renewal_unanswered(&mut bench);
    assert_eq!(asked(&mut bench), None);
    // Described and read, but the last renewal is older than that.
    let mut bench = Bench::healthy();
    bench.read();
    bench.settle();
    bench.read();
    renewal_unanswered(&mut bench);
    assert_eq!(asked(&mut bench), None);
    // Not wanted.
    let mut bench = described(Policy { promises: false, ..policy() });
    renewal_unanswered(&mut bench);
    assert_eq!(asked(&mut bench), None);
}

#[test]
fn a_shorter_lease_shortens_what_was_promised() {
    let mut bench = described(policy());
    away(&mut bench, 4, all_grant);
    let shorter = Policy { lease_duration: seconds(12), ..policy() };
    bench.step(Event::Reconfigured(shorter.clone()));
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    let published = bench.lease_written().expect("a renewal");
    assert_eq!(published.lease_duration, seconds(12));
    let cap = shorter.lease_until(bench.now, seconds(12));
    assert!(bench.agent.writable_until().unwrap() <= cap);
    asked(&mut bench);
    bench.answer(&Key::Lease, unknown());
    bench.advance_ms(1_000);
    let (request, _) = asked(&mut bench).expect("a round");
    assert_eq!(request.duration, seconds(12));
}

/// A new agent beside a standby has seen the lease silent for long, and has promised nothing.
#[test]
fn nobody_is_admitted_while_promises_carry_the_lease() {
    let admits = |bench: &Bench| {
        bench.open.iter().any(|e| matches!(e, Effect::Write(_, w, _) if w.key == Key::ClusterState))
    };
    let mut bench = described(policy());
    away(&mut bench, 20, all_grant);
    // The store answers reads again, and shows the new one.
    bench.store.put_heartbeat(&identity("n", 1), |_| {});
    bench.read();
    assert!(!admits(&bench), "admitted with renewals unanswered");
    // A renewal that had been sent before the last round proves less than the promises do.
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    assert!(!admits(&bench), "admitted while the promises last longer");
    bench.read();
    bench.advance_ms(100);
    bench.apply(&Key::Lease);
    bench.read();
    assert!(admits(&bench));
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
}

#[test]
fn a_round_without_the_new_member_proves_nothing() {
    let mut bench = described(policy());
    renewal_unanswered(&mut bench);
    bench.advance_ms(1_000);
    // Sent after the renewal that is applied in the end, it would prove more than that one does.
    let (request, _) = asked(&mut bench).unwrap();
    assert_eq!(request.round, 2);
    bench.step(Event::PromiseAnswered(granted("b", &request)));
    bench.apply(&Key::Lease);
    bench.store.put_heartbeat(&identity("n", 1), |_| {});
    bench.read();
    bench.settle();
    let before = bench.agent.writable_until();
    bench.step(Event::PromiseAnswered(granted("c", &request)));
    assert_eq!(bench.agent.writable_until(), before);
}

#[test]
fn a_longer_lease_is_not_asked_for_before_it_was_published() {
    let mut bench = described(policy());
    bench.step(Event::Reconfigured(Policy { lease_duration: seconds(40), ..policy() }));
    renewal_unanswered(&mut bench);
    let (request, _) = asked(&mut bench).expect("a round");
    assert_eq!(request.duration, seconds(15));
}
