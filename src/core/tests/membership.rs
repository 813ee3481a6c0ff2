//! Members that a person drains or takes out, and where members stand.

use super::bench::*;
use super::promises::{asked, described, granted, renewal_unanswered};
use crate::core::candidate::WhyNot;
use crate::core::event::{Event, Process, State};
use crate::core::ids::{Epoch, MemberId};
use crate::core::membership::{self, Refused};
use crate::core::order::{Order, Wish};
use crate::core::records::{ClusterState, Key, Record, Release, Slot, Snapshot};
use std::time::Duration;

/// What the primary writes of the cluster next, if it does.
fn description(bench: &mut Bench) -> Option<ClusterState> {
    for _ in 0..3 {
        if let Some((_, write)) = bench.writing(&Key::ClusterState) {
            let Record::ClusterState(cluster) = write.record else { panic!("no cluster state") };
            return Some(cluster);
        }
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
    }
    None
}

fn remove(bench: &mut Bench, name: &str) {
    bench.store.change_cluster(|cluster| {
        cluster.members.remove(&member(name)).expect("a member");
    });
}

/// Whom the primary asks to promise after the next renewal that is not answered.
fn counted_on(bench: &mut Bench) -> Vec<MemberId> {
    renewal_unanswered(bench);
    asked(bench).map(|(_, peers)| peers).expect("a round")
}

// ---- promises

#[test]
fn one_that_is_gone_for_good_keeps_promises_from_carrying_the_lease_until_it_is_removed() {
    let mut bench = described(policy());
    renewal_unanswered(&mut bench);
    let (request, _) = asked(&mut bench).unwrap();
    let before = bench.agent.writable_until();
    bench.step(Event::PromiseAnswered(granted("b", &request)));
    assert_eq!(bench.agent.writable_until(), before);

    let mut bench = described(policy());
    remove(&mut bench, "c");
    bench.read();
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    renewal_unanswered(&mut bench);
    let (request, peers) = asked(&mut bench).unwrap();
    assert_eq!(peers, [member("b")]);
    let before = bench.agent.writable_until();
    bench.step(Event::PromiseAnswered(granted("b", &request)));
    assert!(bench.agent.writable_until() > before);
    bench.assert_no_storm();
}

/// Until then an acquisition that it decided on while it was a member may land.
#[test]
fn who_is_removed_counts_until_a_renewal_that_knows_of_it_is_in_the_store() {
    // Read, and the renewal after it is not answered.
    let mut bench = described(policy());
    remove(&mut bench, "c");
    bench.read();
    assert_eq!(counted_on(&mut bench), [member("b"), member("c")]);
    // That renewal landed.
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    assert_eq!(counted_on(&mut bench), [member("b")]);

    // Not read yet when the renewal that is applied was sent.
    let mut bench = described(policy());
    bench.advance_ms(1_000);
    remove(&mut bench, "c");
    bench.read();
    bench.apply(&Key::Lease);
    assert_eq!(counted_on(&mut bench), [member("b"), member("c")]);
}

/// A read of what was there before somebody was admitted does not show that he was removed.
#[test]
fn an_old_description_removes_nobody() {
    let mut bench = described(policy());
    let before = bench.store.snapshot();
    bench.store.put_heartbeat(&identity("n", 1), |_| {});
    bench.read();
    bench.settle();
    let lease = bench.store.snapshot().lease;
    bench.read_as(Ok(Snapshot { lease, ..before }));
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    assert_eq!(counted_on(&mut bench), [member("b"), member("c"), member("n")]);
}

/// Whoever sees the lease must not take an older description for the one its holder counts on.
#[test]
fn the_lease_names_the_newest_description_ever_seen() {
    let mut bench = described(policy());
    let before = bench.store.snapshot().cluster;
    remove(&mut bench, "c");
    bench.read();
    let newest = bench.store.snapshot().cluster.revision();
    bench.read_as(Ok(Snapshot { cluster: before, ..bench.store.snapshot() }));
    bench.advance_ms(1_000);
    assert_eq!(bench.lease_written().expect("a renewal").described, newest);
}

// ---- the description

#[test]
fn who_was_removed_is_admitted_again_when_its_agent_is_started_anew() {
    let mut bench = described(policy());
    let c = identity("c", 1);
    bench.store.put_heartbeat(&c, |_| {});
    bench.store.change_cluster(|cluster| {
        cluster.members.remove(&c.member);
        cluster.removed.insert(c.member.clone(), c.boot.clone());
    });
    bench.read();
    assert_eq!(description(&mut bench), None, "it stands as it is");
    // The same start of it reports again.
    bench.store.put_heartbeat(&c, |_| {});
    bench.read();
    assert_eq!(description(&mut bench), None);
    let names: Vec<_> = bench.agent.status().members.into_iter().map(|it| it.member).collect();
    assert_eq!(names, [member("a"), member("b")]);
    bench.store.put_heartbeat(&identity("c", 2), |_| {});
    bench.read();
    let cluster = description(&mut bench).expect("a description");
    assert!(cluster.members.contains_key(&c.member) && cluster.removed.is_empty());
}

#[test]
fn only_a_person_takes_out_a_member_that_is_silent() {
    let mut bench = described(policy());
    for _ in 0..60 {
        bench.advance_ms(1_000);
        bench.apply(&Key::Lease);
        bench.read();
        bench.settle();
    }
    let cluster = bench.store.snapshot().cluster.record().cloned().unwrap();
    assert!(["b", "c"].iter().all(|name| cluster.members.contains_key(&member(name))));
}

#[test]
fn of_the_removed_only_those_are_kept_that_could_be_admitted() {
    let mut bench = described(policy());
    bench.store.change_cluster(|cluster| {
        cluster.removed.insert(member("x"), identity("x", 1).boot);
        cluster.drained.insert(member("c"));
    });
    bench.read();
    let cluster = description(&mut bench).expect("a description");
    assert!(cluster.removed.is_empty());
    assert!(cluster.drained.contains(&member("c")), "what a person wants is kept");
}

// ---- candidates

#[test]
fn the_drained_and_the_removed_take_over_from_nobody() {
    type Change = fn(&mut ClusterState);
    let cases: [(Change, WhyNot); 2] = [
        (
            |cluster| {
                cluster.drained.insert(member("a"));
            },
            WhyNot::Drained(member("a")),
        ),
        (
            |cluster| {
                cluster.members.remove(&member("a"));
                cluster.removed.insert(member("a"), identity("a", 1).boot);
            },
            WhyNot::Removed(member("a")),
        ),
    ];
    for (change, why) in cases {
        let mut bench = Bench::watching_with(policy(), |store| {
            store.put_cluster(&identity("b", 1), |cluster| {
                change(cluster);
                // Nor if a person wants it at any loss.
                cluster.order = Some(Order {
                    epoch: Epoch(5),
                    wish: Wish::Failover { accept_loss: true },
                    to: Some(member("a")),
                    ..switchover()
                });
            });
        });
        let release = Release {
            to: Some(member("a")),
            reason: "x".to_owned(),
            lsn: None,
            timeline: Default::default(),
            fence: Default::default(),
            token: None,
        };
        bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(release));
        bench.read();
        bench.quiet_seconds(60);
        assert!(bench.writing(&Key::Lease).is_none());
        let said = bench.agent.status().takeover;
        assert!(said.contains(&why.to_string()), "{said}");
    }
}

#[test]
fn who_is_drained_is_not_handed_over_to() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |b| b.priority = 9);
    bench.store.put_heartbeat(&identity("c", 1), |_| {});
    bench.read();
    bench.settle();
    bench.store.change_cluster(|cluster| {
        cluster.drained.insert(member("b"));
        cluster.order = Some(Order { to: Some(member("b")), ..switchover() });
    });
    bench.read();
    let answer = description(&mut bench).and_then(|cluster| cluster.answer).expect("an answer");
    assert!(answer.text.contains("member drain b --off"), "{}", answer.text);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    let line = bench.agent.status().line;
    assert_eq!(line.iter().map(|it| it.member.as_str()).collect::<Vec<_>>(), ["c"]);
}

// ---- what a person may ask for

fn switchover() -> Order {
    Order {
        id: "order-1".to_owned(),
        wish: Wish::Switchover,
        epoch: Epoch(6),
        to: None,
        by: "somebody".to_owned(),
        not_before: None,
        rehearsal: false,
    }
}

/// `a` leads; `b` and `c` report, `c` for the last time 40 s ago.
fn cluster() -> (Snapshot, ClusterState) {
    let mut store = Store::new();
    store.put_cluster(&identity("a", 1), |_| {});
    store.put_heartbeat(&identity("c", 1), |_| {});
    store.clock += 40_000_000_000;
    store.put_heartbeat(&identity("b", 1), |_| {});
    store.put_lease(&identity("a", 1), |_| {});
    let snapshot = store.snapshot();
    let cluster = snapshot.cluster.record().cloned().unwrap();
    (snapshot, cluster)
}

#[test]
fn only_a_silent_member_that_is_not_the_primary_is_removed() {
    let (snapshot, before) = cluster();
    let remove = |name: &str| {
        let silent_after = membership::silent_after(&snapshot, &policy());
        membership::remove(&snapshot, before.clone(), &member(name), silent_after)
    };
    assert_eq!(remove("a"), Err(Refused::Primary(member("a"))));
    assert!(matches!(remove("b"), Err(Refused::Running { .. })));
    let Err(unknown) = remove("x") else { panic!("x is nobody") };
    assert!(unknown.to_string().ends_with("those there are: a, b, c"), "{unknown}");
    let named = |names: &[&str]| {
        let Slot::Valid { mut record, header, revision, created } = snapshot.lease.clone() else {
            panic!("no lease")
        };
        record.synchronous = names.iter().map(|name| member(name)).collect();
        let lease = Slot::Valid { record, header, revision, created };
        let snapshot = Snapshot { lease, ..snapshot.clone() };
        let silent_after = membership::silent_after(&snapshot, &policy());
        membership::remove(&snapshot, before.clone(), &member("c"), silent_after)
    };
    assert_eq!(named(&["c"]), Err(Refused::Named(member("c"))));
    assert_eq!(named(&["b", "c"]), remove("c"));
    let after = remove("c").unwrap();
    assert!(!after.members.contains_key(&member("c")));
    assert_eq!(after.removed.get(&member("c")), Some(&identity("c", 1).boot));
}

/// The store's clock of one machine begins anew at each of its starts.
#[test]
fn a_clock_that_ran_backwards_makes_nobody_look_alive() {
    let (snapshot, _) = cluster();
    let age = |name: &str| snapshot.age(&snapshot.heartbeats[&member(name)]);
    assert_eq!(age("c"), Some(Duration::from_secs(40)));
    assert_eq!(age("b"), Some(Duration::ZERO));
    let mut store = Store::new();
    store.clock = 3_600_000_000_000;
    store.put_heartbeat(&identity("c", 1), |_| {});
    store.clock = 0;
    store.put_lease(&identity("a", 1), |_| {});
    let snapshot = store.snapshot();
    assert_eq!(snapshot.age(&snapshot.heartbeats[&member("c")]), None);
    assert_eq!(snapshot.age(&snapshot.lease), Some(Duration::ZERO));
}

#[test]
fn a_primary_is_drained_with_an_order_to_the_best_of_the_others() {
    let (snapshot, before) = cluster();
    let drain = |cluster: &ClusterState, name: &str| {
        membership::drain(&snapshot, cluster.clone(), &member(name), &switchover(), &policy())
    };
    let after = drain(&before, "a").unwrap().unwrap();
    let order = after.order.clone().unwrap();
    assert_eq!((order.to, order.epoch), (Some(member("b")), Epoch(5)));
    assert!(after.drained.contains(&member("a")));
    assert_eq!(drain(&after, "a"), Ok(None), "it is on its way");
    assert!(matches!(drain(&before, "x"), Err(Refused::Unknown { .. })));

    // A replica needs no order; without it nobody could replace the primary.
    let without_b = drain(&before, "b").unwrap().unwrap();
    assert_eq!(without_b.order, None);
    assert_eq!(drain(&without_b, "b"), Ok(None));
    assert_eq!(drain(&without_b, "a"), Err(Refused::NobodyElse(member("a"))));
    let paused = ClusterState { paused: Some(pause("work")), ..before.clone() };
    assert_eq!(drain(&paused, "a"), Err(Refused::Paused("work".to_owned())));
    assert!(drain(&paused, "b").is_ok());
    let other = Order { epoch: Epoch(5), ..switchover() };
    let ordered = ClusterState { order: Some(other), ..before.clone() };
    assert!(matches!(drain(&ordered, "a"), Err(Refused::OrderOpen(_))));

    let undrain = |cluster, name| membership::undrain(&snapshot, cluster, &member(name));
    assert_eq!(undrain(without_b, "b"), Ok(Some(before.clone())));
    assert_eq!(undrain(before.clone(), "b"), Ok(None));
    assert!(undrain(before, "x").is_err());
}

#[test]
fn of_equals_the_one_in_the_primary_s_site_comes_first() {
    let mut bench = Bench::healthy();
    for (name, site) in [("b", "north"), ("c", "south"), ("d", "south")] {
        bench.store.put_heartbeat(&identity(name, 1), |heartbeat| {
            heartbeat.site = site.parse().ok();
            heartbeat.priority = if name == "d" { 0 } else { 1 };
        });
    }
    bench.store.change_cluster(|cluster| {
        cluster.members.get_mut(&member("a")).unwrap().site = "south".parse().ok();
    });
    bench.observe(Process::RunningPrimary);
    bench.read();
    let line = bench.agent.status().line;
    assert_eq!(line.iter().map(|it| it.member.as_str()).collect::<Vec<_>>(), ["c", "b", "d"]);
}
