//! What happened, as log lines and metrics: fed by the driver with every event and effect, so that
//! neither the core nor the adapters count anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::said;
use crate::core::event::{
    Action, ActionOutcome, Condition, Done, Effect, Event, Guard, Observation, ReadFailure, Reason,
    State, StoreWrite, Transition, WriteOutcome,
};
use crate::core::ids::{MemberId, OpId};
use crate::core::records::{ClusterSettings, Key, Record};
use crate::core::status::Status;
use crate::core::time::Instant;
use crate::metrics::{Metrics, Phase, StoreOperation};
use crate::telemetry;

/// An operation under way, and when it began.
#[derive(Debug)]
enum Started {
    Read(Instant),
    Write(Instant, Purpose),
    Act(Instant, Action),
}

/// What a write is for, as metrics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Acquire,
    Heartbeat,
    Other,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Recorder {
    member: MemberId,
    metrics: Metrics,
    started: BTreeMap<OpId, Started>,
    /// When the driver last took something in; shared with the health check.
    beat: Arc<AtomicU64>,
    /// When this member became a primary and has not been seen writable since.
    promoted: Option<Instant>,
    /// Since when the lease has been silent, as the core last said.
    silent_since: Option<Instant>,
    /// What was last logged of troubles that stand, so that each is said once.
    said: Said,
}

/// Troubles that stand, in words: an alarm only names them.
#[derive(Debug, Default)]
struct Said {
    /// Why the store, a record in it, or the data here is not obeyed.
    not_obeyed: Vec<(String, String)>,
    /// Why the store refuses to be read.
    rejected: Option<String>,
    /// Why the database cannot be run, or be asked.
    database: Option<(&'static str, String)>,
    /// Why transitions are paused.
    paused: Option<String>,
    /// The order that is open.
    order: Option<String>,
    /// What a person set for all members.
    settings: ClusterSettings,
    /// Why members refuse to promise.
    refused: said::Said,
}

impl Recorder {
    /// A recorder for `member`.
    pub fn new(member: MemberId, metrics: Metrics) -> Self {
        let (started, beat) = (BTreeMap::new(), Arc::default());
        Self {
            member,
            metrics,
            started,
            beat,
            promoted: None,
            silent_since: None,
            said: Said::default(),
        }
    }

    /// When the driver last took something in, in nanoseconds of the boot clock.
    pub fn beat(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.beat)
    }

    /// Takes in what happened.
    pub fn event(&mut self, now: Instant, event: &Event) {
        self.beat.store(now.as_nanos(), Ordering::Relaxed);
        match event {
            Event::Read(op, answer) => {
                let outcome = match answer {
                    Ok(_) => "ok",
                    Err(ReadFailure::Unavailable(_)) => "unavailable",
                    Err(ReadFailure::Rejected(_)) => "rejected",
                };
                self.store_answered(answer.as_ref().err());
                if let Some(Started::Read(began)) = self.started.remove(op) {
                    self.metrics.store_operation(StoreOperation::Read(outcome), now.since(began));
                }
            }
            Event::Written(op, outcome) => self.written(now, *op, outcome),
            Event::Acted(op, outcome) => self.acted(now, *op, outcome),
            Event::Died => tracing::warn!(member = %self.member, "postmaster ended"),
            Event::Watchdog(status) => {
                tracing::debug!(?status, "watchdog");
                self.metrics.set_watchdog(*status);
            }
            Event::Shutdown(mode) => tracing::info!(member = %self.member, ?mode, "told to stop"),
            Event::Reconfigured(_) => tracing::info!(member = %self.member, "settings read again"),
            Event::Observed(seen) => self.observed(seen),
            Event::PromiseAnswered(answer) => {
                let refused = answer.refused.as_deref();
                let is_news = self.said.refused.is_news(answer.member.as_str(), refused);
                if let Some(why) = refused.filter(|_| is_news) {
                    tracing::warn!(by = %answer.member, round = answer.round, why, "promise refused");
                }
                self.metrics.promise(answer.refused.is_none());
            }
            // The hook's own lines say how it went.
            Event::Tick
            | Event::Changed
            | Event::HookEnded(..)
            | Event::Remembered(..)
            | Event::PromiseAsked(..) => {}
        }
    }

    fn store_answered(&mut self, failure: Option<&ReadFailure>) {
        match failure {
            None => self.said.rejected = None,
            Some(ReadFailure::Unavailable(why)) => tracing::debug!(why, "store not read"),
            Some(ReadFailure::Rejected(why)) => {
                if self.said.rejected.as_ref() != Some(why) {
                    tracing::warn!(member = %self.member, why, "store refuses to be read");
                    self.said.rejected = Some(why.clone());
                }
            }
        }
    }

    fn observed(&mut self, seen: &Observation) {
        let trouble = match &seen.condition {
            Condition::Broken(why) => Some(("database cannot be run", why)),
            Condition::Denied(why) => Some(("database does not let the agent in", why)),
            Condition::Ok
            | Condition::Stopped
            | Condition::Starting
            | Condition::Stopping
            | Condition::Hung(_)
            | Condition::DiskFull(_)
            | Condition::ConnectionsExhausted
            | Condition::Slow => None,
        };
        let trouble = trouble.map(|(what, why)| (what, why.clone()));
        if let Some((what, why)) = trouble.as_ref().filter(|_| self.said.database != trouble) {
            tracing::warn!(member = %self.member, why, "{what}");
        }
        self.said.database = trouble;
    }

    fn written(&mut self, now: Instant, op: OpId, outcome: &WriteOutcome) {
        match outcome {
            WriteOutcome::Unknown { cause, may_land } => {
                tracing::debug!(cause, may_land, "write not confirmed");
            }
            WriteOutcome::Rejected(cause) => tracing::warn!(cause, "write rejected by the store"),
            WriteOutcome::Applied(_) | WriteOutcome::Refused => {}
        }
        let Some(Started::Write(began, purpose)) = self.started.remove(&op) else { return };
        let took = now.since(began);
        self.metrics.store_operation(StoreOperation::written(outcome), took);
        match purpose {
            Purpose::Heartbeat => self.metrics.heartbeat(outcome),
            Purpose::Acquire => self.metrics.phase(Phase::Acquire, took),
            Purpose::Other => {}
        }
    }

    fn acted(&mut self, now: Instant, op: OpId, outcome: &ActionOutcome) {
        let Some(Started::Act(began, action)) = self.started.remove(&op) else { return };
        let took = now.since(began);
        self.metrics.action(&action, outcome);
        let ms = took.as_millis();
        let name = action.name();
        match outcome {
            ActionOutcome::Applied(Done::Fenced(proof)) => {
                tracing::info!(member = %self.member, action = name, ms, rung = proof.rung, clean = proof.clean, lsn = %proof.lsn, boottime = seconds(now), "action done");
            }
            ActionOutcome::Applied(done) => {
                tracing::info!(member = %self.member, action = name, ms, result = ?done, boottime = seconds(now), "action done");
            }
            ActionOutcome::Refused(why) | ActionOutcome::Unknown(why) => {
                tracing::warn!(member = %self.member, action = name, ms, why, boottime = seconds(now), "action failed");
            }
        }
        if !matches!(outcome, ActionOutcome::Applied(_)) {
            return;
        }
        match action {
            Action::Promote | Action::PromoteWith { .. } => {
                self.metrics.phase(Phase::Promote, took);
            }
            Action::Demote { .. } => self.metrics.phase(Phase::Demote, took),
            Action::Fence { .. } => self.metrics.phase(Phase::Fence, took),
            Action::Rejoin { .. } | Action::Clone { .. } => self.metrics.phase(Phase::Rejoin, took),
            Action::Bootstrap
            | Action::Follow { .. }
            | Action::StartPrimary
            | Action::Require { .. }
            | Action::Checkpoint => {}
        }
    }

    /// Takes in what is about to be done.
    pub fn effect(&mut self, now: Instant, effect: &Effect) {
        match effect {
            Effect::Read(op, _) => {
                self.started.insert(*op, Started::Read(now));
            }
            Effect::Write(op, write, _) => {
                let purpose = self.purpose(now, write);
                self.started.insert(*op, Started::Write(now, purpose));
            }
            Effect::Act(op, action, epoch, _) => {
                tracing::info!(member = %self.member, action = action.name(), epoch = epoch.0, boottime = seconds(now), "action begins");
                self.started.insert(*op, Started::Act(now, action.clone()));
            }
            Effect::Became(transition) => self.became(now, transition),
            Effect::Alarm(alarm) => {
                self.metrics.alarm(*alarm);
                telemetry::alarm(&self.member, *alarm);
            }
            Effect::AskPromises(request, peers, _) => {
                tracing::debug!(round = request.round, peers = peers.len(), "promises asked for");
            }
            Effect::Promise(_, answer) => {
                let refused = answer.refused.as_deref();
                tracing::debug!(round = answer.round, refused, "asked for a promise");
            }
            Effect::Guard(Guard::Until(..) | Guard::Released)
            | Effect::BeforePromote(..)
            | Effect::Cancel(_)
            | Effect::EpochEnded(_)
            | Effect::Observe
            | Effect::Remember(..)
            | Effect::Report(_)
            | Effect::Exit(_) => {}
        }
    }

    fn purpose(&self, now: Instant, write: &StoreWrite) -> Purpose {
        match (&write.key, &write.record) {
            (Key::Lease, Record::Lease(lease)) if lease.released.is_some() => {
                let to = lease.released.as_ref().and_then(|release| release.to.as_ref());
                tracing::info!(member = %self.member, event = "release_sent", to = to.map(ToString::to_string), boottime = seconds(now), "lease");
                Purpose::Other
            }
            (Key::Lease, Record::Lease(lease)) if lease.seq == 0 => {
                if let Some(since) = self.silent_since {
                    self.metrics.phase(Phase::Detect, now.since(since));
                }
                tracing::info!(member = %self.member, event = "acquire_sent", epoch = lease.epoch.0, boottime = seconds(now), "lease");
                Purpose::Acquire
            }
            (Key::Lease | Key::Heartbeat(_), _) => Purpose::Heartbeat,
            (Key::ClusterState | Key::Journal(_), _) => Purpose::Other,
        }
    }

    fn became(&mut self, now: Instant, transition: &Transition) {
        telemetry::transition(&self.member, transition, seconds(now));
        self.metrics.transition(transition);
        if transition.to == State::PrimaryHealthy && transition.reason == Reason::Promoted {
            self.promoted = Some(now);
        }
    }

    /// Takes in the status after the step.
    pub fn status(&mut self, now: Instant, status: &Status) {
        self.metrics.set_state(status.state);
        if let Some(lease) = &status.lease {
            self.metrics.set_epoch(lease.epoch);
        }
        let left = status.writable_until.map_or(Duration::ZERO, |until| until.since(now));
        self.metrics.set_lease(left, status.staleness.unwrap_or_default());
        self.silent_since = status.staleness.map(|age| now - age);
        self.stands(status);
        self.asked(status);
        let own = status.members.iter().find(|member| member.member == status.member);
        self.metrics.set_replication_lag(own.map_or(0, |own| own.lag));
        let seen = status.database.as_ref().map(|seen| seen.process);
        if seen == Some(crate::core::event::Process::RunningPrimary)
            && let Some(promoted) = self.promoted.take()
        {
            self.metrics.phase(Phase::FirstWrite, now.since(promoted));
        }
    }
}

impl Recorder {
    /// Says what is not obeyed, and why, when that changed.
    fn asked(&mut self, status: &Status) {
        self.metrics.set_paused(status.paused.is_some());
        self.metrics.set_synchronous(status.synchronous.set.len());
        let paused = status.paused.as_ref().map(|pause| pause.reason.clone());
        if paused != self.said.paused {
            match &status.paused {
                Some(pause) => {
                    let (reason, by) = (&pause.reason, &pause.by);
                    tracing::warn!(member = %self.member, reason, by, "paused: no automatic transition");
                }
                None => tracing::info!(member = %self.member, "no longer paused"),
            }
            self.said.paused = paused;
        }
        if status.settings != self.said.settings {
            let said = serde_json::to_string(&status.settings);
            let settings = said.unwrap_or_else(|error| error.to_string());
            tracing::info!(member = %self.member, settings, "settings of the cluster changed");
            self.said.settings = status.settings.clone();
        }
        let order = status.order.as_ref().map(|order| order.id.clone());
        if order != self.said.order {
            if let Some(order) = &status.order {
                let to = order.to.as_ref().map(tracing::field::display);
                let (wish, epoch, by) = (order.wish.name(), order.epoch.0, &order.by);
                tracing::info!(member = %self.member, wish, to, epoch, by, "asked for");
            } else if let Some(answer) = &status.answer {
                tracing::info!(member = %self.member, done = answer.done, answer = answer.text, "answered");
            }
            self.said.order = order;
        }
    }

    fn stands(&mut self, status: &Status) {
        let found = status.troubles();
        for (what, why) in found.iter().filter(|found| !self.said.not_obeyed.contains(found)) {
            tracing::warn!(member = %self.member, what, why, "not obeyed");
        }
        self.said.not_obeyed = found;
    }
}

/// The boot clock in seconds, for lines of several agents of one machine to be compared.
fn seconds(now: Instant) -> f64 {
    Duration::from_nanos(now.as_nanos()).as_secs_f64()
}
