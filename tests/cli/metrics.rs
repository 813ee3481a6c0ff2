//! The names and labels that dashboards and alerts are built on.

use std::time::Duration;

use harmony_agent::core::event::{
    Action, ActionOutcome, Done, State, Transition, WatchdogStatus, WriteOutcome,
};
use harmony_agent::core::ids::{Epoch, Revision};
use harmony_agent::core::reason::{Alarm, Reason};
use harmony_agent::metrics::{Metrics, Phase, StoreOperation};

#[test]
fn every_metric_is_there_with_its_labels() {
    let metrics = Metrics::new();
    metrics.set_epoch(Epoch(7));
    metrics.set_lease(Duration::from_millis(1500), Duration::from_millis(250));
    metrics.heartbeat(&WriteOutcome::Applied(Revision(1)));
    metrics.heartbeat(&WriteOutcome::Unknown { may_land: false, cause: String::new() });
    metrics.transition(&Transition {
        from: State::ReplicaPromoting,
        to: State::PrimaryHealthy,
        reason: Reason::Promoted,
        epoch: Epoch(7),
    });
    metrics.phase(Phase::FirstWrite, Duration::from_millis(30));
    metrics.set_replication_lag(4096);
    metrics.store_operation(StoreOperation::Read("ok"), Duration::from_millis(1));
    metrics
        .store_operation(StoreOperation::written(&WriteOutcome::Refused), Duration::from_millis(1));
    metrics.set_watchdog(WatchdogStatus::Idle);
    metrics.alarm(Alarm::NoCandidate);
    metrics.action(&Action::Promote, &ActionOutcome::Applied(Done::Done));
    metrics.hook_exists("on_fence");
    metrics.hook("on_fence", "timed_out");
    let text = metrics.encode().unwrap();
    for line in [
        "harmony_state{state=\"primary_healthy\"} 1",
        "harmony_state{state=\"replica_promoting\"} 0",
        "harmony_epoch 7",
        "harmony_lease_seconds_left 1.5",
        "harmony_lease_staleness_seconds 0.25",
        "harmony_heartbeats_total{outcome=\"applied\"} 1",
        "harmony_heartbeats_total{outcome=\"not_sent\"} 1",
        "harmony_heartbeats_total{outcome=\"refused\"} 0",
        "harmony_transitions_total{from=\"replica_promoting\",to=\"primary_healthy\",reason=\"promoted\"} 1",
        "harmony_phase_seconds_count{phase=\"first_write\"} 1",
        "harmony_phase_seconds_count{phase=\"detect\"} 0",
        "harmony_replication_lag_bytes 4096",
        "harmony_store_operations_total{kind=\"read\",outcome=\"ok\"} 1",
        "harmony_store_operations_total{kind=\"write\",outcome=\"refused\"} 1",
        "harmony_store_latency_seconds_count{kind=\"write\"} 1",
        "harmony_watchdog_up 1",
        "harmony_alarms_total{alarm=\"no_candidate\"} 1",
        "harmony_alarms_total{alarm=\"name_taken\"} 0",
        "harmony_actions_total{action=\"promote\",outcome=\"applied\"} 1",
        "harmony_hook_runs_total{hook=\"on_fence\",outcome=\"timed_out\"} 1",
        "harmony_hook_runs_total{hook=\"on_fence\",outcome=\"ok\"} 0",
        "harmony_build_info{version=\"",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line} is not in\n{text}");
    }
}
