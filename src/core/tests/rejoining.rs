use super::bench::*;
use super::watching::release;
use crate::core::event::{
    Action, ActionOutcome, Alarm, Effect, Event, Observation, Process, Reason, State,
};
use crate::core::records::Key;

/// A standby without a stream is made to rejoin a primary that lives, and not one that may be dead: who
/// takes over must not be busy with that.
#[test]
fn only_a_primary_that_renews_is_rejoined() {
    for (renews, wanted) in [(true, true), (false, false)] {
        let long = |store: &mut Store| {
            store.put_lease(&identity("b", 1), |lease| lease.lease_duration = seconds(60));
        };
        let mut bench = Bench::watching_with(policy(), long);
        let mut rejoins = false;
        for _ in 0..40 {
            if renews {
                long(&mut bench.store);
            }
            let alone = Observation { streaming: false, ..seen(Process::RunningStandby) };
            bench.step(Event::Observed(alone));
            bench.quiet_seconds(1);
            let mut open = bench.open.iter();
            rejoins |= open.any(|it| matches!(it, Effect::Act(_, Action::Rejoin { .. }, ..)));
        }
        assert_eq!(rejoins, wanted, "renews: {renews}");
    }
}

/// A standby that could not rejoin.
fn in_vain() -> Bench {
    let mut bench = Bench::watching();
    for _ in 0..60 {
        bench.store.put_lease(&identity("b", 1), |_| {});
        let alone = Observation { streaming: false, ..seen(Process::RunningStandby) };
        bench.step(Event::Observed(alone));
        bench.quiet_seconds(1);
        if bench.open.iter().any(|it| matches!(it, Effect::Act(_, Action::Rejoin { .. }, ..))) {
            bench.acted(ActionOutcome::Refused("its data goes on".to_owned()));
            break;
        }
    }
    for _ in 0..2 {
        assert!(bench.agent.status().alarms.contains(&Alarm::RejoinFailed));
        bench.store.put_lease(&identity("b", 1), |_| {});
        let up = Observation { streaming: false, ..seen(Process::RunningStandby) };
        bench.step(Event::Observed(up));
        bench.quiet_seconds(3);
    }
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
    bench
}

/// By itself, or because a person built it anew.
#[test]
fn what_could_not_rejoin_and_follows_after_all_is_nothing_to_be_said_about() {
    let mut bench = in_vain();
    bench.observe(Process::RunningStandby);
    bench.quiet_seconds(1);
    assert_eq!(bench.agent.status().alarms, []);
}

#[test]
fn nor_is_what_is_the_primary_by_now() {
    let mut bench = in_vain();
    release(&mut bench, Some("a"), 5_000);
    bench.apply(&Key::Lease);
    bench.remember();
    bench.acted(done());
    assert_eq!(bench.became(), Some((State::PrimaryHealthy, Reason::Promoted)));
    assert!(!bench.agent.status().alarms.contains(&Alarm::RejoinFailed));
}
