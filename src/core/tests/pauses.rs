//! Transitions paused: what does not happen then, and what a person asks for in spite of it.

use super::bench::*;
use super::orders::{give, order, ordered};
use crate::core::event::{Alarm, Event, Process, Reason, State};
use crate::core::ids::{Epoch, Lsn};
use crate::core::order::{Order, Pause, Wish};
use crate::core::records::{Key, Record};
use crate::core::time::StoreTime;

#[test]
fn a_failover_by_hand_takes_over_in_spite_of_a_pause_and_loses_only_what_it_may() {
    let failover =
        |accept_loss| Order { epoch: Epoch(5), ..order(Wish::Failover { accept_loss }, Some("a")) };
    for (order, behind, takes) in [
        (None, 0, false),
        (Some(failover(false)), 0, true),
        (Some(failover(false)), 1, false),
        (Some(failover(true)), 1 << 30, true),
        (Some(Order { to: Some(member("c")), ..failover(true) }), 0, false),
        (Some(Order { rehearsal: true, ..failover(true) }), 0, false),
    ] {
        let text = format!("{order:?}, {behind} behind");
        let mut bench = Bench::watching_with(policy(), |store| {
            let b = identity("b", 1);
            store.put_lease(&b, |lease| {
                lease.database.lsn = Lsn(seen(Process::RunningStandby).lsn.0 + behind);
            });
            store.put_cluster(&b, |cluster| {
                cluster.paused = Some(pause("x"));
                cluster.order = order;
            });
        });
        for _ in 0..40 {
            bench.quiet_seconds(1);
            bench.observe(Process::RunningStandby);
        }
        let wrote = bench.writing(&Key::Lease).is_some();
        assert_eq!(wrote, takes, "{text}: {}", bench.agent.status().takeover);
    }
}

#[test]
fn while_paused_nothing_changes_by_itself() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    give(&mut bench, |cluster| cluster.paused = Some(pause("x")));
    // A database that died is opened again here, not handed over.
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert_eq!(bench.became(), Some((State::PrimaryInitializing, Reason::LeaseKept)));
    assert!(!bench.agent.status().alarms.contains(&Alarm::NoCandidate));
}

#[test]
fn a_pause_ends_by_the_store_s_clock_alone() {
    let until = StoreTime(5);
    let ending = Pause { until: Some(until), ..pause("x") };
    assert!(pause("x").holds(None) && pause("x").holds(Some(StoreTime(i64::MAX))));
    assert!(ending.holds(None), "an absent store ends no pause");
    assert!(ending.holds(Some(StoreTime(4))) && !ending.holds(Some(until)));
}

#[test]
fn a_pause_that_ended_is_removed() {
    let mut bench = Bench::healthy();
    let until = StoreTime(bench.store.clock);
    give(&mut bench, |cluster| cluster.paused = Some(Pause { until: Some(until), ..pause("x") }));
    let (_, write) = bench.writing(&Key::ClusterState).unwrap();
    let Record::ClusterState(cluster) = write.record else { panic!() };
    assert_eq!(cluster.paused, None);
}

#[test]
fn a_pause_calls_off_what_a_pause_would_not_have_begun() {
    for (wish, off) in [(Wish::Switchover, true), (Wish::Failover { accept_loss: false }, false)] {
        let mut bench = ordered(order(wish, Some("b")), |_| {});
        give(&mut bench, |cluster| {
            cluster.order = Some(order(wish, Some("b")));
            cluster.paused = Some(pause("x"));
        });
        let state = if off { State::PrimaryHealthy } else { State::PrimaryYielding };
        assert_eq!(bench.agent.state(), state, "{wish:?}");
    }
}

#[test]
fn in_a_pause_a_target_that_never_takes_over_is_refused_too() {
    let failover = order(Wish::Failover { accept_loss: false }, Some("b"));
    for (why, handed) in [("automatic transitions are paused: x", true), ("priority is 0", false)] {
        let mut bench = Bench::healthy();
        bench.store.put_heartbeat(&identity("b", 1), |b| b.ineligible = Some(why.to_owned()));
        bench.read();
        bench.settle();
        give(&mut bench, |cluster| {
            cluster.order = Some(failover.clone());
            cluster.paused = Some(pause("x"));
        });
        assert_eq!(bench.agent.state() == State::PrimaryYielding, handed, "{why}");
    }
}
