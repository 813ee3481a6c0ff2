//! A database that is made a standby between its stop and the release.

use super::bench::*;
use super::orders::{give, order};
use crate::core::event::{
    Action, ActionOutcome, Done, Effect, Event, Guard, Observation, Process, Reason, ShutdownMode,
    State,
};
use crate::core::ids::{Epoch, Lsn};
use crate::core::journal::Demotion;
use crate::core::order::Wish;
use crate::core::policy::Policy;
use crate::core::records::{Key, Release};

fn demotes() -> Policy {
    Policy { demotes: true, ..policy() }
}

/// `a` with two standbys, of which `b` is wanted, has drained and is about to stop.
fn stopping(policy: Policy) -> Bench {
    stopping_for(Wish::Switchover, policy)
}

fn stopping_for(wish: Wish, policy: Policy) -> Bench {
    let mut bench = Bench::healthy_with(policy);
    for other in ["b", "c"] {
        bench.store.put_heartbeat(&identity(other, 1), |_| {});
    }
    bench.read();
    give(&mut bench, |cluster| cluster.order = Some(order(wish, Some("b"))));
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
    bench.acted(done());
    assert!(bench.fences());
    bench
}

/// It has stopped, and is being made a standby of `b`.
fn demoting() -> Bench {
    let mut bench = stopping(demotes());
    bench.acted(fenced());
    assert!(matches!(&bench.actions()[..],
        [Action::Demote { to }] if to.member == member("b") && to.address == address("b")));
    assert_eq!(bench.lease_written(), None, "not before it is known what became of it");
    bench
}

fn released(bench: &Bench) -> Release {
    bench.lease_written().expect("a write").released.expect("a release")
}

fn demoted() -> ActionOutcome {
    ActionOutcome::Applied(Done::Demoted { token: Some(token()) })
}

#[test]
fn a_switchover_demotes_between_stop_and_release() {
    let mut bench = demoting();
    assert!(bench.effects.contains(&Effect::Guard(Guard::Released)));
    for _ in 0..20 {
        bench.advance_ms(1_000);
        let renewal = bench.lease_written().unwrap();
        assert_eq!((renewal.status, renewal.released), (State::PrimaryYielding, None));
        bench.apply(&Key::Lease);
        let guards = |effect: &Effect| matches!(effect, Effect::Guard(Guard::Until(..)));
        assert!(!bench.effects.iter().any(guards), "nobody can write on it");
        assert_eq!(bench.agent.writable_until(), None);
        bench.store.put_heartbeat(&identity("b", 1), |b| b.streaming = false);
        bench.read();
        bench.assert_no_storm();
    }
    bench.acted(demoted());
    let release = released(&bench);
    assert_eq!((release.to, release.reason.as_str()), (Some(member("b")), "switchover"));
    assert_eq!((release.lsn, release.token), (Some(Lsn(5_000)), Some(token())));
    let told = release.fence.0.unwrap().demotion;
    let outcome = "applied".to_owned();
    assert_eq!(told, Some(Demotion { outcome, token: true, took_ms: 20_000 }));
    bench.apply(&Key::Lease);
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    bench.read();
    assert!(matches!(bench.actions()[..], [Action::Rejoin { .. }]));
}

#[test]
fn only_a_clean_stop_that_was_planned_is_followed_by_a_demotion() {
    let mut unclean = stopping(demotes());
    unclean.acted(fenced_by_kill());
    assert_eq!(unclean.actions(), []);
    assert_eq!(unclean.became(), Some((State::PrimaryFenced, Reason::CalledOff)));

    let mut lossy = stopping_for(Wish::Failover { accept_loss: true }, demotes());
    lossy.acted(fenced_by_kill());
    assert_eq!(lossy.actions(), []);
    assert_eq!(released(&lossy).lsn, None);

    let mut local = stopping(policy());
    local.acted(fenced());
    assert_eq!(local.actions(), []);
    assert_eq!(released(&local).token, None);

    let mut crashed = Bench::healthy_with(demotes());
    crashed.store.put_heartbeat(&identity("b", 1), |_| {});
    crashed.read();
    crashed.step(Event::Died);
    crashed.acted(fenced());
    crashed.step(Event::Tick);
    assert_eq!(crashed.actions(), []);
    assert_eq!(released(&crashed).to, Some(member("b")));

    let mut ended = Bench::healthy_with(demotes());
    ended.store.put_heartbeat(&identity("b", 1), |_| {});
    ended.read();
    ended.step(Event::Shutdown(ShutdownMode::HandOver));
    ended.acted(done());
    ended.acted(fenced());
    assert_eq!(ended.actions(), [], "an agent that is to stop has no time for it");
    assert_eq!(released(&ended).to, Some(member("b")));
}

#[test]
fn a_refused_demotion_calls_it_off() {
    let mut bench = demoting();
    bench.acted(ActionOutcome::Refused("not now".to_owned()));
    assert_eq!(bench.became(), Some((State::PrimaryFenced, Reason::CalledOff)));
    assert!(bench.effects.contains(&Effect::EpochEnded(Epoch(7))));
    assert_eq!(bench.lease_written(), None);
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryInitializing, Reason::LeaseKept)));
    bench.observe(Process::StoppedPrimary);
    if bench.lease_written().is_none() {
        bench.read();
    }
    bench.apply(&Key::Lease);
    assert_eq!(bench.actions(), [Action::StartPrimary]);
    assert_eq!(bench.store.lease().epoch, Epoch(7));
}

#[test]
fn an_unknown_demotion_is_not_taken_back() {
    let mut bench = demoting();
    bench.acted(ActionOutcome::Unknown("no answer".to_owned()));
    let release = released(&bench);
    assert_eq!((release.to, release.token), (Some(member("b")), None));
    assert_eq!(release.lsn, Some(Lsn(5_000)), "the stop was clean");
    assert_eq!(release.fence.0.unwrap().demotion.unwrap().outcome, "unknown");
}

#[test]
fn a_lease_that_is_lost_meanwhile_is_lost() {
    let mut refused = demoting();
    refused.advance_ms(1_000);
    refused.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(7));
    refused.apply(&Key::Lease);
    assert_eq!(refused.became(), Some((State::PrimaryFailed, Reason::LeaseTaken)));
    assert!(refused.fences(), "whatever became of the demotion");

    let mut silent = demoting();
    for _ in 0..15 {
        silent.advance_ms(1_000);
        if silent.agent.state() != State::PrimaryYielding {
            assert_eq!(silent.became(), Some((State::PrimaryFailed, Reason::LeaseExpiring)));
            // What was cancelled answers, too, and counts for nothing.
            silent.acted(demoted());
            silent.acted(fenced());
            let told = silent.agent.shared.fence_told().unwrap();
            assert_eq!((told.rung.as_str(), told.demotion), ("fast", None));
            return;
        }
    }
    panic!("{:?}", silent.agent.state());
}

#[test]
fn a_standby_that_ends_on_the_way_is_no_trouble() {
    let mut bench = demoting();
    bench.step(Event::Died);
    assert_eq!((bench.became(), bench.actions()), (None, Vec::new()));
    bench.acted(demoted());
    assert_eq!(released(&bench).to, Some(member("b")));
}

/// Who a demoted database goes to: nobody asks again whether it is worth it.
#[test]
fn the_heir_gets_the_lease_unless_only_others_are_there() {
    type Change = fn(&mut crate::core::records::Heartbeat);
    let unfit: Change = |it| it.ineligible = Some("no".to_owned());
    let cases: [(&[(&str, Change)], &str); 3] = [
        // Ahead of it in line.
        (&[("b", |it| it.streaming = false), ("c", |it| it.priority = 9)], "b"),
        (&[("b", unfit)], "c"),
        (&[("b", unfit), ("c", unfit)], "b"),
    ];
    for (changes, expected) in cases {
        let mut bench = demoting();
        for (other, change) in changes {
            bench.store.put_heartbeat(&identity(other, 1), change);
        }
        bench.read();
        bench.acted(demoted());
        assert_eq!(released(&bench).to, Some(member(expected)));
    }
}

#[test]
fn the_best_other_is_followed_when_the_heir_is_gone_at_the_stop() {
    let mut bench = stopping(demotes());
    bench.store.put_heartbeat(&identity("b", 1), |b| b.ineligible = Some("no".to_owned()));
    bench.read();
    bench.acted(fenced());
    assert!(matches!(&bench.actions()[..],
        [Action::Demote { to }] if to.member == member("c")));
    bench.acted(demoted());
    assert_eq!(released(&bench).to, Some(member("c")));
}

#[test]
fn an_agent_that_is_to_stop_does_not_wait_for_a_demotion_beyond_its_limit() {
    let mut bench = demoting();
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    for _ in 0..49 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        assert!(!bench.exits());
    }
    bench.advance_ms(1_000);
    assert!(bench.exits(), "it is proven down");
}

/// What takes long is no reason to make a standby anew that is to take over in a moment.
#[test]
fn a_standby_waits_for_a_holder_that_is_being_demoted() {
    for (policy, waits) in [(demotes(), true), (policy(), false)] {
        let mut bench = Bench::watching_with(policy, |_| {});
        let mut acted = Vec::new();
        for seq in 1..30 {
            bench.store.put_lease(&identity("b", 1), |lease| {
                (lease.status, lease.seq) = (State::PrimaryYielding, seq);
            });
            bench.step(Event::Observed(Observation {
                streaming: false,
                ..seen(Process::RunningStandby)
            }));
            bench.quiet_seconds(1);
            let begun = bench.open.iter().filter_map(|effect| match effect {
                Effect::Act(_, action, ..) => Some(action.name()),
                _ => None,
            });
            acted.extend(begun);
        }
        assert_eq!(acted.is_empty(), waits, "{acted:?}");
    }
}

/// Of a database that is down nobody can stream, and who was asked for is still the one.
#[test]
fn an_heir_that_does_not_stream_any_more_from_what_was_stopped_for_it_stays_the_heir() {
    for policy in [demotes(), policy()] {
        let mut bench = stopping(policy.clone());
        bench.store.put_heartbeat(&identity("b", 1), |b| b.streaming = false);
        // It would be the first if nobody had been named.
        bench.store.put_heartbeat(&identity("c", 1), |c| c.priority = 5);
        bench.read();
        bench.acted(fenced());
        if policy.demotes {
            assert!(matches!(&bench.actions()[..],
                [Action::Demote { to }] if to.member == member("b")));
            bench.acted(demoted());
        }
        assert_eq!(released(&bench).to, Some(member("b")));
    }
}

/// The site was made a standby as a whole: who stands beside would be one of a standby.
#[test]
fn what_was_demoted_with_its_site_is_not_released_to_the_same_site() {
    let site = |name: &str| Some(name.parse().unwrap());
    for (beside, expected) in [("here", "b"), ("elsewhere", "c")] {
        let mut bench = stopping(Policy { site: site("here"), ..demotes() });
        bench.store.put_heartbeat(&identity("b", 1), |b| b.site = site("there"));
        bench.store.put_heartbeat(&identity("c", 1), |c| c.site = site(beside));
        bench.read();
        bench.acted(fenced());
        bench.store.put_heartbeat(&identity("b", 1), |b| b.ineligible = Some("no".to_owned()));
        bench.read();
        bench.acted(demoted());
        assert_eq!(released(&bench).to, Some(member(expected)), "{beside}");
    }
}

/// CloudNativePG has chosen already.
#[test]
fn a_primary_that_was_passed_over_hands_over_to_whom_it_was_passed_over_for() {
    for (acting, expected) in [(None, "b"), (Some("c"), "c"), (Some("x"), "b")] {
        let mut bench = Bench::healthy_with(policy());
        for other in ["b", "c"] {
            bench.store.put_heartbeat(&identity(other, 1), |_| {});
        }
        bench.read();
        let stopped =
            Observation { deputy_of: acting.map(str::to_owned), ..seen(Process::StoppedPrimary) };
        bench.step(Event::Observed(stopped.clone()));
        assert!(bench.fences());
        bench.acted(fenced());
        bench.step(Event::Observed(stopped));
        assert_eq!(released(&bench).to, Some(member(expected)), "{acting:?}");
    }
}
