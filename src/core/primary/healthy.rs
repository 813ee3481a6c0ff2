//! Lease held, database writable.

use serde::{Deserialize, Serialize};

use super::yielding::Heir;
use super::{Failed, Primary, Standing, Yielding};
use crate::core::agent::{Deadline, Next};
use crate::core::event::{Alarm, Condition, Observation, Process, Reason, ShutdownMode, State};
use crate::core::ids::MemberId;
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::order::Answer;
use crate::core::policy::Reaction;
use crate::core::primary::fenced::After;
use crate::core::shared::{Shared, Signal, Verdict};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::core) struct Healthy {
    pub(super) held: Held,
    since: Instant,
    /// When the required watchdog was found missing.
    unguarded_since: Option<Instant>,
    /// Leaving PostgreSQL running: the last renewal before the exit is on its way.
    leaving: bool,
    /// That renewal was applied.
    renewed: bool,
    /// The member that is preferred over this one, and since when it has been fit to take over.
    #[serde(default)]
    preferred: Option<(MemberId, Instant)>,
    /// The order that is due, and since when it has been.
    #[serde(default)]
    due: Option<(String, Instant)>,
    /// What was said of the order that is open: it stands, whatever changes before it is in the store.
    #[serde(default)]
    answered: Option<Answer>,
}

impl Healthy {
    pub(in crate::core) fn new(cx: &mut Shared, held: Held) -> Self {
        cx.guard(&held);
        cx.clear(Alarm::RejoinFailed);
        let since = cx.now;
        Self {
            held,
            since,
            unguarded_since: None,
            leaving: false,
            renewed: false,
            preferred: None,
            due: None,
            answered: None,
        }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        let due = cx.promises_due(&self.held).filter(|_| cx.shutdown.is_none());
        let round = due.map(|at| Deadline::at(at, "promises due"));
        let failback = self.preferred.as_ref().zip(cx.failback_wait());
        let failback = failback
            .map(|((_, since), wait)| Deadline::at(*since + wait, "failback due"))
            .filter(|due| due.at > cx.now && cx.shutdown.is_none());
        let alone = cx.synchronous_due(self.since).filter(|_| cx.shutdown.is_none());
        let alone = alone.map(|at| Deadline::at(at, "standby waited for"));
        Deadline::earliest([self.held.deadline(cx), round, failback, alone])
    }

    pub(super) fn advance(mut self, cx: &mut Shared, signal: Signal) -> Next {
        cx.take_promises(&mut self.held);
        if let Standing::Lost(reason) = self.held.standing(cx, &signal) {
            return self.fail(cx, reason);
        }
        if signal == Signal::Died {
            return self.fail(cx, Reason::DatabaseDied);
        }
        if let Some(reason) = self.database_trouble(cx) {
            return self.fail(cx, reason);
        }
        if let Some(reason) = self.watchdog_trouble(cx) {
            return self.fail(cx, reason);
        }
        if let Some(shutdown) = cx.shutdown {
            return self.shut_down(cx, shutdown.mode, &signal);
        }
        let answer = match self.verdict(cx) {
            // What was cancelled when a hand-over was called off has to be over first.
            Some(Verdict::HandOver(..)) if cx.busy() => {
                if cx.is_requiring() {
                    // Whatever is in effect covers whom the lease names.
                    cx.cancel();
                }
                None
            }
            Some(Verdict::HandOver(member, reason)) => {
                let order = cx.view.order(self.held.epoch).map(|order| order.id.clone());
                return self.hand_over(cx, Heir { member, reason, order });
            }
            Some(Verdict::Answer(answer)) => Some(answer),
            None => None,
        };
        if let Some(member) = self.preferred_for_long(cx).filter(|_| !cx.busy()) {
            // Until it is taken.
            cx.failbacks_missed = cx.failbacks_missed.saturating_add(1);
            return self.hand_over(cx, Heir { member, reason: Reason::Failback, order: None });
        }
        self.publish(cx, answer);
        cx.drive_synchronous(&mut self.held, self.since);
        cx.drive_renewal(&mut self.held, State::PrimaryHealthy);
        cx.ask_promises(&mut self.held);
        let away = self.held.failures >= cx.policy.failure_threshold;
        cx.set_alarm(Alarm::HeldByPromises, away && self.held.is_promised());
        Next::stay(Primary::Healthy(self))
    }

    /// What is to be done about the order that is open.
    fn verdict(&mut self, cx: &Shared) -> Option<Verdict> {
        let open = cx.view.order(self.held.epoch);
        let said = self.answered.take();
        self.answered = said.filter(|said| open.is_some_and(|order| order.id == said.id));
        if let Some(said) = &self.answered {
            return Some(Verdict::Answer(said.clone()));
        }
        let due = cx.due_order(self.held.epoch)?.id.as_str();
        if self.due.as_ref().is_none_or(|(known, _)| known != due) {
            self.due = Some((due.to_owned(), cx.now));
        }
        let (_, known) = self.due.as_ref()?;
        let verdict = cx.verdict(self.held.epoch, *known)?;
        if let Verdict::Answer(answer) = &verdict {
            self.answered = Some(answer.clone());
        }
        Some(verdict)
    }

    fn fail(self, cx: &mut Shared, reason: Reason) -> Next {
        let after = After::for_reason(reason);
        let failed = Failed::enter(cx, reason, Some(self.held), after);
        Next::to(Primary::Failed(failed), reason)
    }

    fn hand_over(self, cx: &mut Shared, heir: Heir) -> Next {
        let reason = heir.reason;
        let yielding = Yielding::handing_over(cx, self.held, Some(heir));
        Next::to(Primary::Yielding(yielding), reason)
    }

    /// The member that is preferred over this one, once it has been fit to take over for as long as the
    /// policy wants.
    fn preferred_for_long(&mut self, cx: &Shared) -> Option<MemberId> {
        let wait = cx.failback_wait()?;
        let fit = |member: &MemberId| cx.could_hand_over(self.held.epoch, member).is_ok();
        let now = cx.preferred().filter(|it| cx.view.paused().is_none() && fit(it));
        if self.preferred.as_ref().map(|(member, _)| member) != now.as_ref() {
            self.preferred = now.map(|member| (member, cx.now));
        }
        let (member, since) = self.preferred.as_ref()?;
        (cx.now.since(*since) >= wait).then(|| member.clone())
    }

    /// Whether what was seen of the database ends this state. Slow is not dead.
    fn database_trouble(&self, cx: &mut Shared) -> Option<Reason> {
        let seen = cx.database.clone()?;
        match seen.process {
            Process::RunningPrimary => self.condition_trouble(cx, &seen),
            Process::RunningStandby => Some(Reason::DatabaseNotPrimary),
            Process::Remnants
            | Process::StoppedPrimary
            | Process::StoppedStandby
            | Process::Absent
            | Process::Unusable => Some(Reason::DatabaseDied),
            Process::Running => self.condition_trouble(cx, &seen),
        }
    }

    fn condition_trouble(&self, cx: &mut Shared, seen: &Observation) -> Option<Reason> {
        let is = |alarm: Alarm| match &seen.condition {
            Condition::Hung(_) => alarm == Alarm::DatabaseHung,
            Condition::DiskFull(_) => alarm == Alarm::DatabaseDiskFull,
            Condition::ConnectionsExhausted => alarm == Alarm::ConnectionsExhausted,
            Condition::Denied(_) => alarm == Alarm::DatabaseDenied,
            Condition::Broken(_) => alarm == Alarm::DatabaseBroken,
            Condition::Ok
            | Condition::Slow
            | Condition::Starting
            | Condition::Stopping
            | Condition::Stopped => false,
        };
        for alarm in [
            Alarm::DatabaseHung,
            Alarm::DatabaseDiskFull,
            Alarm::ConnectionsExhausted,
            Alarm::DatabaseDenied,
            Alarm::DatabaseBroken,
        ] {
            cx.set_alarm(alarm, is(alarm));
        }
        let react = |reaction: Reaction, cx: &Shared| {
            reaction == Reaction::FailOver && cx.best_other().is_some()
        };
        match &seen.condition {
            Condition::Hung(_) if react(cx.policy.on_hung, cx) => Some(Reason::DatabaseHung),
            Condition::DiskFull(_) if react(cx.policy.on_disk_full, cx) => {
                Some(Reason::DatabaseDiskFull)
            }
            Condition::Ok
            | Condition::Hung(_)
            | Condition::DiskFull(_)
            | Condition::Stopped
            | Condition::Starting
            | Condition::Stopping
            | Condition::ConnectionsExhausted
            | Condition::Denied(_)
            | Condition::Slow
            | Condition::Broken(_) => None,
        }
    }

    /// A required watchdog that stays away for a lease duration ends leadership.
    fn watchdog_trouble(&mut self, cx: &Shared) -> Option<Reason> {
        if !cx.watchdog_missing() {
            self.unguarded_since = None;
            return None;
        }
        let since = *self.unguarded_since.get_or_insert(cx.now);
        (cx.now.since(since) >= cx.policy.lease_duration).then_some(Reason::WatchdogMissing)
    }

    fn shut_down(mut self, cx: &mut Shared, mode: ShutdownMode, signal: &Signal) -> Next {
        match mode {
            ShutdownMode::HandOver if cx.busy() => {
                if cx.is_requiring() {
                    // Whatever is in effect covers whom the lease names.
                    cx.cancel();
                }
                cx.drive_renewal(&mut self.held, State::PrimaryHealthy);
                Next::stay(Primary::Healthy(self))
            }
            ShutdownMode::HandOver => {
                let yielding = Yielding::handing_over(cx, self.held, None);
                Next::to(Primary::Yielding(yielding), Reason::Shutdown)
            }
            ShutdownMode::LeaveRunning => {
                let renewed = matches!(
                    signal,
                    Signal::Lease(LeaseAnswer::Applied(landed)) if landed.purpose == Purpose::Renew
                );
                if self.leaving && renewed {
                    self.renewed = true;
                }
                if self.renewed && cx.is_armed_as_told() {
                    return Next::exit(Primary::Healthy(self));
                }
                if !cx.busy() && cx.hand_over_instead() {
                    // Nothing would end the database after the lease: it is not left running.
                    let yielding = Yielding::handing_over(cx, self.held, None);
                    return Next::to(Primary::Yielding(yielding), Reason::Shutdown);
                }
                if !self.leaving {
                    // One last renewal gives the next agent the whole lease to come up in.
                    self.leaving = cx.pending.is_none();
                    if self.leaving {
                        self.held.next_renewal = cx.now;
                    }
                }
                cx.drive_renewal(&mut self.held, State::PrimaryHealthy);
                Next::stay(Primary::Healthy(self))
            }
        }
    }

    /// Keeps the description of the cluster right: ourselves as the primary, everybody who reports
    /// with our data as a member.
    ///
    /// Nobody is admitted while promises carry the lease: who is new has promised nothing, and may have
    /// seen the lease silent for long.
    fn publish(&self, cx: &mut Shared, answer: Option<Answer>) {
        let alone = cx.best_other().is_none() && cx.view.paused().is_none();
        let settled = cx.now.since(self.since) > cx.policy.lease_duration * 2;
        cx.set_alarm(Alarm::NoCandidate, alone && settled);
        if self.held.is_promised() {
            return;
        }
        let Some(database) = cx.database.clone().filter(|seen| seen.system.is_some()) else {
            return;
        };
        let wanted = cx.describe(self.held.epoch, &database, answer);
        cx.publish_cluster(wanted);
    }
}
