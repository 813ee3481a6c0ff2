//! A promotion with what the old primary's demotion gave out.

use super::bench::*;
use crate::core::event::{
    Action, ActionOutcome, Effect, Event, Process, Reason, State, StoreWrite,
};
use crate::core::ids::{Epoch, SystemId, TimelineId};
use crate::core::journal::Fence;
use crate::core::policy::Policy;
use crate::core::records::{Key, Lease, Record, Release};
use crate::core::token::Token;

fn demotes() -> Policy {
    Policy { demotes: true, ..policy() }
}

fn with(token: Token) -> Action {
    Action::PromoteWith { token }
}

fn release(to: &str, token: Token) -> Release {
    Release {
        to: Some(member(to)),
        reason: "switchover".to_owned(),
        lsn: None,
        timeline: TimelineId(1),
        fence: Default::default(),
        token: Some(token),
    }
}

/// `a` takes over what `b` released, after so many seconds.
fn taking_over(policy: Policy, release: Release) -> Bench {
    let mut bench = Bench::watching_with(policy, |_| {});
    bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(release));
    bench.read();
    for _ in 0..10 {
        if asked(&bench).is_some() {
            break;
        }
        bench.quiet_seconds(1);
    }
    bench
}

/// The write to the lease that is under way.
fn asked(bench: &Bench) -> Option<Lease> {
    bench.open.iter().find_map(|effect| match effect {
        Effect::Write(_, StoreWrite { record: Record::Lease(lease), .. }, _) => Some(lease.clone()),
        _ => None,
    })
}

fn promotes(bench: &mut Bench) -> Vec<Action> {
    bench.apply(&Key::Lease);
    bench.remember();
    let begun = bench.open.iter().filter_map(|effect| match effect {
        Effect::Act(_, action, ..) => Some(action.clone()),
        _ => None,
    });
    begun.collect()
}

#[test]
fn a_token_is_kept_in_the_lease_until_it_is_used() {
    let mut bench = taking_over(demotes(), release("a", token()));
    let lease = bench.lease_written().unwrap();
    assert_eq!((lease.status, &lease.token), (State::ReplicaPromoting, &Some(token())));
    assert_eq!(promotes(&mut bench), [with(token())]);
    bench.advance_ms(1_000);
    assert_eq!(bench.lease_written().unwrap().token, Some(token()));
    bench.apply(&Key::Lease);
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::Promoted)));
    for _ in 0..3 {
        bench.advance_ms(1_000);
        assert_eq!(bench.lease_written().unwrap().token, None);
        bench.apply(&Key::Lease);
        bench.read();
    }
    let kept = serde_json::to_string(&bench.agent).unwrap();
    assert!(!kept.contains("dG9rZW4"), "nor anywhere else");
}

#[test]
fn only_a_token_that_was_released_to_us_and_is_for_our_data_is_used() {
    let foreign = Token { system: SystemId(99), ..token() };
    let newer = Token { timeline: TimelineId(2), ..token() };
    let spent = Token { timeline: TimelineId(0), ..token() };
    let nobody = Release { to: None, ..release("a", token()) };
    let cases = [
        (demotes(), release("a", newer.clone()), with(newer)),
        (demotes(), release("a", foreign), Action::Promote),
        (demotes(), release("a", spent), Action::Promote),
        (demotes(), release("c", token()), Action::Promote),
        (demotes(), nobody, Action::Promote),
        (policy(), release("a", token()), Action::Promote),
    ];
    for (policy, release, expected) in cases {
        let told = format!("{release:?}");
        let mut bench = taking_over(policy, release);
        let lease = asked(&bench).unwrap_or_else(|| panic!("{told}"));
        assert_eq!(lease.token.is_some(), expected != Action::Promote, "{told}");
        assert_eq!(promotes(&mut bench), [expected], "{told}");
    }
}

/// The lease of a former life that did not get to its promotion.
#[test]
fn a_restart_in_between_does_not_lose_the_token() {
    let own = |token: Token, holder: &str| {
        let id = identity(holder, 0);
        let mut bench = Bench::watching_with(demotes(), |store| {
            store.put_lease(&id, |lease| {
                lease.status = State::ReplicaPromoting;
                lease.token = Some(token);
            });
        });
        bench.read();
        for _ in 0..20 {
            if asked(&bench).is_some() {
                break;
            }
            bench.quiet_seconds(1);
        }
        promotes(&mut bench)
    };
    assert_eq!(own(token(), "a"), [with(token())]);
    assert_eq!(own(token(), "b"), [Action::Promote], "what b did not get to use is b's");
}

/// Promoted already: it is kept nowhere.
#[test]
fn beside_a_primary_a_token_is_over() {
    let a = identity("a", 0);
    let mut store = Store::new();
    store.put_lease(&a, |lease| lease.token = Some(token()));
    store.put_cluster(&a, |_| {});
    let mut bench = Bench::start_as(identity("a", 1), demotes(), None, store);
    bench.read();
    bench.observe(Process::RunningPrimary);
    bench.step(Event::Tick);
    assert_eq!(bench.lease_written().unwrap().token, None);
    bench.apply(&Key::Lease);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.read();
    let kept = serde_json::to_string(&bench.agent).unwrap();
    assert!(!kept.contains("dG9rZW4"), "{kept}");
}

#[test]
fn a_refused_token_is_a_failed_promotion_and_not_passed_on() {
    let mut bench = taking_over(demotes(), release("a", token()));
    assert_eq!(promotes(&mut bench), [with(token())]);
    bench.acted(ActionOutcome::Refused("the token is not for this data".to_owned()));
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::PromotionFailed)));
    bench.acted(fenced());
    bench.step(Event::Tick);
    let lease = bench.lease_written().unwrap();
    assert_eq!((lease.token, lease.released.unwrap().token), (None, None));
}

/// The next takeover begins with nothing.
#[test]
fn a_token_is_of_one_takeover() {
    let mut bench = taking_over(demotes(), release("a", token()));
    bench.store.put_lease(&identity("c", 1), |lease| lease.epoch = Epoch(7));
    bench.apply(&Key::Lease);
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
    bench.store.put_lease(&identity("c", 1), |lease| {
        lease.epoch = Epoch(7);
        lease.released = Some(Release { token: None, ..release("a", token()) });
    });
    bench.observe(Process::RunningStandby);
    bench.read();
    assert_eq!(bench.lease_written().unwrap().token, None);
    assert_eq!(promotes(&mut bench), [Action::Promote]);
}

/// Recordings and stores of releases that knew no tokens.
#[test]
fn what_was_written_without_tokens_is_read() {
    let without = |text: String, key: &str| {
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value.as_object_mut().unwrap().remove(key);
        value.to_string()
    };
    let mut bench = taking_over(demotes(), release("a", token()));
    let lease = Lease { token: None, ..bench.lease_written().unwrap() };
    let text = serde_json::to_string(&lease).unwrap();
    assert!(!text.contains("token"), "an older agent finds nothing new: {text}");
    assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);
    let text = without(serde_json::to_string(&demotes()).unwrap(), "demotes");
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy());
    let fence = r#"{"why":"switchover","rung":"fast","clean":true,"took_ms":57}"#;
    assert_eq!(serde_json::from_str::<Fence>(fence).unwrap().demotion, None);
    promotes(&mut bench);
    let recorded = serde_json::to_string(&bench.agent).unwrap();
    assert_eq!(serde_json::from_str::<crate::core::Agent>(&recorded).unwrap(), bench.agent);
}
