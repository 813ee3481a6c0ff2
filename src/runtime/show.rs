//! The core's status as the view that `/status` shows.

use tokio::sync::watch;

use crate::core::event::{Condition, Process, WatchdogStatus};
use crate::core::ids::{ClusterId, Epoch};
use crate::core::status::{MemberStatus, Status};
use crate::core::time::Instant;
use crate::database::Progress;
use crate::http::view::{
    LeaseView, MemberView, NotObeyed, PauseView, ProgressView, Role, StoreView, SynchronousView,
    TransitionView, View, WatchdogView,
};

/// What the view says besides the core's status.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The cluster.
    pub cluster: ClusterId,
    /// The store's backend.
    pub backend: String,
    /// A watchdog is wanted.
    pub watchdog_wanted: bool,
    /// When the agent started.
    pub started: Instant,
    /// How far a long action on the database is.
    pub progress: watch::Receiver<Option<Progress>>,
}

/// The view of `status` at `now`.
pub fn view(setting: &Setting, status: &Status, store: StoreView, now: Instant) -> View {
    let left = status.writable_until.map(|until| until.since(now).as_secs_f64());
    let lease = status.lease.as_ref();
    let holds = left.is_some_and(|left| left > 0.0);
    let primary = status
        .database
        .as_ref()
        .is_some_and(|database| database.process == Process::RunningPrimary);
    let answers = status
        .database
        .as_ref()
        .is_some_and(|database| matches!(database.condition, Condition::Ok | Condition::Slow));
    View {
        member: status.member.clone(),
        cluster_id: setting.cluster.clone(),
        state: status.state,
        epoch: lease.map_or(Epoch(0), |lease| lease.epoch),
        is_primary: holds && primary,
        writable: holds && primary && answers,
        lease: LeaseView {
            holder: lease.filter(|lease| !lease.released).map(|lease| lease.holder.clone()),
            seconds_left: left,
            epoch: lease.map_or(Epoch(0), |lease| lease.epoch),
            revision: lease.map(|lease| lease.revision),
        },
        staleness_seconds: status.staleness.map(|age| age.as_secs_f64()),
        store,
        database: status.database.clone(),
        watchdog: watchdog(setting, status.watchdog),
        members: status.members.iter().map(member).collect(),
        progress: setting.progress.borrow().as_ref().map(|progress| ProgressView {
            step: progress.step.clone(),
            done_bytes: progress.done,
            total_bytes: progress.total,
        }),
        last_transition: status.last_transition.as_ref().map(|(transition, at)| TransitionView {
            from: transition.from,
            to: transition.to,
            reason: transition.reason,
            seconds_ago: now.since(*at).as_secs_f64(),
        }),
        line: status.line.iter().map(|candidate| candidate.member.clone()).collect(),
        failover_seconds: status.failover_timeout.as_secs_f64(),
        takeover_step_seconds: status.takeover_step.as_secs_f64(),
        takeover: status.takeover.clone(),
        synchronous: SynchronousView {
            mode: status.synchronous.mode,
            members: status.synchronous.set.clone(),
            requirement: status.synchronous.requirement.clone(),
        },
        paused: status.paused.as_ref().map(|pause| PauseView {
            reason: pause.reason.clone(),
            by: pause.by.clone(),
            ends: pause.until.is_some(),
            ends_in_seconds: status.pause_ends.map(|left| left.as_secs_f64()),
        }),
        order: status.order.clone(),
        order_due_in_seconds: status.order_due.map(|left| left.as_secs_f64()),
        answer: status.answer.clone(),
        alarms: status.alarms.clone(),
        not_obeyed: status
            .troubles()
            .into_iter()
            .map(|(what, why)| NotObeyed { what, why })
            .collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: now.since(setting.started).as_secs_f64(),
    }
}

fn watchdog(setting: &Setting, status: WatchdogStatus) -> WatchdogView {
    match status {
        WatchdogStatus::Down if !setting.watchdog_wanted => WatchdogView::Off,
        WatchdogStatus::Down => WatchdogView::Down,
        WatchdogStatus::Idle => WatchdogView::Idle,
        WatchdogStatus::Armed(_) => WatchdogView::Armed,
    }
}

fn member(status: &MemberStatus) -> MemberView {
    let role = match (status.holder, status.state) {
        (true, _) => Role::Primary,
        (false, Some(_)) => Role::Replica,
        (false, None) => Role::Unknown,
    };
    MemberView {
        member: status.member.clone(),
        role,
        state: status.state,
        priority: status.priority,
        site: status.site.clone(),
        drained: status.drained,
        lag: status.state.map(|_| status.lag),
        timeline: status.state.map(|_| status.database.timeline),
        lsn: status.state.map(|_| status.database.lsn),
        ineligible: status.ineligible.clone(),
        doubtful: status.doubtful.clone(),
        age_seconds: status.age.map(|age| age.as_secs_f64()),
        address: Some(status.address.clone()),
    }
}
