//! Synchronous replication: who takes over from whom, and what it asks for before it opens.

use std::collections::BTreeSet;

use super::bench::*;
use super::synchronous::{asked, in_effect, members, mode, named, release, renew};
use crate::core::event::{Action, ActionOutcome, Event, Observation, Process, State};
use crate::core::ids::Lsn;
use crate::core::policy::Policy;
use crate::core::records::Key;
use crate::core::synchronous::{Requirement, SynchronousMode};

/// A standby `a` beside a lease of `b` that names these members.
fn watching(policy: Policy, names: &[&str]) -> Bench {
    Bench::watching_with(policy, |store| {
        store.put_lease(&identity("b", 1), |lease| lease.synchronous = members(names));
    })
}

pub(super) fn released(bench: &mut Bench, names: &[&str]) {
    bench.store.put_lease(&identity("b", 1), |lease| {
        lease.synchronous = members(names);
        lease.released = Some(release());
    });
    bench.read();
}

#[test]
fn only_who_is_named_takes_over() {
    for (names, takes) in [(&["c"][..], false), (&["a"], true), (&["a", "c"], true), (&[], true)] {
        let mut bench = watching(policy(), names);
        released(&mut bench, names);
        assert_eq!(bench.lease_written().is_some(), takes, "{names:?}");
    }
}

/// A primary that comes back as a standby beside its own lease, which names others: nobody has more.
#[test]
fn the_holder_itself_may_take_its_own_lease_again() {
    let beside = |instance: &str| {
        let mut bench = Bench::watching();
        bench.store.put_lease(&identity("a", 1), |lease| {
            lease.synchronous = members(&["c"]);
            lease.instance = instance.parse().unwrap();
        });
        bench.read();
        bench.agent.status().takeover
    };
    assert!(beside("instance-a").contains("lease_kept"), "{}", beside("instance-a"));
    // Another agent of that name is another one.
    assert!(beside("another").contains("synchronous set"), "{}", beside("another"));
}

#[test]
fn who_has_every_acknowledged_commit_may_lack_any_number_of_others() {
    for (names, takes) in [(&["a"][..], true), (&[], false)] {
        let mut bench = watching(policy(), names);
        bench.store.put_lease(&identity("b", 1), |lease| {
            lease.synchronous = members(names);
            lease.database.lsn = Lsn(5_000 + policy().maximum_lag_on_failover + 1);
        });
        bench.read();
        let says = bench.agent.status().takeover;
        assert_eq!(says.starts_with("this member"), takes, "{names:?}: {says}");
    }
}

#[test]
fn who_takes_over_names_itself_alone() {
    let mut bench = watching(policy(), &["a", "c"]);
    released(&mut bench, &["a", "c"]);
    assert_eq!(bench.lease_written().unwrap().synchronous, members(&["a"]));
    let mut bench = watching(policy(), &[]);
    released(&mut bench, &[]);
    assert_eq!(bench.lease_written().unwrap().synchronous, BTreeSet::new());
}

#[test]
fn strict_the_server_is_made_to_wait_before_it_is_promoted() {
    let mut bench = watching(mode(SynchronousMode::Strict), &["a"]);
    assert_eq!(asked(&bench), Some(Requirement::Unsatisfiable), "in advance");
    // A takeover does not wait for that, and makes sure of it again.
    released(&mut bench, &["a"]);
    bench.acted(ActionOutcome::Unknown("cancelled".to_owned()));
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    bench.remember();
    assert_eq!(bench.agent.state(), State::ReplicaPromoting);
    assert_eq!(asked(&bench), Some(Requirement::Unsatisfiable));
    assert!(!bench.actions().contains(&Action::Promote));
    in_effect(&mut bench, 0);
    assert!(bench.actions().contains(&Action::Promote));
}

#[test]
fn strict_prepared_in_advance_the_promotion_begins_at_once() {
    let mut bench = watching(mode(SynchronousMode::Strict), &["a"]);
    in_effect(&mut bench, 0);
    released(&mut bench, &["a"]);
    bench.apply(&Key::Lease);
    bench.remember();
    assert!(bench.actions().contains(&Action::Promote));
}

/// Nothing was opened: whoever had every commit still has, and so has the old holder after a clean stop.
#[test]
fn an_acquisition_that_opened_nothing_is_released_to_all_who_have_everything() {
    let mut bench = watching(mode(SynchronousMode::Strict), &["a", "c"]);
    released(&mut bench, &["a", "c"]);
    bench.acted(ActionOutcome::Unknown("cancelled".to_owned()));
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    bench.remember();
    for _ in 0..31 {
        if asked(&bench).is_some() {
            bench.acted(ActionOutcome::Refused("another file".to_owned()));
        }
        bench.advance_ms(1_000);
        if bench.agent.state() == State::ReplicaPromoting {
            renew(&mut bench);
            bench.read();
        }
    }
    assert_eq!(bench.agent.state(), State::PrimaryFailed);
    bench.acted(fenced());
    for _ in 0..5 {
        renew(&mut bench);
        bench.advance_ms(1_000);
        bench.read();
    }
    assert!(bench.store.lease().released.is_some(), "{:?}", bench.agent.state());
    assert_eq!(named(&bench), members(&["a", "b", "c"]));
}

/// The file that keeps it outlives the agent.
#[test]
fn what_an_agent_in_another_mode_required_is_lifted_when_it_is_off() {
    let mut bench = Bench::healthy();
    bench.step(Event::Observed(Observation { required: true, ..seen(Process::RunningPrimary) }));
    assert_eq!(asked(&bench), Some(Requirement::Nobody));
    let mut bench = watching(policy(), &[]);
    let standby = Observation { required: true, ..seen(Process::RunningStandby) };
    bench.step(Event::Observed(standby));
    bench.read();
    assert_eq!(asked(&bench), Some(Requirement::Nobody));
}
