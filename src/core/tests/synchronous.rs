//! Synchronous replication: a member is required before it is named, and named no more before it is
//! required no more.

use std::collections::BTreeSet;

use super::bench::*;
use crate::core::event::{
    Action, ActionOutcome, Alarm, Done, Effect, Event, Observation, Process, State, WriteOutcome,
};
use crate::core::ids::{Epoch, Lsn, MemberId};
use crate::core::policy::Policy;
use crate::core::records::{Key, Record, Release};
use crate::core::synchronous::{Requirement, SynchronousMode};

pub(super) fn mode(synchronous: SynchronousMode) -> Policy {
    Policy { synchronous, ..policy() }
}

pub(super) fn members(names: &[&str]) -> BTreeSet<MemberId> {
    names.iter().map(|name| member(name)).collect()
}

fn all(names: &[&str]) -> Requirement {
    Requirement::All(members(names))
}

/// A healthy primary `a`, who has asked for what is needed before anybody else is known.
pub(super) fn healthy(policy: Policy) -> Bench {
    let mut bench = Bench::healthy_with(policy);
    if asked(&bench).is_some() {
        in_effect(&mut bench, 0);
    }
    bench
}

/// A healthy primary `a`, `b` and `c` watching beside it, their standbys attached at this position.
fn primary(policy: Policy, attached: &[(&str, u64)]) -> Bench {
    let mut bench = healthy(policy);
    for name in ["b", "c"] {
        bench.store.put_heartbeat(&identity(name, 1), |_| {});
    }
    bench.step(Event::Observed(with(attached)));
    bench.read();
    bench.settle();
    bench
}

fn with(attached: &[(&str, u64)]) -> Observation {
    let standbys = attached.iter().map(|(name, lsn)| ((*name).to_owned(), Lsn(*lsn))).collect();
    Observation { standbys, ..seen(Process::RunningPrimary) }
}

/// Standbys are seen attached like this, and everything that can be settled is, for a second.
fn second(bench: &mut Bench, attached: &[(&str, u64)]) {
    for name in ["b", "c"] {
        bench.store.put_heartbeat(&identity(name, 1), |_| {});
    }
    bench.advance_ms(1_000);
    renew(bench);
    bench.settle();
    bench.read();
    bench.step(Event::Observed(with(attached)));
    bench.settle();
}

pub(super) fn renew(bench: &mut Bench) {
    if let Some((op, write)) = bench.writing(&Key::Lease) {
        let outcome = bench.store.write(&bench.agent.identity().clone(), &write);
        bench.step(Event::Written(op, outcome));
    }
}

/// The requirement that is asked for and not answered yet.
pub(super) fn asked(bench: &Bench) -> Option<Requirement> {
    bench.open.iter().find_map(|effect| match effect {
        Effect::Act(_, Action::Require { requirement }, ..) => Some(requirement.clone()),
        _ => None,
    })
}

/// It takes effect, and what was acknowledged before ends here.
pub(super) fn in_effect(bench: &mut Bench, lsn: u64) {
    bench.acted(ActionOutcome::Applied(Done::Required { lsn: Lsn(lsn) }));
}

pub(super) fn named(bench: &Bench) -> BTreeSet<MemberId> {
    bench.store.lease().synchronous
}

pub(super) fn release() -> Release {
    Release {
        to: None,
        reason: "shutdown".to_owned(),
        lsn: Some(Lsn(5_000)),
        timeline: crate::core::ids::TimelineId(1),
        fence: Default::default(),
        token: None,
    }
}

/// Commits wait for `b`, and the lease says so.
fn settled(policy: Policy) -> Bench {
    let mut bench = primary(policy, &[("b", 5_000)]);
    in_effect(&mut bench, 5_000);
    second(&mut bench, &[("b", 5_000)]);
    second(&mut bench, &[("b", 5_000)]);
    assert_eq!(named(&bench), members(&["b"]));
    if let Some(requirement) = asked(&bench) {
        assert_eq!(requirement, all(&["b"]));
        in_effect(&mut bench, 5_000);
    }
    bench
}

#[test]
fn off_asks_for_nothing_and_names_nobody() {
    let mut bench = primary(policy(), &[("b", 5_000), ("c", 5_000)]);
    for _ in 0..5 {
        second(&mut bench, &[("b", 5_000), ("c", 5_000)]);
        assert_eq!((asked(&bench), named(&bench)), (None, BTreeSet::new()));
    }
}

#[test]
fn a_member_is_named_only_when_it_has_what_was_acknowledged_before_it_was_required() {
    let mut bench = primary(mode(SynchronousMode::On), &[("b", 4_500)]);
    assert_eq!(asked(&bench), Some(all(&["b"])));
    second(&mut bench, &[("b", 6_000)]);
    second(&mut bench, &[("b", 4_999)]);
    assert_eq!(named(&bench), BTreeSet::new(), "the requirement is not known to be in effect");
    in_effect(&mut bench, 5_000);
    second(&mut bench, &[("b", 4_999)]);
    assert_eq!(named(&bench), BTreeSet::new(), "it lacks a byte");
    second(&mut bench, &[("b", 5_000)]);
    second(&mut bench, &[("b", 5_000)]);
    assert_eq!(named(&bench), members(&["b"]));
}

#[test]
fn another_member_takes_the_place_of_one_that_is_gone_without_a_gap() {
    let mut bench = settled(mode(SynchronousMode::On));
    second(&mut bench, &[("c", 5_000)]);
    assert_eq!(asked(&bench), Some(all(&["b", "c"])), "b may still be taken for one that has all");
    in_effect(&mut bench, 5_000);
    // A renewal that was on its way already, then the one that says so.
    renew(&mut bench);
    bench.step(Event::Observed(with(&[("c", 5_000)])));
    let (op, write) = bench.writing(&Key::Lease).expect("the lease says so at once");
    // Nobody knows whether it landed: a candidate may decide on either.
    bench.step(Event::Written(op, unknown()));
    bench.step(Event::Observed(with(&[("c", 5_000)])));
    assert_eq!(asked(&bench), None, "b is required until it is certainly not named any more");
    let outcome = bench.store.write(&bench.agent.identity().clone(), &write);
    assert!(matches!(outcome, WriteOutcome::Applied(_)));
    bench.read();
    bench.step(Event::Observed(with(&[("c", 5_000)])));
    assert_eq!(named(&bench), members(&["c"]));
    assert_eq!(asked(&bench), Some(all(&["c"])));
}

/// A write that may land yet names a member that is wanted no more: it stays required.
#[test]
fn whom_a_write_without_an_outcome_names_stays_required() {
    let mut bench = settled(mode(SynchronousMode::On));
    second(&mut bench, &[("c", 5_000)]);
    in_effect(&mut bench, 5_000);
    renew(&mut bench);
    bench.step(Event::Observed(with(&[("c", 5_000)])));
    let (op, write) = bench.writing(&Key::Lease).expect("the lease says so at once");
    let Record::Lease(lease) = &write.record else { panic!("{write:?}") };
    assert_eq!(lease.synchronous, members(&["c"]));
    bench.step(Event::Written(op, unknown()));
    for _ in 0..3 {
        bench.step(Event::Observed(with(&[("b", 5_000)])));
        assert_eq!(asked(&bench), None, "c may be taken for one that has everything");
    }
}

#[test]
fn on_falls_back_when_nobody_is_left_and_the_lease_says_so_first() {
    let mut bench = settled(mode(SynchronousMode::On));
    second(&mut bench, &[]);
    assert_eq!((asked(&bench), named(&bench)), (None, members(&["b"])), "it may come back");
    for _ in 0..15 {
        second(&mut bench, &[]);
        if asked(&bench).is_some() {
            break;
        }
    }
    assert_eq!(named(&bench), BTreeSet::new());
    assert_eq!(asked(&bench), Some(Requirement::Nobody));
    in_effect(&mut bench, 5_000);
    for _ in 0..31 {
        second(&mut bench, &[]);
    }
    assert!(bench.agent.status().alarms.contains(&Alarm::NoSynchronousStandby));
}

#[test]
fn strict_never_falls_back() {
    let mut bench = settled(mode(SynchronousMode::Strict));
    let alarmed =
        |bench: &Bench| bench.agent.status().alarms.contains(&Alarm::NoSynchronousStandby);
    for _ in 0..40 {
        second(&mut bench, &[]);
        assert_eq!((asked(&bench), named(&bench)), (None, members(&["b"])));
    }
    assert!(alarmed(&bench), "commits wait");
    assert_eq!(bench.agent.status().synchronous.requirement, Some(all(&["b"])));
    second(&mut bench, &[("b", 5_000)]);
    assert!(!alarmed(&bench));
}

#[test]
fn strict_without_a_standby_acknowledges_nothing() {
    let bench = Bench::healthy_with(mode(SynchronousMode::Strict));
    assert_eq!(asked(&bench), Some(Requirement::Unsatisfiable));
}

/// A commit that only `b` has, besides, under a lease that names nobody is lost when `c` takes over.
#[test]
fn strict_acknowledges_nothing_before_the_lease_names_who_has_it() {
    let withheld = Requirement::Withheld(members(&["b"]));
    let mut bench = primary(mode(SynchronousMode::Strict), &[("b", 5_000)]);
    assert_eq!(asked(&bench), Some(withheld.clone()));
    in_effect(&mut bench, 5_000);
    for _ in 0..10 {
        if !named(&bench).is_empty() {
            break;
        }
        let requirement = bench.agent.status().synchronous.requirement;
        assert_eq!((asked(&bench), requirement), (None, Some(withheld.clone())));
        second(&mut bench, &[("b", 5_000)]);
    }
    assert_eq!((named(&bench), asked(&bench)), (members(&["b"]), Some(all(&["b"]))));
    // In the other mode a lease that names nobody says that some may be lost.
    let bench = primary(mode(SynchronousMode::On), &[("b", 5_000)]);
    assert_eq!(asked(&bench), Some(all(&["b"])));
}

/// What was set for the cluster may be `strict`, whatever we are configured with.
#[test]
fn a_restarted_primary_that_cannot_read_the_description_keeps_whom_the_lease_names() {
    let a = identity("a", 1);
    let mut store = Store::new();
    store.put_cluster(&a, |_| {});
    let described = store.snapshot().cluster.revision();
    store.put_lease(&a, |lease| {
        lease.synchronous = members(&["b"]);
        lease.described = described;
    });
    store.damage(Key::ClusterState);
    let mut bench = Bench::start_as(identity("a", 2), policy(), None, store);
    bench.read();
    bench.observe(Process::RunningPrimary);
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    if asked(&bench).is_some() {
        in_effect(&mut bench, 0);
    }
    bench.remember();
    for _ in 0..10 {
        second(&mut bench, &[("b", 5_000)]);
        assert_eq!(named(&bench), members(&["b"]));
        assert!(asked(&bench).is_none_or(|requirement| requirement == all(&["b"])));
        assert_eq!(bench.store.lease().described, described, "others need to have read as much");
    }
}

#[test]
fn what_did_not_take_effect_is_asked_for_again_and_nothing_is_built_on_it() {
    for outcome in [
        ActionOutcome::Unknown("no answer".to_owned()),
        ActionOutcome::Refused("another file".to_owned()),
    ] {
        let mut bench = primary(mode(SynchronousMode::On), &[("b", 9_000)]);
        bench.acted(outcome);
        assert_eq!(asked(&bench), None, "not in a circle");
        second(&mut bench, &[("b", 9_000)]);
        second(&mut bench, &[("b", 9_000)]);
        assert_eq!(named(&bench), BTreeSet::new());
        assert_eq!(asked(&bench), Some(all(&["b"])));
        bench.assert_no_storm();
    }
}

#[test]
fn switched_off_while_running_the_lease_names_nobody_before_commits_wait_no_more() {
    let mut bench = settled(mode(SynchronousMode::On));
    bench.step(Event::Reconfigured(policy()));
    for _ in 0..3 {
        assert!(asked(&bench).is_none() || named(&bench).is_empty());
        second(&mut bench, &[("b", 5_000)]);
    }
    assert_eq!(named(&bench), BTreeSet::new());
    assert_eq!(asked(&bench), Some(Requirement::Nobody));
}

#[test]
fn as_many_as_configured_and_the_preferred_ones() {
    let two = Policy { synchronous_standbys: 2, ..mode(SynchronousMode::On) };
    let bench = primary(two, &[("b", 5_000), ("c", 5_000)]);
    assert_eq!(asked(&bench), Some(all(&["b", "c"])));
    let mut bench = healthy(mode(SynchronousMode::On));
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.store.put_heartbeat(&identity("c", 1), |heartbeat| heartbeat.priority = 9);
    bench.read();
    bench.settle();
    assert_eq!(asked(&bench), Some(all(&["c"])));
}

#[test]
fn members_that_never_take_over_or_lag_far_behind_are_not_waited_for() {
    let mut bench = healthy(mode(SynchronousMode::On));
    bench.store.put_heartbeat(&identity("b", 1), |heartbeat| heartbeat.priority = 0);
    bench.store.put_heartbeat(&identity("c", 1), |_| {});
    bench.step(Event::Observed(with(&[("b", 5_000), ("c", 3_999)])));
    bench.read();
    bench.settle();
    assert_eq!(asked(&bench), None);
    assert_eq!(bench.agent.status().synchronous.requirement, Some(Requirement::Nobody));
}

/// A look that was before the requirement took effect may have seen another standby of that name.
#[test]
fn a_look_from_before_it_took_effect_proves_nothing() {
    let mut bench = primary(mode(SynchronousMode::On), &[("b", 6_000)]);
    in_effect(&mut bench, 5_000);
    bench.step(Event::Tick);
    renew(&mut bench);
    bench.advance_ms(1_000);
    renew(&mut bench);
    assert_eq!(named(&bench), BTreeSet::new());
    second(&mut bench, &[("b", 6_000)]);
    second(&mut bench, &[("b", 6_000)]);
    assert_eq!(named(&bench), members(&["b"]));
}

/// What a member had when it was required in an earlier time as the primary says nothing about what was
/// acknowledged by others since.
#[test]
fn a_member_has_to_catch_up_anew_with_whoever_takes_over_again() {
    let mut bench = settled(mode(SynchronousMode::Strict));
    // Somebody else takes over, then this member follows.
    let c = identity("c", 1);
    bench
        .store
        .put_lease(&c, |lease| (lease.epoch, lease.synchronous) = (Epoch(7), members(&["a"])));
    bench.step(Event::Changed);
    bench.read();
    bench.acted(fenced());
    for _ in 0..10 {
        if bench.agent.state() == State::ReplicaWatching {
            break;
        }
        let rejoins = |it: &Effect| matches!(it, Effect::Act(_, Action::Rejoin { .. }, ..));
        if bench.open.iter().any(rejoins) {
            bench.acted(ActionOutcome::Applied(Done::Rejoined { by: "start" }));
        }
        let upstream = Some(("c".to_owned(), 5432));
        bench.step(Event::Observed(Observation { upstream, ..seen(Process::RunningStandby) }));
        bench.advance_ms(1_000);
        bench.read();
        bench.settle();
    }
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
    assert_eq!(asked(&bench), Some(Requirement::Unsatisfiable));
    in_effect(&mut bench, 0);
    // And takes over again. What it wrote as the primary before is answered by nobody.
    while bench.writing(&Key::Lease).is_some() {}
    bench.store.put_lease(&c, |lease| {
        (lease.epoch, lease.synchronous) = (Epoch(7), members(&["a"]));
        lease.released = Some(Release { to: Some(member("a")), ..release() });
    });
    bench.read();
    assert!(bench.lease_written().is_some(), "{}", bench.agent.status().takeover);
    bench.apply(&Key::Lease);
    bench.remember();
    bench.acted(ActionOutcome::Applied(Done::Done));
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    second(&mut bench, &[("b", 8_000)]);
    second(&mut bench, &[("b", 8_000)]);
    assert_eq!(asked(&bench), Some(all(&["b"])));
    in_effect(&mut bench, 9_000);
    second(&mut bench, &[("b", 8_000)]);
    second(&mut bench, &[("b", 8_000)]);
    assert_eq!(named(&bench), members(&["a"]), "it had that in an earlier time");
    second(&mut bench, &[("b", 9_000)]);
    second(&mut bench, &[("b", 9_000)]);
    assert_eq!(named(&bench), members(&["b"]));
}
