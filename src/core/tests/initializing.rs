use super::bench::*;
use crate::core::event::{
    Action, ActionOutcome, Alarm, Condition, Effect, Event, Guard, Ladder, Process, Reason,
    ShutdownMode, State, WatchdogStatus,
};
use crate::core::ids::{Epoch, TimelineId};
use crate::core::records::Key;
use std::time::Duration;

fn restarted(process: Process, by: &str) -> Bench {
    let mut store = Store::new();
    store.put_lease(&identity(by, 0), |_| {});
    store.put_cluster(&identity(by, 0), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(process);
    bench
}

#[test]
fn a_restarted_agent_acquires_as_soon_as_it_has_read_and_seen() {
    let mut bench = restarted(Process::RunningPrimary, "a");
    bench.read();
    assert_eq!(bench.lease_written().unwrap().epoch, Epoch(6));
    assert!(bench.actions().is_empty(), "PostgreSQL goes on");
    bench.apply(&Key::Lease);
    assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::LeaseApplied)));
}

#[test]
fn a_running_primary_beside_somebody_elses_lease_is_killed() {
    let mut bench = restarted(Process::RunningPrimary, "b");
    bench.read();
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::StrayPrimary)));
    assert!(bench.fences());
}

#[test]
fn a_running_primary_without_a_store_is_fenced_when_its_grace_is_over() {
    let mut bench = restarted(Process::RunningPrimary, "a");
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    bench.advance_ms(2_999);
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    bench.advance_ms(1);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseExpiring)));
    assert!(bench.fences());
    bench.assert_no_storm();
}

#[test]
fn a_postmaster_that_says_nothing_counts_as_a_primary() {
    let mut store = Store::new();
    store.put_lease(&identity("b", 0), |_| {});
    let mut bench = Bench::start(store);
    bench.step(Event::Observed(crate::core::event::Observation {
        condition: Condition::Hung(String::new()),
        ..seen(Process::Running)
    }));
    bench.advance_ms(3_000);
    assert!(bench.fences());
}

#[test]
fn the_watchdogs_deadline_is_the_grace() {
    let mut bench = restarted(Process::RunningPrimary, "a");
    bench.step(Event::Watchdog(WatchdogStatus::Armed(bench.now + seconds(10))));
    bench.advance_ms(9_999);
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    bench.advance_ms(1);
    assert!(bench.fences());
}

/// Nothing else ends the database then, and the lease ends shortly after that deadline.
#[test]
fn the_watchdogs_deadline_is_the_grace_also_when_the_watchdog_has_gone() {
    let mut bench = restarted(Process::RunningPrimary, "a");
    bench.step(Event::Watchdog(WatchdogStatus::Armed(bench.now + seconds(2))));
    bench.step(Event::Watchdog(WatchdogStatus::Down));
    bench.advance_ms(1_999);
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    bench.advance_ms(1);
    let kill = Ladder { fast: Duration::ZERO, immediate: Duration::ZERO };
    assert_eq!(bench.actions(), [Action::Fence { ladder: kill }]);
}

#[test]
fn a_server_that_starts_under_an_armed_watchdog_is_bounded_by_its_deadline() {
    let mut store = Store::new();
    store.put_lease(&identity("a", 0), |_| {});
    let mut bench = Bench::start(store);
    bench.step(Event::Watchdog(WatchdogStatus::Armed(bench.now + seconds(2))));
    bench.step(Event::Watchdog(WatchdogStatus::Down));
    let condition = Condition::Starting;
    let starting = crate::core::event::Observation { condition, ..seen(Process::Running) };
    bench.step(Event::Observed(starting));
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    bench.advance_ms(2_000);
    assert!(bench.fences());
}

/// Somebody held it after us, and what he wrote of the cluster is there.
#[test]
fn a_damaged_lease_is_not_written_again_by_an_earlier_holder() {
    let mut bench = Bench::healthy();
    bench.read();
    bench.store.put_cluster(&identity("b", 0), |cluster| cluster.epoch = Epoch(7));
    bench.store.damage(Key::Lease);
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    bench.acted(fenced());
    for _ in 0..80 {
        bench.observe(Process::StoppedPrimary);
        bench.quiet_seconds(1);
        bench.step(Event::Tick);
        assert!(bench.writing(&Key::Lease).is_none(), "b held it after us");
    }
}

#[test]
fn a_stopped_primary_waits_for_the_store_without_a_storm() {
    let mut bench = restarted(Process::StoppedPrimary, "a");
    bench.assert_no_storm();
    bench.advance_ms(60_000);
    assert!(bench.actions().is_empty());
    bench.read();
    bench.step(Event::Tick);
    assert!(bench.lease_written().is_some());
    assert!(bench.actions().is_empty());
    bench.apply(&Key::Lease);
    assert_eq!(bench.actions(), [Action::StartPrimary]);
}

#[test]
fn a_refused_acquisition_starts_nothing() {
    let mut bench = restarted(Process::StoppedPrimary, "a");
    bench.read();
    bench.step(Event::Tick);
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(6));
    bench.apply(&Key::Lease);
    assert!(bench.actions().is_empty());
    bench.read();
    assert_eq!(bench.agent.state(), State::PrimaryYielding);
}

#[test]
fn an_acquisition_answered_too_late_opens_nothing() {
    let mut bench = restarted(Process::StoppedPrimary, "a");
    bench.read();
    bench.step(Event::Tick);
    bench.now = bench.now + seconds(30);
    bench.apply(&Key::Lease);
    assert!(bench.actions().is_empty());
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
}

#[test]
fn a_stopped_primary_beside_a_live_holder_rejoins_it() {
    let mut bench = restarted(Process::StoppedPrimary, "b");
    bench.read();
    assert!(matches!(bench.actions()[..], [Action::Rejoin { .. }]));
}

#[test]
fn the_first_member_founds_the_cluster_by_an_applied_acquisition() {
    let mut bench = Bench::start(Store::new());
    bench.observe(Process::Absent);
    bench.read();
    assert_eq!(bench.lease_written().unwrap().epoch, Epoch(1));
    assert!(bench.actions().is_empty());
    bench.apply(&Key::Lease);
    assert_eq!(bench.became(), Some((State::PrimaryInitializing, Reason::ClusterNew)));
    assert_eq!(bench.actions(), [Action::Bootstrap]);
    bench.acted(done());
    assert_eq!(bench.actions(), [Action::StartPrimary]);
    bench.acted(done());
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
}

#[test]
fn a_founder_whose_initdb_failed_tries_again() {
    let mut bench = Bench::start(Store::new());
    bench.observe(Process::Absent);
    bench.read();
    bench.apply(&Key::Lease);
    assert_eq!(bench.actions(), [Action::Bootstrap]);
    bench.acted(ActionOutcome::Refused("no room".to_owned()));
    for _ in 0..120 {
        bench.observe(Process::Absent);
        while bench.open.iter().any(|e| matches!(e, Effect::Write(_, w, _) if w.key == Key::Lease))
        {
            bench.apply(&Key::Lease);
        }
        match bench.actions()[..] {
            [] => bench.quiet_seconds(1),
            [Action::Bootstrap] => return,
            _ => panic!("{:?}", bench.actions()),
        }
    }
    panic!("never again: {:?}", bench.agent.state());
}

#[test]
fn nobody_founds_a_cluster_beside_data() {
    let mut store = Store::new();
    store.put_heartbeat(&identity("b", 1), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::Absent);
    bench.read();
    bench.quiet_seconds(60);
    assert!(bench.writing(&Key::Lease).is_none());

    let mut store = Store::new();
    store.put_cluster(&identity("b", 1), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::Absent);
    bench.read();
    assert!(bench.writing(&Key::Lease).is_none());

    let mut store = Store::new();
    store.damage(Key::Lease);
    let mut bench = Bench::start(store);
    bench.observe(Process::Absent);
    bench.read();
    bench.quiet_seconds(60);
    assert!(bench.writing(&Key::Lease).is_none());
}

#[test]
fn an_empty_directory_is_cloned_from_the_holder() {
    let mut bench = restarted(Process::Absent, "b");
    bench.read();
    assert!(matches!(bench.actions()[..], [Action::Clone { .. }]));
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::ReplicaWatching, Reason::Following)));
}

#[test]
fn foreign_data_is_left_alone() {
    let mut store = Store::new();
    store.put_lease(&identity("b", 1), |_| {});
    store.put_cluster(&identity("b", 1), |_| {});
    let mut bench = Bench::start(store);
    bench.step(Event::Observed(crate::core::event::Observation {
        system: Some(crate::core::ids::SystemId(8)),
        ..seen(Process::StoppedPrimary)
    }));
    bench.read();
    assert_eq!(bench.became(), Some((State::ReplicaFailed, Reason::DatabaseUnfit)));
    bench.quiet_seconds(30);
    assert!(bench.actions().is_empty());
    let why = "its system identifier is 8, the cluster's is 7";
    assert_eq!(bench.agent.status().troubles(), [("data_dir".to_owned(), why.to_owned())]);
}

/// What a stopped standby does when it cannot be started, beside a holder in this timeline.
fn after_a_failed_start(holder: TimelineId) -> Action {
    let mut store = Store::new();
    store.put_lease(&identity("b", 0), |lease| lease.database.timeline = holder);
    store.put_cluster(&identity("b", 0), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::StoppedStandby);
    bench.read();
    assert!(matches!(bench.actions()[..], [Action::Follow { upstream: Some(_) }]));
    bench.acted(ActionOutcome::Refused("the server has ended".to_owned()));
    assert_eq!(bench.became(), Some((State::ReplicaFailed, Reason::DatabaseUnfit)));
    for _ in 0..60 {
        bench.store.put_lease(&identity("b", 0), |lease| {
            lease.seq += 1;
            lease.database.timeline = holder;
        });
        bench.observe(Process::StoppedStandby);
        bench.quiet_seconds(1);
        let running = bench.open.iter().find_map(|effect| match effect {
            Effect::Act(_, action, ..) => Some(action.clone()),
            _ => None,
        });
        if let Some(action) = running {
            return action;
        }
    }
    panic!("it is not tried again");
}

/// A standby that stays at its start, because its upstream's history ends before what it needs.
#[test]
fn a_standby_that_never_comes_up_is_made_to_rejoin() {
    let starting = || {
        Event::Observed(crate::core::event::Observation {
            condition: Condition::Starting,
            ..seen(Process::Running)
        })
    };
    let mut store = Store::new();
    let b = identity("b", 1);
    store.put_lease(&b, |_| {});
    store.put_cluster(&b, |_| {});
    // Started by us: once the start was given up.
    let mut bench = Bench::start(store.clone());
    bench.observe(Process::StoppedStandby);
    bench.read();
    assert!(matches!(bench.actions()[..], [Action::Follow { .. }]));
    bench.acted(ActionOutcome::Unknown("follow was cancelled".to_owned()));
    rejoins(&mut bench, starting, 10);
    // Found so by a new agent: after as long as a start may take.
    let mut bench = Bench::start(store);
    bench.step(starting());
    bench.read();
    let found = bench.now;
    rejoins(&mut bench, starting, 100);
    assert!(bench.now.since(found) >= policy().start_timeout, "{:?}", bench.now.since(found));
}

fn rejoins(bench: &mut Bench, observed: impl Fn() -> Event, within: u64) {
    for _ in 0..within {
        bench.store.put_lease(&identity("b", 1), |_| {});
        bench.quiet_seconds(1);
        bench.step(observed());
        let mut open = bench.open.iter();
        if open.any(|it| matches!(it, Effect::Act(_, Action::Rejoin { .. }, ..))) {
            return;
        }
    }
    panic!("no rejoin in {within} s: {:?}", bench.agent.state());
}

#[test]
fn a_standby_that_was_further_than_its_upstreams_history_is_rewound_or_copied() {
    assert!(matches!(after_a_failed_start(TimelineId(2)), Action::Rejoin { .. }));
}

#[test]
fn a_standby_that_does_not_start_for_another_reason_is_not_copied() {
    assert!(matches!(after_a_failed_start(TimelineId(1)), Action::Follow { .. }));
}

#[test]
fn a_standby_that_lets_nobody_in_is_not_tried_again_before_it_does() {
    let mut store = Store::new();
    store.put_lease(&identity("b", 1), |_| {});
    store.put_cluster(&identity("b", 1), |_| {});
    let mut bench = Bench::start(store);
    let denied = crate::core::event::Observation {
        condition: Condition::Denied("no entry in pg_hba.conf".to_owned()),
        upstream: None,
        ..seen(Process::RunningStandby)
    };
    bench.step(Event::Observed(denied.clone()));
    bench.read();
    bench.acted(ActionOutcome::Refused("denied".to_owned()));
    assert_eq!(bench.became(), Some((State::ReplicaFailed, Reason::DatabaseUnfit)));
    bench.step(Event::Observed(denied));
    bench.quiet_seconds(30);
    assert_eq!(bench.agent.state(), State::ReplicaFailed);
    bench.observe(Process::RunningStandby);
    bench.quiet_seconds(1);
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
}

/// The agent of `a` starts beside another cluster's running primary.
fn beside_foreign(with_cluster: bool) -> Bench {
    let mut store = Store::new();
    store.put_lease(&identity("b", 1), |_| {});
    if with_cluster {
        store.put_cluster(&identity("b", 1), |_| {});
    }
    let mut bench = Bench::start(store);
    bench.step(foreign(Process::RunningPrimary));
    bench.read();
    bench
}

fn foreign(process: Process) -> Event {
    let system = Some(crate::core::ids::SystemId(8));
    Event::Observed(crate::core::event::Observation { system, ..seen(process) })
}

#[test]
fn a_running_primary_of_another_cluster_is_left_alone() {
    let mut bench = beside_foreign(true);
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    assert!(bench.agent.status().alarms.contains(&Alarm::ForeignData));
    // Neither time nor a store that is away ends it.
    bench.advance_ms(600_000);
    bench.assert_no_storm();
    assert!(bench.actions().is_empty() && bench.lease_written().is_none());
    // It is gone: what is left of it is looked at as a replica does.
    bench.step(foreign(Process::StoppedPrimary));
    bench.read();
    assert_eq!(bench.agent.state(), State::ReplicaFailed);
    assert!(bench.actions().is_empty());
}

#[test]
fn the_agent_beside_another_clusters_primary_ends_and_leaves_it() {
    let mut bench = beside_foreign(true);
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    assert!(bench.exits(), "it goes on");
    assert!(bench.actions().is_empty());
}

#[test]
fn a_running_primary_is_not_another_clusters_because_nobody_knows_ours() {
    let bench = beside_foreign(false);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::StrayPrimary)));
    assert!(bench.fences());
}

#[test]
fn the_last_holder_writes_a_damaged_lease_again_after_a_failover_time() {
    let mut bench = Bench::healthy();
    bench.read();
    bench.store.damage(Key::Lease);
    bench.advance_ms(1_000);
    bench.apply(&Key::Lease);
    assert_eq!(bench.became(), Some((State::PrimaryFailed, Reason::LeaseTaken)));
    bench.acted(fenced());
    for _ in 0..80 {
        bench.observe(Process::StoppedPrimary);
        bench.quiet_seconds(1);
        bench.now = bench.now + Duration::from_millis(1);
        bench.step(Event::Tick);
        if bench.writing(&Key::Lease).is_some() {
            assert_eq!(bench.agent.state(), State::PrimaryInitializing);
            return;
        }
    }
    panic!("no exit from {:?}", bench.agent.state());
}

/// A former holder whose database is down, and a lease that was damaged before it could take it again.
fn damaged_beside_a_stopped_primary(mut bench: Bench) -> Bench {
    bench.step(Event::Died);
    bench.acted(fenced());
    bench.step(Event::Tick);
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    bench.store.damage(Key::Lease);
    bench.read();
    bench.observe(Process::StoppedPrimary);
    bench
}

/// Somebody else may have held it meanwhile, and writes it again.
#[test]
fn a_damaged_lease_is_left_alone_for_a_failover_time() {
    let mut bench = Bench::healthy();
    bench.read();
    let mut bench = damaged_beside_a_stopped_primary(bench);
    let seen = bench.now;
    while bench.writing(&Key::Lease).is_none() {
        assert!(bench.now.since(seen) < seconds(80), "nobody writes it again");
        bench.quiet_seconds(1);
        bench.observe(Process::StoppedPrimary);
    }
    assert!(bench.now.since(seen) >= seconds(16), "{:?}", bench.now.since(seen));
}

/// The last lease that was read is of an epoch before its floor's: what was there since, nobody has seen.
#[test]
fn a_damaged_lease_is_not_written_again_on_a_read_older_than_the_floor() {
    let mut bench = Bench::healthy();
    // Nor does the cluster's description tell of the epoch.
    while bench.writing(&Key::ClusterState).is_some() {}
    let mut bench = damaged_beside_a_stopped_primary(bench);
    for _ in 0..80 {
        bench.quiet_seconds(1);
        bench.observe(Process::StoppedPrimary);
        assert!(bench.writing(&Key::Lease).is_none());
    }
}

/// A former agent counted on a longer lease than we publish: the watchdog has to kill by the shorter
/// one before a candidate may count by it.
#[test]
fn a_shorter_lease_is_published_only_after_the_watchdog_knows_it() {
    let mut bench = restarted(Process::RunningPrimary, "a");
    let late = bench.now + seconds(3_600);
    bench.step(Event::Watchdog(WatchdogStatus::Armed(late)));
    bench.read();
    assert!(bench.lease_written().is_none());
    let guard = bench.effects.iter().find_map(|effect| match effect {
        Effect::Guard(Guard::Until(until, epoch)) => Some((*until, *epoch)),
        _ => None,
    });
    let (until, epoch) = guard.expect("the watchdog is told");
    assert_eq!(epoch, Epoch(6));
    let lease_end = bench.now + bench.agent.policy().lease_duration;
    assert!(until < lease_end);
    bench.assert_no_storm();
    bench.step(Event::Watchdog(WatchdogStatus::Armed(until)));
    assert_eq!(bench.lease_written().map(|lease| lease.epoch), Some(Epoch(6)));
}
