//! What a person sets for the whole cluster wins over what a member is configured with.

use super::bench::*;
use crate::core::event::{Event, Process, State};
use crate::core::policy::Policy;
use crate::core::records::{ClusterSettings, Key};

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
