//! Peer promises (`docs/protocol.md`, section 10): what those who gave them may not do.

use std::time::Duration;

use super::bench::*;
use super::promises::described;
use crate::core::event::{Effect, Event, Floor, Process, State, WriteOutcome};
use crate::core::ids::Epoch;
use crate::core::promise::{Bound, PromiseRequest};
use crate::core::records::{Key, Release};
use crate::core::shared::Identity;

fn request(bench: &Bench) -> PromiseRequest {
    let Identity { member, boot, .. } = identity("b", 1);
    PromiseRequest {
        incarnation: bench.store.incarnation.clone(),
        holder: member,
        boot,
        epoch: Epoch(5),
        round: 1,
        duration: seconds(15),
    }
}

fn ask(bench: &mut Bench, request: PromiseRequest) -> Result<(), String> {
    bench.step(Event::PromiseAsked(77, request));
    let answer = bench.effects.iter().find_map(|effect| match effect {
        Effect::Promise(77, answer) => Some(answer.clone()),
        _ => None,
    });
    answer.expect("an answer within the step").refused.map_or(Ok(()), Err)
}

/// Seconds until `bench` sends an acquisition, with a store that works and a silent holder.
fn seconds_to_takeover(bench: &mut Bench) -> u64 {
    for passed in 0..60 {
        if bench.writing(&Key::Lease).is_some() {
            return passed;
        }
        bench.quiet_seconds(1);
    }
    panic!("no takeover")
}

#[test]
fn who_promised_does_not_take_over_before_its_promise_has_run_out() {
    let mut plain = Bench::watching();
    let usual = seconds_to_takeover(&mut plain);
    let mut bench = Bench::watching();
    bench.quiet_seconds(10);
    let asked = request(&bench);
    assert_eq!(ask(&mut bench, asked), Ok(()));
    assert_eq!(seconds_to_takeover(&mut bench), 16);
    assert!((16..=18).contains(&usual), "{usual}");
    bench.assert_no_storm();
}

#[test]
fn the_holder_s_release_frees_who_promised() {
    let mut bench = Bench::watching();
    let asked = request(&bench);
    assert_eq!(ask(&mut bench, asked.clone()), Ok(()));
    let release = Release {
        to: None,
        reason: "x".to_owned(),
        lsn: None,
        timeline: Default::default(),
        fence: Default::default(),
        token: None,
    };
    bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(release));
    bench.read();
    assert!(bench.lease_written().is_some());
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    bench.read();
    let next = PromiseRequest { round: 2, ..asked };
    assert!(ask(&mut bench, next).unwrap_err().contains("released"));
}

#[test]
fn a_promise_is_refused_to_whoever_may_not_have_it() {
    let refused = |change: &dyn Fn(&mut PromiseRequest), word: &str| {
        let mut bench = Bench::watching();
        let mut request = request(&bench);
        change(&mut request);
        let why = ask(&mut bench, request).unwrap_err();
        assert!(why.contains(word), "{why}");
    };
    refused(&|request| request.epoch = Epoch(4), "epoch 5 is known");
    refused(&|request| request.epoch = Epoch(6), "not noted");
    refused(&|request| request.incarnation = "other".parse().unwrap(), "another store");
    refused(&|request| request.holder = member("a"), "own name");
    refused(&|request| request.holder = member("c"), "somebody else's");
    refused(&|request| request.boot = identity("b", 2).boot, "somebody else's");
    refused(&|request| request.duration = seconds(16), "not noted");

    let mut bench = Bench::watching();
    let asked = request(&bench);
    assert_eq!(ask(&mut bench, PromiseRequest { round: 5, ..asked.clone() }), Ok(()));
    let why = ask(&mut bench, PromiseRequest { round: 4, ..asked }).unwrap_err();
    assert!(why.contains("round 5 was answered"), "{why}");
}

#[test]
fn asked_again_in_one_round_it_promises_no_longer() {
    let mut bench = Bench::watching();
    let asked = request(&bench);
    assert_eq!(ask(&mut bench, asked.clone()), Ok(()));
    bench.quiet_seconds(10);
    assert_eq!(ask(&mut bench, asked), Ok(()));
    assert!(seconds_to_takeover(&mut bench) <= 8);
}

/// Somebody who knows the holder's next round asks before it, for a moment only.
#[test]
fn the_same_round_with_another_duration_binds_anew() {
    let mut bench = Bench::watching();
    bench.quiet_seconds(10);
    let asked = request(&bench);
    let forged = PromiseRequest { duration: Duration::from_millis(1), ..asked.clone() };
    assert_eq!(ask(&mut bench, forged), Ok(()));
    assert_eq!(ask(&mut bench, asked), Ok(()));
    assert_eq!(seconds_to_takeover(&mut bench), 16);
}

/// A promise to an earlier holder may last although the next one published a shorter lease.
#[test]
fn the_noted_duration_never_shrinks() {
    let mut bench = Bench::watching();
    bench.store.put_lease(&identity("c", 1), |lease| {
        lease.epoch = Epoch(6);
        lease.lease_duration = seconds(1);
    });
    bench.read();
    let noted = bench.open.iter().find_map(|effect| match effect {
        Effect::Remember(_, floor) => floor.bound,
        _ => None,
    });
    assert_eq!(noted, Some(Bound { epoch: Epoch(6), duration: seconds(15) }));
}

#[test]
fn a_description_that_is_gone_or_outdated_admits_nobody() {
    for damaged in [false, true] {
        let mut bench = Bench::watching();
        bench.remember();
        if damaged {
            bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(6));
            bench.store.damage(Key::ClusterState);
        } else {
            bench.store.remove(&Key::ClusterState);
        }
        bench.quiet_seconds(40);
        assert!(bench.writing(&Key::Lease).is_none(), "damaged: {damaged}");
        assert!(bench.agent.status().takeover.contains("cluster_state"));
    }
}

#[test]
fn nobody_promises_with_an_acquisition_of_its_own_under_way() {
    let mut bench = Bench::watching();
    let acquires = |e: &Effect| matches!(e, Effect::Write(_, w, _) if w.key == Key::Lease);
    for _ in 0..30 {
        if !bench.open.iter().any(acquires) {
            bench.quiet_seconds(1);
        }
    }
    let asked = request(&bench);
    let why = ask(&mut bench, asked.clone()).unwrap_err();
    assert!(why.contains("about to take over"), "{why}");
    // It may still land.
    bench.answer(&Key::Lease, unknown());
    assert!(ask(&mut bench, asked).unwrap_err().contains("about to take over"));
}

#[test]
fn the_holder_of_a_lease_promises_nobody() {
    let mut bench = described(policy());
    for epoch in [5, 6, 7] {
        let asked = PromiseRequest { epoch: Epoch(epoch), ..request(&bench) };
        assert!(ask(&mut bench, asked).is_err());
    }
}

#[test]
fn nothing_is_promised_that_a_restart_would_forget() {
    let mut store = Store::new();
    let b = identity("b", 1);
    store.put_lease(&b, |_| {});
    store.put_cluster(&b, |_| {});
    let mut bench = Bench::start(store);
    let asked = request(&bench);
    assert!(ask(&mut bench, asked.clone()).unwrap_err().contains("not seen the store"));
    bench.observe(Process::RunningStandby);
    bench.read();
    assert!(ask(&mut bench, asked.clone()).is_err());
    let noted = bench.open.iter().any(|effect| {
        let bound = Some(Bound { epoch: Epoch(5), duration: seconds(15) });
        matches!(effect, Effect::Remember(_, floor) if floor.bound == bound)
    });
    assert!(noted);
    bench.remember();
    assert_eq!(ask(&mut bench, asked), Ok(()));
}

/// Agent `a` starts again. It may have promised to epoch 5, and an acquisition of its former life
/// landed since.
fn restarted(bound: bool) -> Bench {
    let mut store = Store::new();
    store.put_cluster(&identity("b", 1), |_| {});
    store.put_lease(&identity("a", 1), |lease| lease.epoch = Epoch(6));
    let bound = bound.then_some(Bound { epoch: Epoch(5), duration: seconds(15) });
    let incarnation = store.incarnation.clone();
    let floor = Floor {
        incarnation,
        epoch: Epoch(5),
        revision: Default::default(),
        system: Some(SYSTEM),
        bound,
    };
    Bench::start_as(identity("a", 2), policy(), Some(floor), store)
}

#[test]
fn a_promise_outlives_a_restart() {
    for process in [Process::RunningStandby, Process::StoppedPrimary] {
        for (bound, at_least) in [(false, 0), (true, 15)] {
            let mut bench = restarted(bound);
            bench.observe(process);
            bench.read();
            bench.settle();
            bench.step(Event::Tick);
            let passed = seconds_to_takeover(&mut bench);
            assert!((at_least..=at_least + 2).contains(&passed), "{process:?} {bound}: {passed}");
        }
    }
}

#[test]
fn an_acquisition_that_lands_after_a_promise_opens_nothing() {
    let mut bench = restarted(true);
    bench.observe(Process::RunningPrimary);
    bench.read();
    bench.step(Event::Tick);
    assert!(bench.lease_written().is_none(), "{:?}", bench.effects);
    // It runs without a lease that counts: after the grace it is fenced.
    for _ in 0..5 {
        bench.advance_ms(1_000);
        bench.read();
    }
    assert_eq!(bench.agent.state(), State::PrimaryFailed);
}

#[test]
fn only_admitted_agents_take_over() {
    let mut bench = Bench::watching_with(policy(), |store| {
        store.put_cluster(&identity("b", 1), |cluster| {
            cluster.members.remove(&member("a"));
        });
    });
    bench.quiet_seconds(40);
    assert!(bench.writing(&Key::Lease).is_none());
    let said = bench.agent.status().takeover;
    assert!(said.contains("not admitted") && !said.contains("instance"), "{said}");
    let other = identity("z", 1).instance;
    let mut bench = Bench::watching_with(policy(), |store| {
        store.put_cluster(&identity("b", 1), |cluster| {
            cluster.members.get_mut(&member("a")).unwrap().instance = other.clone();
        });
    });
    bench.quiet_seconds(40);
    assert!(bench.writing(&Key::Lease).is_none());
    // What an operator needs who has lost the state directory and has nobody to admit the new one.
    let said = bench.agent.status().takeover;
    assert!(said.contains("not admitted") && said.contains(other.as_str()), "{said}");
}
