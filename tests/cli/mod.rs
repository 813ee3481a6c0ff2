//! The program as its users meet it: commands, exit codes, the HTTP listener.

mod commands;
mod history;
mod http;
mod member;
mod metrics;
mod replay;
mod status;

use std::process::{Command, Output};

use harmony_agent::core::event::{Condition, Observation, Process, State};
use harmony_agent::core::ids::{Epoch, Lsn, Revision, TimelineId};
use harmony_agent::core::reason::{Alarm, Reason};
use harmony_agent::core::records::Address;
use harmony_agent::http::view::{
    LeaseView, MemberView, NotObeyed, ProgressView, Role, StoreView, TransitionView, View,
    WatchdogView,
};

/// The program with `arguments`, and an environment without settings of ours.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harmony-agent"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HARMONY_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a healthy primary `a` with a replica `b` says.
fn primary_view() -> View {
    View {
        member: "a".parse().unwrap(),
        cluster_id: "main".parse().unwrap(),
        state: State::PrimaryHealthy,
        epoch: Epoch(7),
        is_primary: true,
        writable: true,
        lease: LeaseView {
            holder: Some("a".parse().unwrap()),
            seconds_left: Some(12.5),
            epoch: Epoch(7),
            revision: Some(Revision(42)),
        },
        staleness_seconds: Some(0.2),
        store: StoreView {
            connected: true,
            trouble: None,
            backend: "sqlite".to_owned(),
            incarnation: Some("1f".parse().unwrap()),
        },
        database: Some(database(Process::RunningPrimary)),
        watchdog: WatchdogView::Armed,
        members: vec![member("a", Role::Primary, None), member("b", Role::Replica, Some("lag"))],
        progress: Some(ProgressView {
            step: "copying".to_owned(),
            done_bytes: Some(5 << 20),
            total_bytes: Some(9 << 20),
        }),
        last_transition: Some(TransitionView {
            from: State::ReplicaPromoting,
            to: State::PrimaryHealthy,
            reason: Reason::Promoted,
            seconds_ago: 60.0,
        }),
        line: Vec::new(),
        failover_seconds: 1.1,
        takeover_step_seconds: 0.075,
        takeover: "if a died now: nobody would take over".to_owned(),
        synchronous: Default::default(),
        paused: None,
        order: None,
        order_due_in_seconds: None,
        answer: None,
        alarms: vec![Alarm::NoCandidate],
        not_obeyed: vec![NotObeyed { what: "heartbeat.b".to_owned(), why: "no JSON".to_owned() }],
        version: "0.1.0".to_owned(),
        uptime_seconds: 100.0,
    }
}

/// What a replica `b` that follows says.
fn replica_view() -> View {
    View {
        member: "b".parse().unwrap(),
        state: State::ReplicaWatching,
        is_primary: false,
        writable: false,
        database: Some(database(Process::RunningStandby)),
        ..primary_view()
    }
}

fn database(process: Process) -> Observation {
    Observation {
        process,
        condition: Condition::Ok,
        system: None,
        timeline: TimelineId(3),
        lsn: Lsn(0x0300_0060),
        replayed: Lsn(0x0300_0060),
        streaming: process == Process::RunningStandby,
        upstream: None,
        required: false,
        deputy_of: None,
        hindered: None,
        doubtful: None,
        standbys: Vec::new(),
    }
}

fn member(name: &str, role: Role, ineligible: Option<&str>) -> MemberView {
    MemberView {
        member: name.parse().unwrap(),
        role,
        state: Some(if role == Role::Primary {
            State::PrimaryHealthy
        } else {
            State::ReplicaWatching
        }),
        priority: 1,
        site: None,
        drained: false,
        lag: Some(2048),
        timeline: Some(TimelineId(3)),
        lsn: Some(Lsn(0x0300_0060)),
        ineligible: ineligible.map(str::to_owned),
        doubtful: None,
        age_seconds: Some(0.5),
        address: Some(Address { host: "10.0.0.1".to_owned(), port: 5432, http: None }),
    }
}
