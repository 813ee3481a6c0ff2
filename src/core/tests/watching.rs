use super::bench::*;
use crate::core::candidate::WhyNot;
use crate::core::event::{Effect, Event, Observation, Process, Reason, State, WriteOutcome};
use crate::core::ids::{Epoch, Lsn, Revision, TimelineId};
use crate::core::policy::Policy;
use crate::core::records::{Invalid, Key, Release};
use std::time::Duration;

/// The holder falls silent now: a working store, and nothing new about the lease.
pub(super) fn silent_for(bench: &mut Bench, milliseconds: u64) {
    let end = bench.now + Duration::from_millis(milliseconds);
    while let Some(deadline) = bench.agent.deadline().filter(|deadline| deadline.at <= end) {
        let wait = deadline.at.since(bench.now);
        bench.now = bench.now + wait;
        bench.store.clock += i64::try_from(wait.as_nanos()).unwrap();
        bench.step(Event::Tick);
        if bench.agent.state() != State::ReplicaWatching || bench.lease_written().is_some() {
            return;
        }
        bench.settle();
        if bench.open.iter().any(|effect| matches!(effect, Effect::Read(..))) {
            bench.read();
        }
        if bench.lease_written().is_some() {
            return;
        }
    }
    bench.store.clock += i64::try_from(end.since(bench.now).as_nanos()).unwrap();
    bench.now = end;
    bench.step(Event::Tick);
}

#[test]
fn a_silent_holder_is_replaced_exactly_when_the_window_ends() {
    let mut bench = Bench::watching();
    let start = bench.now;
    silent_for(&mut bench, 15_999);
    assert!(bench.lease_written().is_none());
    silent_for(&mut bench, 10);
    assert_eq!(bench.now.since(start), seconds(16));
    let lease = bench.lease_written().unwrap();
    assert_eq!((lease.epoch, lease.status), (Epoch(6), State::ReplicaPromoting));
    assert_eq!(bench.agent.state(), State::ReplicaWatching, "not before it is applied");
    bench.apply(&Key::Lease);
    assert_eq!(bench.became(), Some((State::ReplicaPromoting, Reason::HolderSilent)));
}

#[test]
fn every_renewal_starts_the_window_again() {
    let mut bench = Bench::watching();
    silent_for(&mut bench, 15_500);
    bench.store.put_lease(&identity("b", 1), |lease| lease.seq = 1);
    bench.read();
    silent_for(&mut bench, 15_500);
    assert!(bench.lease_written().is_none());
}

#[test]
fn a_failed_read_starts_the_window_again() {
    let mut bench = Bench::watching();
    silent_for(&mut bench, 10_000);
    let failure = crate::core::event::ReadFailure::Unavailable("timeout".to_owned());
    bench.read_as(Err(failure));
    bench.read();
    silent_for(&mut bench, 15_900);
    assert!(bench.lease_written().is_none());
}

#[test]
fn a_frozen_replica_starts_its_window_again() {
    let mut bench = Bench::watching();
    silent_for(&mut bench, 2_000);
    bench.advance_ms(600_000);
    assert!(bench.lease_written().is_none(), "its view is stale");
    bench.read();
    bench.settle();
    assert!(bench.lease_written().is_none(), "what it reads now begins a window");
}

/// The store's clock and a heartbeat of our own would allow it, but nobody looked meanwhile.
#[test]
fn a_gap_between_two_reads_starts_the_window_again() {
    let mut bench = Bench::watching();
    silent_for(&mut bench, 12_000);
    bench.advance_ms(5_000);
    bench.read();
    bench.settle();
    silent_for(&mut bench, 15_900);
    assert!(bench.lease_written().is_none());
    silent_for(&mut bench, 1_100);
    assert!(bench.lease_written().is_some());
}

#[test]
fn the_published_duration_counts_not_our_own() {
    let long = |store: &mut Store| {
        store.put_lease(&identity("b", 1), |lease| lease.lease_duration = seconds(60));
    };
    let mut bench = Bench::watching_with(policy(), long);
    silent_for(&mut bench, 60_900);
    assert!(bench.lease_written().is_none());
    silent_for(&mut bench, 200);
    assert!(bench.lease_written().is_some());
}

#[test]
fn the_store_clock_can_delay_a_takeover() {
    let mut bench = Bench::watching();
    for _ in 0..20 {
        bench.now = bench.now + seconds(1);
        bench.store.clock += 100_000_000;
        bench.step(Event::Tick);
        bench.settle();
        bench.read();
        bench.settle();
        assert!(bench.writing(&Key::Lease).is_none());
    }
    bench.assert_no_storm();
}

#[test]
fn a_released_lease_is_acquired_in_the_step_that_shows_it() {
    let mut bench = Bench::watching();
    release(&mut bench, Some("a"), 5_000);
    assert!(bench.lease_written().is_some());
    bench.apply(&Key::Lease);
    assert_eq!(bench.became(), Some((State::ReplicaPromoting, Reason::LeaseReleased)));
}

pub(super) fn release(bench: &mut Bench, to: Option<&str>, lsn: u64) {
    let release = Release {
        to: to.map(member),
        reason: "hand_over".to_owned(),
        lsn: Some(Lsn(lsn)),
        timeline: TimelineId(1),
        fence: Default::default(),
        token: None,
    };
    bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(release));
    bench.read();
}

#[test]
fn a_lease_released_to_another_is_left_to_it_for_a_while() {
    let mut bench = Bench::watching();
    release(&mut bench, Some("c"), 5_000);
    assert!(bench.lease_written().is_none());
    silent_for(&mut bench, 3_100);
    assert!(bench.lease_written().is_some(), "c is gone");
}

#[test]
fn a_planned_change_loses_nothing_while_the_old_primary_can_take_it_back() {
    let mut bench = Bench::watching();
    release(&mut bench, Some("a"), 5_001);
    assert!(bench.lease_written().is_none());
    assert!(bench.effects.contains(&Effect::Observe), "what was seen of us may be old");
    let caught_up = Observation { lsn: Lsn(5_001), ..seen(Process::RunningStandby) };
    bench.step(Event::Observed(caught_up));
    assert!(bench.lease_written().is_some());
}

#[test]
fn the_second_in_line_waits_a_step_more() {
    let better = |store: &mut Store| {
        store.put_heartbeat(&identity("c", 1), |heartbeat| heartbeat.database.lsn = Lsn(9_000));
    };
    let mut bench = Bench::watching_with(policy(), better);
    for _ in 0..15 {
        bench.quiet_seconds(1);
        bench.store.put_heartbeat(&identity("c", 1), |beat| beat.database.lsn = Lsn(9_000));
        bench.read();
    }
    silent_for(&mut bench, 1_500);
    assert!(bench.lease_written().is_none());
    silent_for(&mut bench, 1_000);
    assert!(bench.lease_written().is_some());
}

#[test]
fn an_unknown_acquisition_promotes_nothing() {
    let mut bench = Bench::watching();
    release(&mut bench, None, 5_000);
    bench.answer(&Key::Lease, unknown());
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
    bench.read();
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
    bench.advance_ms(1_000);
    assert!(bench.lease_written().is_some(), "sent again");
    bench.assert_no_storm();
}

#[test]
fn a_refused_acquisition_promotes_nothing_and_reads_again() {
    let mut bench = Bench::watching();
    release(&mut bench, None, 5_000);
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
    bench.step(Event::Tick);
    assert!(bench.lease_written().is_none(), "not on the view that was refused");
}

/// What moved the key may have been an earlier sending of our own.
#[test]
fn an_acquisition_refused_on_a_later_sending_is_settled_by_a_read() {
    let mut bench = Bench::watching();
    release(&mut bench, None, 5_000);
    let (op, write) = bench.writing(&Key::Lease).unwrap();
    bench.store.write(&bench.agent.identity().clone(), &write);
    bench.step(Event::Written(op, unknown()));
    bench.advance_ms(1_000);
    bench.answer(&Key::Lease, WriteOutcome::Refused);
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
    bench.read();
    assert_eq!(bench.agent.state(), State::ReplicaPromoting, "it was won by the first sending");
}

#[test]
fn an_acquisition_answered_after_its_lease_ended_promotes_nothing() {
    let mut bench = Bench::watching();
    release(&mut bench, None, 5_000);
    bench.now = bench.now + seconds(60);
    bench.apply(&Key::Lease);
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
    assert!(bench.actions().is_empty());
    bench.read();
    assert_eq!(bench.lease_written().unwrap().epoch, Epoch(7), "acquired anew instead");
}

#[test]
fn an_acquisition_found_by_a_read_counts_from_its_first_try() {
    let mut bench = Bench::watching();
    release(&mut bench, None, 5_000);
    let sent = bench.now;
    let (op, write) = bench.writing(&Key::Lease).unwrap();
    bench.store.write(&bench.agent.identity().clone(), &write);
    bench.step(Event::Written(op, unknown()));
    bench.now = bench.now + seconds(2);
    bench.read();
    assert_eq!(bench.agent.state(), State::ReplicaPromoting);
    let until = bench.agent.status().writable_until.unwrap();
    assert_eq!(until, sent + Duration::from_millis(14_850));
}

#[test]
fn a_lease_of_a_namesake_is_not_ours() {
    let mut bench = Bench::watching();
    let namesake = crate::core::shared::Identity {
        instance: "instance-other".parse().unwrap(),
        ..identity("a", 9)
    };
    bench.store.put_lease(&namesake, |lease| lease.epoch = Epoch(6));
    bench.read();
    assert!(bench.lease_written().is_none());
}

#[test]
fn our_own_lease_beside_a_standby_is_acquired_anew_before_anything_is_promoted() {
    let mut bench = Bench::watching();
    bench.store.put_lease(&identity("a", 0), |lease| lease.epoch = Epoch(6));
    bench.read();
    assert_eq!(bench.lease_written().unwrap().epoch, Epoch(7));
    assert!(bench.actions().is_empty());
    bench.apply(&Key::Lease);
    assert_eq!(bench.became(), Some((State::ReplicaPromoting, Reason::LeaseKept)));
}

#[test]
fn what_we_released_to_another_is_not_taken_back_at_once() {
    let mut bench = Bench::watching();
    let release = Release {
        to: Some(member("c")),
        reason: "hand_over".to_owned(),
        lsn: None,
        timeline: TimelineId(1),
        fence: Default::default(),
        token: None,
    };
    bench.store.put_lease(&identity("a", 0), |lease| lease.released = Some(release));
    bench.read();
    assert!(bench.lease_written().is_none());
}

#[test]
fn never_without_the_right_to() {
    type Change = fn(&mut Store);
    let cases: [(&str, Policy, Change); 3] = [
        ("priority 0", Policy { priority: 0, ..policy() }, |_| {}),
        ("paused", policy(), |store| {
            store.put_cluster(&identity("b", 1), |cluster| cluster.paused = Some(pause("x")));
        }),
        ("unreadable cluster", policy(), |store| {
            let newer = Invalid::Schema("2.0".to_owned());
            store.put(Key::ClusterState, Err(newer));
        }),
    ];
    for (name, policy, change) in cases {
        let mut bench = Bench::watching_with(policy, change);
        release(&mut bench, Some("a"), 5_000);
        silent_for(&mut bench, 60_000);
        assert!(bench.writing(&Key::Lease).is_none(), "{name}");
        assert_eq!(bench.agent.state(), State::ReplicaWatching, "{name}");
    }
}

/// The keys of one read may be of different times: whom the holder counts on is in what it described.
#[test]
fn never_on_a_description_older_than_the_one_the_holder_knew() {
    for newer in [false, true] {
        let mut bench = Bench::watching();
        let known = bench.store.snapshot().cluster.revision().unwrap();
        let described = if newer { Revision(known.0 + 1_000) } else { known };
        bench.store.put_lease(&identity("b", 1), |lease| {
            lease.described = Some(described);
            lease.released = Some(Release {
                to: Some(member("a")),
                reason: "hand_over".to_owned(),
                lsn: Some(Lsn(5_000)),
                timeline: TimelineId(1),
                fence: Default::default(),
                token: None,
            });
        });
        bench.read();
        assert_eq!(bench.lease_written().is_none(), newer);
    }
}

#[test]
fn never_with_a_database_that_is_behind_or_foreign_or_unwell() {
    use crate::core::event::{Condition, Observation};
    let cases = [
        Observation { lsn: Lsn(3_999), ..seen(Process::RunningStandby) },
        Observation { timeline: TimelineId(0), ..seen(Process::RunningStandby) },
        Observation {
            system: Some(crate::core::ids::SystemId(8)),
            ..seen(Process::RunningStandby)
        },
        Observation { condition: Condition::Hung(String::new()), ..seen(Process::RunningStandby) },
    ];
    for observation in cases {
        let mut bench = Bench::watching();
        bench.step(Event::Observed(observation.clone()));
        release(&mut bench, Some("a"), 3_000);
        assert!(bench.lease_written().is_none(), "{observation:?}");
    }
}

#[test]
fn a_damaged_lease_promotes_nobody() {
    let mut bench = Bench::watching();
    bench.store.damage(Key::Lease);
    bench.read();
    silent_for(&mut bench, 60_000);
    assert!(bench.lease_written().is_none());
    assert!(bench.agent.status().takeover.contains("no lease"));
}

#[test]
fn a_heartbeat_of_unknown_outcome_is_written_anew() {
    let mut bench = Bench::watching();
    let own = Key::Heartbeat(member("a"));
    bench.advance_ms(1_000);
    let first = bench.answer(&own, unknown());
    bench.read();
    bench.advance_ms(1_000);
    let (_, second) = bench.writing(&own).unwrap();
    assert_ne!(first.number, second.number);
}

#[test]
fn refused_heartbeats_recover_by_reading() {
    let mut bench = Bench::watching();
    let own = Key::Heartbeat(member("a"));
    bench.advance_ms(1_000);
    bench.store.put_heartbeat(&identity("a", 1), |_| {});
    assert_eq!(bench.apply(&own), WriteOutcome::Refused);
    bench.read();
    bench.advance_ms(1_000);
    assert!(matches!(bench.apply(&own), WriteOutcome::Applied(_)));
}

#[test]
fn heartbeats_that_fail_end_candidacy_and_recovery_restores_it() {
    let mut bench = Bench::watching();
    let own = Key::Heartbeat(member("a"));
    for _ in 0..3 {
        bench.advance_ms(1_000);
        bench.answer(&own, unknown());
    }
    assert_eq!(bench.became(), Some((State::ReplicaFailed, Reason::HeartbeatsFailed)));
    bench.assert_no_storm();
    for _ in 0..4 {
        bench.quiet_seconds(1);
        bench.observe(Process::RunningStandby);
    }
    bench.step(Event::Tick);
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
}

#[test]
fn the_reason_why_not_is_said_in_the_heartbeat() {
    let mut bench = Bench::watching_with(Policy { priority: 0, ..policy() }, |_| {});
    bench.advance_ms(1_000);
    let (_, write) = bench.writing(&Key::Heartbeat(member("a"))).unwrap();
    let crate::core::records::Record::Heartbeat(beat) = write.record else { panic!() };
    assert_eq!(beat.ineligible, Some(WhyNot::NeverPromote.to_string()));
}

#[test]
fn who_could_not_be_promoted_says_so_and_takes_over_from_nobody() {
    for hindered in [None, Some("not allowed".to_owned())] {
        let mut bench = Bench::watching();
        let is_free = hindered.is_none();
        bench.step(Event::Observed(Observation { hindered, ..seen(Process::RunningStandby) }));
        bench.advance_ms(1_000);
        let (_, write) = bench.writing(&Key::Heartbeat(member("a"))).unwrap();
        let crate::core::records::Record::Heartbeat(beat) = write.record else { panic!() };
        let why = WhyNot::Hindered("not allowed".to_owned()).to_string();
        assert_eq!(beat.ineligible, (!is_free).then_some(why));
    }
}

#[test]
fn a_primary_that_should_be_a_standby_is_killed() {
    for failed in [false, true] {
        let mut bench = Bench::watching();
        if failed {
            bench.observe(Process::StoppedStandby);
            assert_eq!(bench.became(), Some((State::ReplicaFailed, Reason::DatabaseUnfit)));
        }
        bench.observe(Process::RunningPrimary);
        assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::StrayPrimary)));
        assert!(bench.fences());
    }
}
