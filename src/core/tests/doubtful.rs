//! What would fail now, and may not in a while: planned changes wait, failovers do not.

use super::bench::*;
use super::failback::{live, preferring};
use super::orders::{answer, give, order, ordered, to_b};
use super::watching::silent_for;
use crate::core::event::{Action, Event, Observation, Process, Reason, State};
use crate::core::ids::{Epoch, MemberId};
use crate::core::membership;
use crate::core::order::{Order, Wish};
use crate::core::policy::Policy;
use crate::core::records::{Heartbeat, Key, Record};

const WHY: &str = "the operator does not answer";

fn doubtful(heartbeat: &mut Heartbeat) {
    heartbeat.doubtful = Some(WHY.to_owned());
}

const FAILOVER: Wish = Wish::Failover { accept_loss: false };

/// Where the lease is on its way to, once the database is stopped.
fn released_to(bench: &mut Bench) -> Option<MemberId> {
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
    bench.acted(done());
    bench.acted(fenced());
    bench.lease_written().unwrap().released.unwrap().to
}

/// Refused in words that have `part`, and nothing was begun.
fn assert_refused(bench: &mut Bench, part: &str) {
    let answer = answer(bench);
    assert!(!answer.done && answer.text.contains(part), "{}", answer.text);
    assert!(answer.text.ends_with(WHY), "{}", answer.text);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    assert!(bench.actions().is_empty());
}

#[test]
fn who_could_not_be_promoted_now_is_handed_over_to_by_a_failover_only() {
    for wish in [Wish::Switchover, Wish::Failback] {
        let mut bench = ordered(order(wish, Some("b")), doubtful);
        assert_refused(&mut bench, "b could not be promoted now");
    }
    let mut bench = ordered(Order { rehearsal: true, ..to_b() }, doubtful);
    assert_refused(&mut bench, "b could not be promoted now");
    let mut bench = ordered(order(FAILOVER, Some("b")), doubtful);
    assert_eq!(released_to(&mut bench), Some(member("b")));
    let mut bench = ordered(Order { rehearsal: true, ..order(FAILOVER, Some("b")) }, doubtful);
    assert!(answer(&mut bench).done);
}

/// It may be over before the order is judged.
#[test]
fn a_doubt_that_passes_in_time_keeps_nobody_waiting() {
    let mut bench = ordered(to_b(), doubtful);
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.step(Event::Changed);
    bench.read();
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Switchover)));
}

/// `a` leads, `b` is the first in line and in doubt, `c` comes after it; somebody wants another primary.
fn with_another(wish: Wish) -> Bench {
    let mut bench = Bench::healthy();
    let b = |b: &mut Heartbeat| (b.priority, b.doubtful) = (9, Some(WHY.to_owned()));
    bench.store.put_heartbeat(&identity("b", 1), b);
    bench.store.put_heartbeat(&identity("c", 1), |c| c.priority = 5);
    bench.read();
    let line: Vec<_> = bench.agent.status().line.into_iter().map(|it| it.member).collect();
    assert_eq!(line, [member("b"), member("c")], "a failover is not changed by it");
    give(&mut bench, |cluster| cluster.order = Some(order(wish, None)));
    bench
}

#[test]
fn a_planned_change_that_names_nobody_passes_over_who_could_not_be_promoted_now() {
    assert_eq!(released_to(&mut with_another(Wish::Switchover)), Some(member("c")));
    assert_eq!(released_to(&mut with_another(FAILOVER)), Some(member("b")));
    let mut bench = with_another(Wish::Failback);
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Failback)));
    bench.acted(done());
    bench.acted(fenced());
    assert_eq!(bench.lease_written().unwrap().released.unwrap().to, Some(member("c")));
    // With nobody else it is named, with what stands against it.
    for wish in [Wish::Switchover, Wish::Failback] {
        let mut bench = ordered(order(wish, None), |b| {
            doubtful(b);
            b.priority = 9;
        });
        assert_refused(&mut bench, "b could not be promoted now");
    }
}

#[test]
fn a_drain_asks_for_who_could_be_promoted_now() {
    for (in_doubt, to) in [(&["b"][..], "c"), (&["c"], "b"), (&["b", "c"], "b")] {
        let mut store = Store::new();
        for name in ["b", "c"] {
            let change = |it: &mut Heartbeat| {
                it.doubtful = in_doubt.contains(&name).then(|| WHY.to_owned());
            };
            store.put_heartbeat(&identity(name, 1), change);
        }
        store.put_cluster(&identity("a", 1), |_| {});
        store.put_lease(&identity("a", 1), |_| {});
        let snapshot = store.snapshot();
        let cluster = snapshot.cluster.record().cloned().unwrap();
        let asked = order(Wish::Switchover, None);
        let after = membership::drain(&snapshot, cluster, &member("a"), &asked, &policy());
        assert_eq!(after.unwrap().unwrap().order.unwrap().to, Some(member(to)), "{in_doubt:?}");
    }
}

fn failback_to(bench: &mut Bench, b: impl Fn(&mut Heartbeat)) -> bool {
    live(bench, 20, b);
    bench.agent.status().last_transition.unwrap().0.reason == Reason::Failback
}

#[test]
fn a_failback_waits_until_the_preferred_member_could_be_promoted() {
    let mut bench = preferring(5);
    let in_doubt = |b: &mut Heartbeat| (b.priority, b.doubtful) = (5, Some(WHY.to_owned()));
    assert!(!failback_to(&mut bench, in_doubt));
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    assert!(failback_to(&mut bench, |b| b.priority = 5));
}

fn of_itself(change: impl FnOnce(&mut Observation)) -> Event {
    let mut seen = seen(Process::RunningPrimary);
    change(&mut seen);
    Event::Observed(seen)
}

#[test]
fn a_primary_that_could_not_be_demoted_now_hands_over_by_a_failover_only() {
    type Change = fn(&mut Observation);
    let in_doubt: Change = |seen| seen.doubtful = Some(WHY.to_owned());
    let hindered: Change = |seen| seen.hindered = Some(WHY.to_owned());
    for change in [in_doubt, hindered] {
        for wish in [Wish::Switchover, FAILOVER] {
            let mut bench = Bench::healthy();
            bench.store.put_heartbeat(&identity("b", 1), |_| {});
            bench.read();
            bench.step(of_itself(change));
            give(&mut bench, |cluster| cluster.order = Some(order(wish, None)));
            if wish == FAILOVER {
                assert_eq!(released_to(&mut bench), Some(member("b")));
            } else {
                assert_refused(&mut bench, "a, the primary, could not be demoted now");
            }
        }
    }
    let mut bench = preferring(5);
    bench.step(of_itself(in_doubt));
    assert!(!failback_to(&mut bench, |b| b.priority = 5));
    bench.step(of_itself(|_| {}));
    assert!(failback_to(&mut bench, |b| b.priority = 5));
}

/// There nothing is demoted as a whole.
#[test]
fn a_primary_hands_over_inside_its_site_whatever_stands_against_its_demotion() {
    for (site, goes) in [("here", true), ("there", false)] {
        let here = Policy { site: "here".parse().ok(), ..policy() };
        let mut bench = Bench::healthy_with(here);
        // The first in line stands elsewhere.
        bench.store.put_heartbeat(&identity("b", 1), |b| {
            (b.priority, b.site) = (9, "there".parse().ok());
        });
        bench.store.put_heartbeat(&identity("c", 1), |c| c.site = site.parse().ok());
        bench.read();
        bench.step(of_itself(|seen| seen.doubtful = Some(WHY.to_owned())));
        give(&mut bench, |cluster| cluster.order = Some(order(Wish::Switchover, None)));
        if goes {
            assert_eq!(released_to(&mut bench), Some(member("c")));
        } else {
            assert_refused(&mut bench, "could not be demoted now");
        }
    }
}

#[test]
fn a_doubt_that_comes_up_while_clients_are_served_calls_a_planned_change_off() {
    let comes_up = |bench: &mut Bench| {
        bench.store.put_heartbeat(&identity("b", 1), doubtful);
        bench.step(Event::Changed);
        bench.read();
    };
    for wish in [Wish::Switchover, FAILOVER] {
        let mut bench = ordered(order(wish, Some("b")), |_| {});
        assert_eq!(bench.actions(), [Action::Checkpoint]);
        comes_up(&mut bench);
        let called_off = bench.became() == Some((State::PrimaryHealthy, Reason::CalledOff));
        assert_eq!(called_off, wish == Wish::Switchover, "{:?}", bench.agent.state());
    }
    // Once the database is being stopped nothing calls it back.
    let mut bench = ordered(to_b(), |_| {});
    bench.acted(done());
    assert!(bench.fences());
    comes_up(&mut bench);
    bench.acted(fenced());
    assert_eq!(bench.lease_written().unwrap().released.unwrap().to, Some(member("b")));
}

#[test]
fn who_is_in_doubt_says_so_and_takes_over_all_the_same() {
    for doubtful in [None, Some(WHY.to_owned())] {
        let mut bench = Bench::watching();
        let seen = seen(Process::RunningStandby);
        bench.step(Event::Observed(Observation { doubtful: doubtful.clone(), ..seen }));
        let mut later = bench.clone();
        bench.advance_ms(1_000);
        let (_, write) = bench.writing(&Key::Heartbeat(member("a"))).unwrap();
        let Record::Heartbeat(beat) = write.record else { panic!() };
        assert_eq!((&beat.ineligible, &beat.doubtful), (&None, &doubtful));
        // One that does not know of it reads, and writes, the record as it was.
        let mut written = serde_json::to_value(&beat).unwrap();
        let known = written.as_object_mut().unwrap().remove("doubtful");
        assert_eq!(known, doubtful.clone().map(Into::into));
        let read: Heartbeat = serde_json::from_value(written).unwrap();
        assert_eq!(read, Heartbeat { doubtful: None, ..beat });
        silent_for(&mut later, 20_000);
        let lease = later.lease_written().expect("a takeover");
        assert_eq!((lease.holder, lease.epoch), (member("a"), Epoch(6)));
    }
}
