//! How the target of an order is judged: by what it reports after the order, and by our own senders.

use super::bench::*;
use super::orders::{answer, answered, give, order, put, to_b};
use crate::core::event::{Event, Observation, Process, Reason, State};
use crate::core::ids::Lsn;
use crate::core::order::Wish;
use crate::core::policy::Policy;
use crate::core::records::{Heartbeat, Key};

#[test]
fn a_target_that_fell_silent_is_refused() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    for _ in 0..30 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
        bench.settle();
    }
    put(&mut bench, |cluster| cluster.order = Some(to_b()));
    bench.step(Event::Changed);
    bench.read();
    assert!(answer(&mut bench).text.contains("not been heard of"));
}

/// A primary that knows what `b` says, and is given an order for `to`.
fn ordered(to: Option<&str>, b_says: impl FnOnce(&mut Heartbeat)) -> Bench {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), b_says);
    bench.read();
    bench.settle();
    bench.read();
    put(&mut bench, |cluster| cluster.order = Some(order(Wish::Switchover, to)));
    bench.step(Event::Changed);
    bench
}

/// It may have died since it last reported: nothing is stopped for it before it has reported again.
#[test]
fn a_target_is_judged_by_what_it_says_after_the_order() {
    for named in [Some("b"), None] {
        let mut bench = ordered(named, |_| {});
        for _ in 0..3 {
            bench.read();
            assert_eq!(bench.agent.state(), State::PrimaryHealthy, "{named:?}");
            assert_eq!(answered(&bench), None);
            bench.advance_ms(1_000);
            bench.apply(&Key::Lease);
        }
        bench.store.all_report_again();
        bench.read();
        assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
    }
}

/// And refused when it does not any more.
#[test]
fn a_target_that_does_not_report_after_the_order_is_refused_as_silent() {
    let mut bench = ordered(Some("b"), |_| {});
    for _ in 0..30 {
        bench.read();
        if let Some(answer) = answered(&bench) {
            assert!(answer.text.contains("not been heard of"), "{answer:?}");
            return;
        }
        bench.settle();
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
    }
    panic!("never answered");
}

/// Right after `resume`, and whatever else it takes in with its next look at the store.
#[test]
fn what_a_target_said_before_the_order_does_not_refuse_it() {
    for to in [Some("b"), None] {
        let mut bench = ordered(to, |b| {
            b.ineligible = Some("automatic transitions are paused: x".to_owned());
        });
        // It is late.
        for _ in 0..4 {
            bench.read();
            assert_eq!(answered(&bench), None, "{to:?}");
            bench.advance_ms(1_000);
            bench.apply(&Key::Lease);
        }
        bench.store.put_heartbeat(&identity("b", 1), |_| {});
        bench.read();
        assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)), "{to:?}");
    }
}

/// A standby that has just attached: its own word of that, or our sender's, may be a heartbeat away.
#[test]
fn what_a_target_lacks_it_may_have_two_heartbeats_later() {
    type Change = fn(&mut Heartbeat);
    let lacks: [Change; 4] = [
        |b| b.streaming = false,
        |b| b.status = State::ReplicaInitializing,
        |b| b.database.lsn = Lsn(1),
        |b| b.ineligible = Some("database unwell: Starting".to_owned()),
    ];
    for (to, lacks) in [Some("b"), None].into_iter().flat_map(|to| lacks.map(|it| (to, it))) {
        let strict = Policy { maximum_lag_on_failover: 100, ..policy() };
        let mut bench = Bench::healthy_with(strict);
        bench.store.put_heartbeat(&identity("b", 1), lacks);
        bench.step(Event::Observed(Observation {
            // One that follows under another name: only its heartbeat tells of it.
            standbys: vec![("walreceiver".to_owned(), Lsn(1))],
            ..seen(Process::RunningPrimary)
        }));
        bench.read();
        bench.settle();
        give(&mut bench, |cluster| cluster.order = Some(order(Wish::Switchover, to)));
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
        assert_eq!(
            (bench.agent.state(), answered(&bench)),
            (State::PrimaryHealthy, None),
            "{to:?}"
        );
        bench.store.put_heartbeat(&identity("b", 1), |_| {});
        bench.step(Event::Changed);
        bench.read();
        let became = bench.became();
        assert_eq!(became, Some((State::PrimaryYielding, Reason::Switchover)), "{to:?}");
    }
}

#[test]
fn a_priority_that_was_set_counts_before_its_member_has_read_it() {
    for (set, refused) in [(0, true), (3, false)] {
        let mut bench = Bench::healthy();
        bench.store.put_heartbeat(&identity("b", 1), |_| {});
        bench.read();
        bench.settle();
        bench.read();
        give(&mut bench, |cluster| {
            cluster.order = Some(to_b());
            cluster.settings.priorities.insert(member("b"), set);
        });
        assert_eq!(bench.agent.state() == State::PrimaryHealthy, refused, "{set}");
        assert!(!refused || answer(&mut bench).text.contains("priority is 0"));
        assert!(!refused || bench.agent.status().line.is_empty());
    }
}

#[test]
fn by_the_word_of_our_own_sender_the_target_is_near_enough() {
    let strict = Policy { maximum_lag_on_failover: 100, ..policy() };
    let mut bench = Bench::healthy_with(strict);
    let lsn = seen(Process::RunningPrimary).lsn;
    bench.step(Event::Observed(Observation {
        standbys: vec![("b".to_owned(), lsn)],
        ..seen(Process::RunningPrimary)
    }));
    // What it said of itself is older.
    bench.store.put_heartbeat(&identity("b", 1), |b| b.database.lsn = Lsn(1));
    bench.read();
    give(&mut bench, |cluster| cluster.order = Some(to_b()));
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
}

#[test]
fn a_target_that_no_sender_serves_is_refused_although_it_said_that_it_streams() {
    for (attached, refused) in [(vec!["c"], true), (vec![], true), (vec!["walreceiver"], false)] {
        let mut bench = Bench::healthy();
        let standbys = attached.iter().map(|name| ((*name).to_owned(), Lsn(5_000))).collect();
        bench.step(Event::Observed(Observation { standbys, ..seen(Process::RunningPrimary) }));
        for name in ["b", "c"] {
            bench.store.put_heartbeat(&identity(name, 1), |_| {});
        }
        bench.read();
        bench.settle();
        bench.read();
        give(&mut bench, |cluster| cluster.order = Some(to_b()));
        let stays = bench.agent.state() == State::PrimaryHealthy;
        assert_eq!(stays, refused, "attached: {attached:?}");
        assert!(!refused || answer(&mut bench).text.contains("does not stream"));
    }
}
