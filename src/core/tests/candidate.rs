use super::bench::*;
use crate::core::candidate::{Candidate, line};
use crate::core::event::State;
use crate::core::ids::{Lsn, TimelineId};
use crate::core::records::{Key, Release};
use crate::core::time::Instant;
use crate::core::view::View;
use proptest::prelude::*;
use std::time::Duration;

fn order(store: &Store, now: u64) -> Vec<Candidate> {
    let mut view = View::default();
    let now = Instant::from_millis(now);
    view.update(now, store.snapshot(), None, seconds(3));
    line(&view, now, seconds(15))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Best first by synchronous set, timeline, position, priority, site, name, whoever looks and whatever
    /// the order in which heartbeats came.
    #[test]
    fn everybody_sees_the_same_line(
        members in proptest::collection::vec((0u32..2, 0u64..2, 0u8..2, any::<bool>(), any::<bool>()), 1..6),
        turn in 0usize..6,
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let fill = |order: Vec<usize>| {
            let mut store = Store::new();
            let synchronous = |i: &usize| members[*i].3;
            store.put_cluster(&identity("z", 1), |cluster| {
                let place = cluster.members.get_mut(&member("c")).unwrap();
                place.site = "here".parse().ok();
            });
            store.put_lease(&identity("z", 1), |lease| {
                lease.synchronous = (0..members.len())
                    .filter(synchronous)
                    .map(|i| member(names[i]))
                    .collect();
            });
            let release = Release { to: None, reason: String::new(), lsn: None, timeline: TimelineId(1), fence: Default::default(), token: None };
            store.put_lease(&identity("c", 1), |lease| lease.released = Some(release));
            for i in order {
                let (timeline, lsn, priority, _, near) = members[i];
                store.put_heartbeat(&identity(names[i], 1), |heartbeat| {
                    heartbeat.database.timeline = TimelineId(timeline);
                    heartbeat.database.lsn = Lsn(lsn);
                    heartbeat.priority = priority;
                    heartbeat.site = if near { "here" } else { "there" }.parse().ok();
                });
            }
            store
        };
        let mut other: Vec<usize> = (0..members.len()).collect();
        other.rotate_left(turn % members.len());
        let one = order(&fill((0..members.len()).collect()), 1_000);
        prop_assert_eq!(&one, &order(&fill(other), 999_000));
        prop_assert_eq!(one.len(), members.len());
        for pair in one.windows(2) {
            let rank = |c: &Candidate| (c.synchronous, c.timeline, c.lsn, c.priority, c.near);
            let better = rank(&pair[0]) > rank(&pair[1]);
            let tie = rank(&pair[0]) == rank(&pair[1]) && pair[0].member < pair[1].member;
            prop_assert!(better || tie);
        }
    }
}

#[test]
fn the_silent_and_the_holder_are_not_in_line() {
    let mut store = Store::new();
    store.put_lease(&identity("b", 1), |_| {});
    for name in ["b", "c", "d"] {
        store.put_heartbeat(&identity(name, 1), |heartbeat| {
            heartbeat.ineligible = (name == "d").then(|| "behind".to_owned());
        });
    }
    let mut view = View::default();
    let now = Instant::from_millis(1_000);
    view.update(now, store.snapshot(), None, seconds(3));
    let names = |at: Instant| -> Vec<String> {
        line(&view, at, seconds(15)).iter().map(|c| c.member.to_string()).collect()
    };
    assert_eq!(names(now), ["c"]);
    assert!(names(now + Duration::from_millis(15_001)).is_empty());
}

/// A dead member's own last word would be of a time when it was well.
#[test]
fn the_status_says_of_everybody_why_it_is_not_in_line() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    let said = |bench: &Bench| -> Vec<(String, Option<String>)> {
        let members = bench.agent.status().members.into_iter();
        members.map(|it| (it.member.to_string(), it.ineligible)).collect()
    };
    let none_yet = || ("c".to_owned(), Some("has not reported".to_owned()));
    bench.read();
    let well = |name: &str| (name.to_owned(), None);
    assert_eq!(said(&bench), [well("a"), well("b"), none_yet()]);
    for _ in 0..20 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
        bench.settle();
    }
    let silent = ("b".to_owned(), Some("silent; see to its agent".to_owned()));
    assert_eq!(said(&bench), [well("a"), silent, none_yet()]);
    bench.store.put_heartbeat(&identity("b", 1), |b| b.status = State::ReplicaFailed);
    bench.store.put_heartbeat(&identity("c", 1), |c| c.ineligible = Some("behind".to_owned()));
    bench.read();
    let failed = ("b".to_owned(), Some("it is replica_failed".to_owned()));
    assert_eq!(said(&bench), [well("a"), failed, ("c".to_owned(), Some("behind".to_owned()))]);
}
