//! What a person sets for the whole cluster wins over what a member is configured with.

use std::time::Duration;

use super::bench::*;
use crate::core::event::{Event, Process, State};
use crate::core::hook::BeforePromote;
use crate::core::policy::{Policy, Reaction};
use crate::core::records::{ClusterSettings, Key};
use crate::core::synchronous::SynchronousMode;
use crate::core::timing::Timing;

fn lag(bytes: u64) -> ClusterSettings {
    ClusterSettings { maximum_lag_on_failover: Some(bytes), ..ClusterSettings::default() }
}

/// Whether agent `a`, 100 bytes behind, says that it would take over.
fn would(own: u64, set: ClusterSettings) -> bool {
    let own = Policy { maximum_lag_on_failover: own, ..policy() };
    let mut bench = Bench::watching_with(own, |store| {
        let b = identity("b", 1);
        store.put_lease(&b, |lease| lease.database.lsn.0 = 5_100);
        store.put_cluster(&b, |cluster| cluster.settings = set);
    });
    bench.quiet_seconds(1);
    bench.agent.status().takeover.starts_with("this member")
}

#[test]
fn the_cluster_s_lag_wins_over_a_member_s_own() {
    let none = ClusterSettings::default();
    assert!(would(100, none.clone()));
    assert!(!would(99, none));
    assert!(would(0, lag(100)));
    assert!(!would(1_000, lag(99)));
}

#[test]
fn what_is_set_counts_from_the_next_read_on_and_no_longer_than_it_is_set() {
    let mut bench = Bench::watching();
    let b = identity("b", 1);
    bench.store.put_lease(&b, |lease| lease.database.lsn.0 = 5_100);
    let mut would = |set: ClusterSettings| {
        bench.store.put_cluster(&b, |cluster| cluster.settings = set);
        bench.read();
        bench.agent.status().takeover.starts_with("this member")
    };
    assert!(would(ClusterSettings::default()));
    assert!(!would(lag(0)));
    assert!(would(ClusterSettings::default()));
}

#[test]
fn a_primary_keeps_what_is_set_when_it_describes_the_cluster() {
    let mut store = Store::new();
    let a = identity("a", 1);
    store.put_lease(&a, |_| {});
    let set = ClusterSettings { failback_after_ms: Some(0), ..lag(7) };
    store.put_cluster(&a, |cluster| cluster.settings = set.clone());
    let mut bench = Bench::start_as(a, policy(), None, store);
    bench.read();
    bench.observe(Process::RunningPrimary);
    bench.step(Event::Tick);
    bench.apply(&Key::Lease);
    bench.remember();
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    // Its epoch is a new one: it writes the description anew.
    bench.quiet_seconds(2);
    let snapshot = bench.store.snapshot();
    let cluster = snapshot.cluster.record().expect("a description").clone();
    assert_eq!((cluster.epoch, cluster.settings), (bench.agent.status().lease.unwrap().epoch, set));
}

fn timing(lease: u64) -> Timing {
    Timing { lease_duration: seconds(lease), ..Timing::of(&policy()) }
}

fn set(bench: &mut Bench, change: impl FnOnce(&mut ClusterSettings)) {
    bench.store.change_cluster(|cluster| change(&mut cluster.settings));
    bench.read();
}

#[test]
fn timings_count_from_the_next_read_on_and_are_published_with_the_next_renewal() {
    let mut bench = Bench::healthy();
    let own = bench.agent.status().timing;
    set(&mut bench, |settings| settings.timing = Some(Box::new(timing(30))));
    assert_eq!(bench.agent.status().timing, timing(30));
    bench.advance_ms(1_000);
    let lease = bench.lease_written().expect("a renewal");
    let described = bench.store.snapshot().cluster.revision();
    assert_eq!((lease.lease_duration, lease.described), (seconds(30), described));
    bench.apply(&Key::Lease);
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, bench.now + Duration::from_millis(29_700));
    set(&mut bench, |settings| settings.timing = None);
    assert_eq!(bench.agent.status().timing, own);
}

#[test]
fn what_is_configured_anew_does_not_win_over_what_is_set() {
    let mut bench = Bench::healthy();
    set(&mut bench, |settings| settings.timing = Some(Box::new(timing(30))));
    let own = Policy { lease_duration: seconds(20), on_hung: Reaction::Alert, ..policy() };
    bench.step(Event::Reconfigured(own.clone()));
    assert_eq!(bench.agent.status().timing, timing(30));
    assert_eq!(bench.agent.policy().on_hung, Reaction::Alert);
    set(&mut bench, |settings| settings.timing = None);
    assert_eq!(bench.agent.policy(), &own);
}

#[test]
fn what_was_read_last_goes_on_to_count_while_nothing_may_be_obeyed() {
    let a = identity("a", 1);
    for spoil in [
        (|store: &mut Store| _ = store.damage(Key::ClusterState)) as fn(&mut Store),
        |store| store.remove(&Key::ClusterState),
        |store| store.incarnation = "another".parse().unwrap(),
    ] {
        let mut bench = Bench::healthy();
        set(&mut bench, |settings| settings.timing = Some(Box::new(timing(30))));
        spoil(&mut bench.store);
        bench.read();
        assert_eq!(bench.agent.status().timing, timing(30));
    }
    // Nor is it taken from a store that is not obeyed.
    let mut bench = Bench::healthy();
    bench.store.incarnation = "another".parse().unwrap();
    bench.store.put_cluster(&a, |cluster| cluster.settings.timing = Some(Box::new(timing(30))));
    bench.read();
    assert_eq!(bench.agent.status().timing, Timing::of(&policy()));
}

#[test]
fn modes_and_this_member_s_preference_count_and_no_other_s() {
    let mut bench = Bench::healthy();
    let priority = |name: &str| (member(name), 7_u8);
    set(&mut bench, |settings| {
        settings.synchronous_mode = Some(SynchronousMode::Strict);
        settings.synchronous_standbys = Some(2);
        settings.on_disk_full = Some(Reaction::FailOver);
        settings.priorities = [priority("b")].into();
    });
    let wanted = Policy {
        synchronous: SynchronousMode::Strict,
        synchronous_standbys: 2,
        on_disk_full: Reaction::FailOver,
        ..policy()
    };
    assert_eq!(bench.agent.policy(), &wanted);
    set(&mut bench, |settings| settings.priorities = [priority("a"), priority("b")].into());
    assert_eq!(bench.agent.policy(), &Policy { priority: 7, ..wanted });
    set(&mut bench, |settings| *settings = ClusterSettings::default());
    assert_eq!(bench.agent.policy(), &policy());
}

#[test]
fn timings_that_break_the_rule_are_told_apart() {
    let own = Timing::of(&policy());
    assert!(own.is_safe());
    // 1 + 3 × 1 + 4 + 1 = 9 s are needed; 1 % of the lease is drift.
    let lease = |milliseconds: u64| Timing {
        lease_duration: Duration::from_millis(milliseconds),
        ..own.clone()
    };
    assert!(lease(9_091).is_safe() && !lease(9_090).is_safe());
    for broken in [
        Timing { safety_margin: Duration::ZERO, ..own.clone() },
        Timing { heartbeat_interval: Duration::ZERO, ..own.clone() },
        Timing { heartbeat_timeout: Duration::ZERO, ..own.clone() },
        Timing { fence_timeout: Duration::ZERO, ..own.clone() },
        Timing { failure_threshold: 0, ..own.clone() },
        Timing { clock_drift_ppm: 0, ..own.clone() },
        Timing { clock_drift_ppm: u32::MAX, ..own.clone() },
        Timing { heartbeat_timeout: Duration::MAX, ..own.clone() },
        Timing { failure_threshold: u32::MAX, ..own.clone() },
    ] {
        assert!(!broken.is_safe(), "{broken:?}");
    }
}

/// A longer fence needs a longer lease: until that is published, and applied, the one that is held goes by
/// what it was taken with. The other way round, too.
#[test]
fn other_timings_do_not_make_a_primary_fence_what_it_holds() {
    let mut bench = Bench::healthy();
    let short = Timing::of(&policy());
    let long = Timing {
        fence_timeout: seconds(20),
        safety_margin: seconds(5),
        lease_duration: seconds(60),
        ..short.clone()
    };
    for wanted in [long.clone(), short, long] {
        set(&mut bench, |settings| settings.timing = Some(Box::new(wanted.clone())));
        bench.step(Event::Tick);
        for _ in 0..3 {
            assert_eq!(bench.agent.state(), State::PrimaryHealthy, "{wanted:?}");
            bench.advance_ms(1_000);
            bench.apply(&Key::Lease);
        }
        assert_eq!(bench.store.lease().lease_duration, wanted.lease_duration);
    }
    // Once it is applied, fencing starts as early as it has to.
    bench.advance_ms(33_000);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.advance_ms(1_500);
    assert_ne!(bench.agent.state(), State::PrimaryHealthy);
}

#[test]
fn a_promotion_has_more_time_than_this_member_s_hook() {
    let hook = BeforePromote { limit: seconds(5), required: false };
    let own = Policy { before_promote: Some(hook), ..policy() };
    let counted = |seconds: u64| {
        let timing = Timing { promote_timeout: Duration::from_secs(seconds), ..timing(30) };
        let set = ClusterSettings { timing: Some(Box::new(timing)), ..ClusterSettings::default() };
        set.over(&own, &member("a")).promote_timeout
    };
    assert_eq!((counted(5), counted(6)), (own.promote_timeout, seconds(6)));
}

#[test]
fn a_primary_whose_description_was_deleted_writes_what_was_set_again() {
    let mut bench = Bench::healthy();
    set(&mut bench, |settings| settings.timing = Some(Box::new(timing(30))));
    bench.store.remove(&Key::ClusterState);
    bench.quiet_seconds(4);
    let snapshot = bench.store.snapshot();
    let cluster = snapshot.cluster.record().expect("a description");
    assert_eq!(cluster.settings.timing, Some(Box::new(timing(30))));
}
