//! The agent: everything that happens goes in, everything that is to be done comes out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{
    Effect, Event, Exit, Floor, Process, Reason, ShutdownMode, State, Transition, WatchdogStatus,
};
use super::ids::Epoch;
use super::policy::Policy;
use super::primary::Primary;
use super::replica::{self, Replica};
use super::shared::{Identity, Shared, Shutdown, Signal};
use super::time::Instant;

/// When the agent wants a [`Event::Tick`], and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// Why, for traces.
    pub why: &'static str,
}

impl Deadline {
    pub(super) fn at(at: Instant, why: &'static str) -> Self {
        Self { at, why }
    }

    pub(super) fn earliest<const N: usize>(deadlines: [Option<Self>; N]) -> Option<Self> {
        deadlines.into_iter().flatten().min_by_key(|deadline| deadline.at)
    }
}

/// Which workflow a member is in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Workflow {
    Primary(Primary),
    Replica(Replica),
}

impl From<Primary> for Workflow {
    fn from(primary: Primary) -> Self {
        Self::Primary(primary)
    }
}

impl Workflow {
    fn state(&self) -> State {
        match self {
            Self::Primary(primary) => primary.state(),
            Self::Replica(replica) => replica.state(),
        }
    }

    fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        match self {
            Self::Primary(primary) => primary.deadline(cx),
            Self::Replica(replica) => replica.deadline(cx),
        }
    }

    fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        match self {
            Self::Primary(primary) => primary.advance(cx, signal),
            Self::Replica(replica) => replica.advance(cx, signal),
        }
    }

    pub(super) fn held(&self) -> Option<&super::lease::Held> {
        match self {
            Self::Primary(primary) => primary.held(),
            Self::Replica(replica) => replica.held(),
        }
    }

    /// Our database cannot be writable: the agent may go without a word.
    fn is_harmless(&self, cx: &Shared) -> bool {
        let standby = cx.database.as_ref().is_some_and(|seen| {
            !seen.process.is_running() || seen.process == Process::RunningStandby
        });
        match self.state() {
            State::PrimaryFenced => true,
            State::PrimaryYielding => self.held().is_none(),
            State::ReplicaInitializing | State::ReplicaWatching | State::ReplicaFailed => standby,
            State::PrimaryInitializing => standby && self.held().is_none() && !cx.busy(),
            State::PrimaryHealthy | State::PrimaryFailed | State::ReplicaPromoting => false,
        }
    }

    /// The database may accept writes, as far as this workflow knows.
    fn may_write(&self, cx: &Shared) -> bool {
        match self.state() {
            State::ReplicaInitializing | State::ReplicaWatching | State::ReplicaFailed => false,
            State::PrimaryInitializing
            | State::PrimaryHealthy
            | State::PrimaryFailed
            | State::PrimaryFenced
            | State::PrimaryYielding
            | State::ReplicaPromoting => !self.is_harmless(cx),
        }
    }

    fn witness_due(&self, cx: &Shared) -> Option<Instant> {
        match self {
            Self::Primary(_) => None,
            Self::Replica(replica) => replica.witness_due(cx),
        }
    }
}

/// What a state says after an event.
pub(super) struct Next {
    workflow: Workflow,
    reason: Option<Reason>,
    exit: bool,
}

impl Next {
    pub(super) fn stay(workflow: impl Into<Workflow>) -> Self {
        Self { workflow: workflow.into(), reason: None, exit: false }
    }

    pub(super) fn to(workflow: impl Into<Workflow>, reason: Reason) -> Self {
        Self { workflow: workflow.into(), reason: Some(reason), exit: false }
    }

    /// Nothing is left to do before the agent stops.
    pub(super) fn exit(workflow: impl Into<Workflow>) -> Self {
        Self { workflow: workflow.into(), reason: None, exit: true }
    }
}

/// The failover agent of one member: a deterministic state machine.
///
/// Its driver calls [`Agent::step`] with every event and a reading of the clock that never goes
/// back, starts the effects returned, answers each effect that has an operation id with exactly one
/// completion, and calls with [`Event::Tick`] when [`Agent::deadline`] has passed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Agent {
    pub(super) shared: Shared,
    /// `None` only while a step is running.
    workflow: Option<Workflow>,
    pub(super) last_transition: Option<(Transition, Instant)>,
    exited: bool,
}

impl Agent {
    /// An agent that knows nothing yet but what its local file remembers.
    pub fn new(id: Identity, policy: Policy, floor: Option<Floor>, now: Instant) -> Self {
        let mut shared = Shared::new(id, policy, floor, now);
        let workflow = replica::start(&mut shared);
        Self { shared, workflow: Some(workflow), last_transition: None, exited: false }
    }

    /// Takes in one event and says what to do. At most one transition happens.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        self.shared.now = self.shared.now.max(now);
        let signal = self.intake(event);
        self.shared.check_name();
        if let Some(workflow) = self.workflow.take() {
            let from = workflow.state();
            let next = workflow.advance(&mut self.shared, signal);
            self.enter(from, next);
        }
        self.shared.housekeeping();
        std::mem::take(&mut self.shared.effects)
    }

    fn intake(&mut self, event: Event) -> Signal {
        let cx = &mut self.shared;
        match event {
            Event::Tick => Signal::Look,
            Event::Changed => {
                cx.changed();
                Signal::Look
            }
            Event::Read(op, answer) => cx.read_done(op, answer),
            Event::Written(op, outcome) => cx.written(op, outcome),
            Event::Acted(op, outcome) => cx.acted(op, outcome),
            Event::HookEnded(op, outcome) => cx.hook_ended(op, outcome),
            Event::Remembered(op, written) => {
                cx.remembered(op, written);
                Signal::Look
            }
            Event::Observed(observation) => {
                cx.observed(observation);
                Signal::Look
            }
            Event::Died => {
                cx.database = None;
                cx.effects.push(Effect::Observe);
                Signal::Died
            }
            Event::Watchdog(status) => {
                cx.watchdog = cx.heard(status);
                if let WatchdogStatus::Armed(deadline) = cx.watchdog {
                    cx.last_deadline = Some(deadline);
                }
                let wanted = cx.policy.watchdog != super::policy::WatchdogMode::Off;
                let down = wanted && status == WatchdogStatus::Down;
                cx.set_alarm(super::event::Alarm::WatchdogDown, down);
                Signal::Look
            }
            Event::PromiseAsked(id, request) => {
                cx.promise(id, &request);
                Signal::Look
            }
            Event::PromiseAnswered(answer) => {
                cx.promise_answered(answer);
                Signal::Look
            }
            Event::Shutdown(mode) => {
                let by = cx.now + cx.policy.shutdown_timeout;
                cx.shutdown.get_or_insert(Shutdown { mode, by });
                Signal::Look
            }
            Event::Reconfigured(policy) => {
                cx.reconfigure(policy);
                Signal::Look
            }
        }
    }

    fn enter(&mut self, from: State, next: Next) {
        let to = next.workflow.state();
        if let Some(reason) = next.reason {
            let epoch = match next.workflow.held() {
                Some(held) => held.epoch,
                // The floor knows of an acquisition of ours that no read has shown yet.
                None => self.shared.floor.as_ref().map_or(Epoch(0), |floor| floor.epoch),
            };
            let transition = Transition { from, to, reason, epoch };
            self.last_transition = Some((transition.clone(), self.shared.now));
            self.shared.effects.push(Effect::Became(transition));
            self.shared.journal_became(from, to, reason);
            if from == State::PrimaryHealthy {
                self.shared.clear_primary_alarms();
            }
            self.shared.heartbeat_now();
        }
        let overdue = self.shared.shutdown.is_some_and(|shutdown| self.shared.now >= shutdown.by);
        if next.exit || overdue && !next.workflow.may_write(&self.shared) {
            self.exit(Exit::Asked);
        } else if overdue && self.shared.is_armed() {
            // The watchdog ends what could not be ended in time. Without it fencing goes on.
            self.exit(Exit::Overdue);
        } else if self.shared.name_taken() && next.workflow.is_harmless(&self.shared) {
            let member = &self.shared.id.member;
            let text = format!("another agent with the member name {member} is alive");
            self.exit(Exit::NameTaken(text));
        }
        if matches!(next.workflow, Workflow::Replica(_)) && !self.shared.name_contested() {
            let witness = next.workflow.witness_due(&self.shared);
            self.shared.drive_heartbeat(to, witness);
        }
        self.workflow = Some(next.workflow);
    }

    fn exit(&mut self, why: Exit) {
        if !std::mem::replace(&mut self.exited, true) {
            self.shared.effects.push(Effect::Exit(why));
        }
    }

    /// When the next [`Event::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Deadline> {
        let workflow = self.workflow.as_ref().filter(|_| !self.exited)?;
        let cx = &self.shared;
        let heartbeat = matches!(workflow, Workflow::Replica(_))
            .then(|| Deadline::at(cx.next_heartbeat(workflow.witness_due(cx)), "heartbeat due"))
            .filter(|_| cx.heartbeat_may_go());
        let housekeeping = cx.housekeeping_due().map(|at| Deadline::at(at, "store read due"));
        let shutdown = cx
            .shutdown
            .filter(|shutdown| shutdown.by > cx.now)
            .map(|shutdown| Deadline::at(shutdown.by, "shutdown limit"));
        Deadline::earliest([workflow.deadline(cx), heartbeat, housekeeping, shutdown])
    }

    /// Where the member is in its workflow.
    pub fn state(&self) -> State {
        self.workflow.as_ref().map_or(State::ReplicaInitializing, Workflow::state)
    }

    pub(super) fn workflow(&self) -> Option<&Workflow> {
        self.workflow.as_ref()
    }

    /// End of the right to write that this agent counts on, if it holds a lease.
    pub fn writable_until(&self) -> Option<Instant> {
        let held = self.workflow.as_ref().and_then(Workflow::held)?;
        Some(held.until())
    }

    /// The settings it decides by.
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.shared.id
    }

    /// How long the agent may take from [`Event::Shutdown`] to [`Effect::Exit`].
    pub fn shutdown_limit(&self) -> Duration {
        self.shared.policy.shutdown_timeout
    }

    /// Whether PostgreSQL is meant to go on after the agent.
    pub fn leaves_database_running(&self) -> bool {
        self.shared.shutdown.is_some_and(|shutdown| shutdown.mode == ShutdownMode::LeaveRunning)
    }
}
