use super::bench::*;
use crate::core::event::{
    Action, ActionOutcome, Effect, Event, Exit, Process, ReadFailure, Reason, ShutdownMode, State,
    WatchdogStatus, WriteOutcome,
};
use crate::core::records::Key;

#[test]
fn leaving_running_renews_once_more_and_goes() {
    let mut bench = Bench::healthy();
    bench.step(armed_for(&bench, 60));
    bench.step(Event::Shutdown(ShutdownMode::LeaveRunning));
    assert!(bench.lease_written().is_some());
    assert!(!bench.exits());
    bench.apply(&Key::Lease);
    assert!(bench.exits());
    assert!(bench.open.iter().all(|effect| !matches!(effect, Effect::Act(..))));
}

/// It may have been frozen since it confirmed an earlier deadline.
#[test]
fn a_watchdog_that_has_not_confirmed_the_last_renewal_is_waited_for() {
    let mut bench = Bench::healthy();
    bench.step(armed_for(&bench, 5));
    bench.step(Event::Shutdown(ShutdownMode::LeaveRunning));
    bench.apply(&Key::Lease);
    assert!(!bench.exits());
    bench.step(armed_for(&bench, 60));
    assert!(bench.exits());
}

fn armed_for(bench: &Bench, n: u64) -> Event {
    Event::Watchdog(WatchdogStatus::Armed(bench.now + seconds(n)))
}

#[test]
fn without_an_armed_watchdog_nothing_is_left_running() {
    let mut bench = Bench::healthy();
    bench.step(Event::Watchdog(WatchdogStatus::Down));
    bench.step(Event::Shutdown(ShutdownMode::LeaveRunning));
    bench.apply(&Key::Lease);
    assert!(!bench.exits());
    // It comes back within half the time: then it may go.
    let mut back = bench.clone();
    back.step(armed_for(&back, 60));
    assert!(back.exits());
    // It does not: the database is handed over instead.
    let half = bench.agent.shutdown_limit() / 2;
    let end = bench.now + half;
    while bench.now < end && bench.actions().is_empty() {
        bench.advance_ms(100);
        if bench.lease_written().is_some() {
            bench.apply(&Key::Lease);
        }
        assert!(!bench.exits());
    }
    assert_eq!(bench.actions(), [Action::Checkpoint]);
}

#[test]
fn past_the_limit_a_database_that_may_write_is_left_to_an_armed_watchdog_only() {
    let mut bench = Bench::healthy();
    bench.step(Event::Died);
    bench.step(Event::Watchdog(WatchdogStatus::Down));
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    bench.now = bench.now + bench.agent.shutdown_limit() + seconds(1);
    bench.step(Event::Tick);
    assert!(!bench.exits(), "it left a database that may accept writes");
    bench.assert_no_storm();
    let armed = armed_for(&bench, 60);
    let overdue = Effect::Exit(Exit::Overdue);
    assert!(bench.step(armed).contains(&overdue));
}

#[test]
fn handing_over_drains_stops_releases_and_goes() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    assert_eq!(bench.became(), Some((State::PrimaryYielding, Reason::Shutdown)));
    assert_eq!(bench.actions(), [Action::Checkpoint]);
    bench.acted(done());
    assert!(bench.fences());
    bench.acted(fenced());
    assert_eq!(bench.lease_written().unwrap().released.unwrap().to, Some(member("b")));
    bench.apply(&Key::Lease);
    assert!(bench.exits());
}

#[test]
fn a_replica_stops_its_database_once() {
    let mut bench = Bench::watching();
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    assert!(bench.fences());
    bench.acted(fenced());
    assert!(bench.exits());
    assert!(bench.actions().is_empty());
}

/// A store that was lost rejects it for ever.
#[test]
fn an_acquisition_without_an_outcome_does_not_keep_a_replica_from_stopping() {
    let mut bench = Bench::watching();
    let rejected = WriteOutcome::Rejected("the bucket is gone".to_owned());
    for _ in 0..40 {
        bench.quiet_seconds(1);
        if bench.open.iter().any(|it| matches!(it, Effect::Write(_, w, _) if w.key == Key::Lease)) {
            break;
        }
    }
    bench.answer(&Key::Lease, rejected.clone());
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    let end = bench.now + bench.agent.shutdown_limit() / 2;
    loop {
        let due = bench.agent.deadline().expect("a deadline").at;
        assert!(due < end, "it still waits for its acquisition");
        bench.now = due.max(bench.now);
        bench.step(Event::Tick);
        if bench.fences() {
            break;
        }
        if let Some((op, _)) = bench.writing(&Key::Lease) {
            bench.step(Event::Written(op, rejected.clone()));
        }
        bench.settle();
        bench.read_as(Err(ReadFailure::Rejected("the bucket is gone".to_owned())));
    }
    bench.acted(fenced());
    assert!(bench.exits());
}

#[test]
fn a_replica_that_cannot_be_stopped_goes_all_the_same() {
    let mut bench = Bench::watching();
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    bench.acted(ActionOutcome::Refused("no".to_owned()));
    assert!(bench.exits());
}

#[test]
fn a_replica_left_running_goes_at_once() {
    let mut bench = Bench::watching();
    bench.step(Event::Shutdown(ShutdownMode::LeaveRunning));
    assert!(bench.exits());
    assert!(bench.actions().is_empty());
}

#[test]
fn a_primary_that_was_not_confirmed_yet_is_fenced() {
    let mut store = Store::new();
    store.put_lease(&identity("a", 0), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::RunningPrimary);
    bench.step(Event::Shutdown(ShutdownMode::HandOver));
    assert!(bench.fences());
    bench.acted(fenced());
    bench.step(Event::Tick);
    bench.step(Event::Tick);
    assert!(bench.exits());
}

/// Whatever the state, whatever does not answer: it ends by the limit, without a storm.
#[test]
fn every_shutdown_ends_in_time() {
    let mut dead = Bench::healthy();
    dead.step(Event::Died);
    let mut proven = dead.clone();
    proven.acted(fenced());
    let mut waiting = Bench::healthy();
    waiting.advance_ms(1_000);
    waiting.answer(&Key::Lease, WriteOutcome::Refused);
    waiting.acted(fenced());
    waiting.step(Event::Tick);
    let fresh = Bench::start(Store::new());
    let benches = [Bench::healthy(), Bench::watching(), dead, proven, waiting, fresh];
    for start in benches {
        for mode in [ShutdownMode::HandOver, ShutdownMode::LeaveRunning] {
            let mut bench = start.clone();
            bench.step(armed_for(&bench, 3_600));
            bench.assert_no_storm();
            let state = bench.agent.state();
            let end = bench.now + bench.agent.shutdown_limit();
            bench.step(Event::Shutdown(mode));
            bench.assert_no_storm();
            let mut exited = bench.exits();
            while let Some(deadline) = bench.agent.deadline().filter(|d| d.at <= end && !exited) {
                bench.now = bench.now.max(deadline.at);
                bench.step(Event::Tick);
                exited = bench.exits();
            }
            assert!(exited, "{state:?} {mode:?}");
        }
    }
}
