//! Start-up reconciliation, and every way back to being a writable primary: the lease first, by an
//! applied write of ours; then the database.

use serde::{Deserialize, Serialize};

use super::{Failed, Fenced, Healthy, Primary, Standing, Yielding, wake};
use crate::core::agent::{Deadline, Next};
use crate::core::event::{
    Action, ActionOutcome, Alarm, FenceProof, Process, Reason, ShutdownMode, State, WatchdogStatus,
};
use crate::core::ids::{Epoch, SystemId};
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::primary::fenced::After;
use crate::core::records::Slot;
use crate::core::replica;
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::core) struct Initializing {
    step: Step,
    /// Since when a database that may be writable has gone on without a proven lease of ours. `None`
    /// when the database is proven down.
    unproven: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// Reading lease and database.
    Reading,
    /// It runs on another cluster's data, this one: not ours to open, and not ours to end.
    Foreign(SystemId),
    /// Our acquisition is on its way.
    Acquiring,
    /// The first member initialises its data.
    Bootstrapping(Held),
    /// The lease is ours; the database is being opened, no later than at the time given. Until the
    /// action was started a required watchdog is awaited.
    Starting(Held, Instant, Opening),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Opening {
    Awaited,
    Begun,
}

/// What the lease says to a member that was the primary.
enum Claim {
    /// It is ours, or nobody's and we may create it.
    Ours,
    /// It is somebody else's.
    Others,
    /// It cannot be told yet.
    Unclear,
}

impl Initializing {
    /// The agent started beside a database that is, or was, a primary.
    pub(in crate::core) fn at_start(cx: &Shared) -> Self {
        Self { step: Step::Reading, unproven: Some(cx.now) }
    }

    /// The database is proven down and the lease may still be ours: take it again, then open.
    pub(in crate::core) fn reopening() -> Self {
        Self { step: Step::Reading, unproven: None }
    }

    /// The cluster is new and its lease was just applied: initialise the data.
    pub(in crate::core) fn bootstrapping(cx: &mut Shared, held: Held) -> Self {
        cx.act(Action::Bootstrap, held.epoch, cx.policy.start_timeout);
        Self { step: Step::Bootstrapping(held), unproven: None }
    }

    pub(super) fn held(&self) -> Option<&Held> {
        match &self.step {
            Step::Reading | Step::Foreign(_) | Step::Acquiring => None,
            Step::Bootstrapping(held) | Step::Starting(held, ..) => Some(held),
        }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        if matches!(self.step, Step::Foreign(_)) {
            // The next look at the database tells.
            return cx.shutdown.map(|_| Deadline::at(cx.now, "nothing to stop"));
        }
        let grace =
            Self::grace(self.unproven, cx).map(|at| Deadline::at(at, "start-up grace over"));
        let step = match &self.step {
            Step::Reading if Self::can_go_on(cx) => {
                Some(Deadline::at(cx.now, "lease can be claimed"))
            }
            Step::Reading => cx.bound_until().map(|at| wake(at, "promise over")),
            Step::Foreign(_) => None,
            Step::Acquiring => cx.renewal_due(None).map(|at| Deadline::at(at, "acquisition retry")),
            Step::Bootstrapping(held) => held.deadline(cx),
            Step::Starting(held, limit, opening) => {
                let guard = cx.guard_wait_over().filter(|_| *opening == Opening::Awaited);
                let guard = guard.map(|at| wake(at, "watchdog waited for"));
                Deadline::earliest([held.deadline(cx), Some(wake(*limit, "start limit")), guard])
            }
        };
        Deadline::earliest([grace, step])
    }

    pub(super) fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        match self.step {
            Step::Reading => Self::reading(self.unproven, cx),
            Step::Foreign(system) => Self::foreign(system, cx),
            Step::Acquiring => Self::acquiring(self.unproven, cx, &signal),
            Step::Bootstrapping(held) => Self::initialising(held, cx, signal),
            Step::Starting(held, limit, opening) => {
                Self::starting(held, limit, opening, cx, &signal)
            }
        }
    }

    /// Until when a database that may be writable may go on without a proven lease: as long as the
    /// watchdog lets it; without one, as long as a renewal would be tried. `None` when it is down.
    fn grace(unproven: Option<Instant>, cx: &Shared) -> Option<Instant> {
        let since = unproven?;
        if cx.database.as_ref().is_some_and(|seen| !seen.process.is_running()) {
            return None;
        }
        let without = since + cx.policy.heartbeat_timeout * cx.policy.failure_threshold;
        Some(match (cx.watchdog, cx.last_deadline) {
            (WatchdogStatus::Armed(deadline), _) => deadline,
            // One that is gone, or is there anew, had known when the lease ends.
            (WatchdogStatus::Down | WatchdogStatus::Idle, Some(deadline)) => without.min(deadline),
            (WatchdogStatus::Down | WatchdogStatus::Idle, None) => without,
        })
    }

    /// [`Self::reading`] would do something now.
    fn can_go_on(cx: &Shared) -> bool {
        let claim = match Self::claim(cx) {
            Claim::Ours => {
                let awaits_guard = cx.guards_too_late() && cx.asked_to_guard_earlier();
                !cx.watchdog_missing() && !cx.name_contested() && !awaits_guard
            }
            Claim::Others => true,
            Claim::Unclear => false,
        };
        claim || cx.shutdown.is_some() || cx.pending.is_some() || Self::is_no_primary(cx)
    }

    /// A standby, or no database at all: what is to become of it a replica's start decides.
    pub(super) fn is_no_primary(cx: &Shared) -> bool {
        cx.database.as_ref().is_some_and(|seen| match seen.process {
            Process::StoppedStandby | Process::RunningStandby | Process::Absent => true,
            Process::Unusable
            | Process::StoppedPrimary
            | Process::Running
            | Process::RunningPrimary
            | Process::Remnants => false,
        })
    }

    fn reading(unproven: Option<Instant>, cx: &mut Shared) -> Next {
        let stay = Self { step: Step::Reading, unproven };
        if let Some(system) = foreign_system(cx)
            && cx.pending.is_none()
        {
            return Self::foreign(system, cx);
        }
        if let Some(next) = Self::out_of_grace(unproven, cx) {
            return next;
        }
        if let Some(shutdown) = cx.shutdown {
            let running = Self::grace(unproven, cx).is_some();
            let unguarded = running && !cx.is_armed();
            if unguarded || running && shutdown.mode == ShutdownMode::HandOver {
                let failed = Failed::enter(cx, Reason::Shutdown, None, After::Release);
                return Next::to(Primary::Failed(failed), Reason::Shutdown);
            }
            return Next::exit(Primary::Initializing(stay));
        }
        if Self::is_no_primary(cx) {
            // Opening a standby as it is would write a second history on the timeline it followed.
            // Without data the cluster may still have to be founded: initdb failed.
            return Next::to(replica::start(cx), Reason::DatabaseNotPrimary);
        }
        if cx.pending.is_some() {
            cx.resend_pending();
            return Next::stay(Primary::Initializing(Self { step: Step::Acquiring, unproven }));
        }
        match Self::claim(cx) {
            Claim::Others => Self::deposed(unproven, cx),
            Claim::Ours if !cx.watchdog_missing() && !cx.name_contested() => {
                if Self::grace(unproven, cx).is_some() && cx.guards_too_late() {
                    // A former agent's longer lease: the watchdog has to know the shorter one before
                    // candidates do.
                    cx.guard_earlier();
                    return Next::stay(Primary::Initializing(stay));
                }
                let expected = cx.newest_lease_revision();
                cx.acquire(State::PrimaryInitializing, expected);
                Next::stay(Primary::Initializing(Self { step: Step::Acquiring, unproven }))
            }
            Claim::Ours | Claim::Unclear => Next::stay(Primary::Initializing(stay)),
        }
    }

    /// A running database with another system identifier than the cluster's is no second primary of
    /// ours. Whoever works with it is not to suffer from a wrong setting here.
    fn foreign(system: SystemId, cx: &mut Shared) -> Next {
        let stay = Self { step: Step::Foreign(system), unproven: Some(cx.now) };
        if cx.shutdown.is_some() {
            return Next::exit(Primary::Initializing(stay));
        }
        let Some(seen) = cx.database.clone() else {
            return Next::stay(Primary::Initializing(stay));
        };
        if !seen.process.is_running() {
            return Next::to(replica::start(cx), Reason::DatabaseNotPrimary);
        }
        let another = seen.system.is_some_and(|own| own != system);
        if another || clusters(cx).any(|cluster| cluster == system) {
            cx.clear(Alarm::ForeignData);
            return Next::stay(Primary::Initializing(Self { step: Step::Reading, ..stay }));
        }
        cx.raise(Alarm::ForeignData);
        Next::stay(Primary::Initializing(stay))
    }

    fn claim(cx: &Shared) -> Claim {
        match Self::claim_shown(cx) {
            Claim::Ours if cx.bound_until().is_some() => Claim::Unclear,
            claim @ (Claim::Ours | Claim::Others | Claim::Unclear) => claim,
        }
    }

    fn claim_shown(cx: &Shared) -> Claim {
        if !cx.view_is_fresh() || !cx.view.obeyed() || cx.database.is_none() {
            return Claim::Unclear;
        }
        let foreign = match (cx.system(), cx.database.as_ref().and_then(|seen| seen.system)) {
            (Some(cluster), Some(own)) => cluster != own,
            (Some(_) | None, _) => false,
        };
        match cx.view.lease_slot() {
            Slot::Valid { record, .. } if cx.is_ours(record) && !foreign => Claim::Ours,
            Slot::Valid { .. } => Claim::Others,
            // A running cluster is adopted; a store that lost its lease is not obeyed (above).
            Slot::Absent if cx.view.system().is_none() && !foreign => Claim::Ours,
            Slot::Absent => Claim::Unclear,
            Slot::Invalid { .. } if cx.may_repair_lease() => Claim::Ours,
            Slot::Invalid { .. } => Claim::Unclear,
        }
    }

    /// The database runs (or may run) as a primary and the time for that is over.
    fn out_of_grace(unproven: Option<Instant>, cx: &mut Shared) -> Option<Next> {
        if Self::grace(unproven, cx).is_none_or(|until| cx.now < until) {
            return None;
        }
        let failed = Failed::enter(cx, Reason::LeaseExpiring, None, After::Reopen);
        Some(Next::to(Primary::Failed(failed), Reason::LeaseExpiring))
    }

    fn deposed(unproven: Option<Instant>, cx: &mut Shared) -> Next {
        if Self::grace(unproven, cx).is_none() {
            cx.unguard();
            return Next::to(Primary::Yielding(Yielding::deposed(cx)), Reason::Deposed);
        }
        Failed::stray(cx, None, After::Rejoin)
    }

    fn acquiring(unproven: Option<Instant>, cx: &mut Shared, signal: &Signal) -> Next {
        let reading = Self { step: Step::Reading, unproven };
        match signal {
            Signal::Lease(LeaseAnswer::Applied(landed)) if landed.purpose == Purpose::Acquire => {
                match cx.won(landed) {
                    Some(held) => Self::open(cx, held),
                    None => Next::stay(Primary::Initializing(reading)),
                }
            }
            Signal::Lease(LeaseAnswer::Applied(_)) => {
                // A renewal or release left from before the fence landed: look again.
                cx.outdate();
                Next::stay(Primary::Initializing(reading))
            }
            Signal::Lease(LeaseAnswer::Refused(_)) => Next::stay(Primary::Initializing(reading)),
            Signal::Lease(LeaseAnswer::Unknown(_))
            | Signal::Look
            | Signal::Died
            | Signal::Hook(_)
            | Signal::Acted(..) => {
                if let Some(next) = Self::out_of_grace(unproven, cx) {
                    return next;
                }
                cx.resend_pending();
                let step = if cx.pending.is_some() { Step::Acquiring } else { Step::Reading };
                Next::stay(Primary::Initializing(Self { step, unproven }))
            }
        }
    }

    /// The lease is ours: let a running primary go on, start a stopped one.
    fn open(cx: &mut Shared, held: Held) -> Next {
        cx.guard(&held);
        if cx.database.as_ref().is_some_and(|seen| seen.process == Process::RunningPrimary) {
            return Next::to(Primary::Healthy(Healthy::new(cx, held)), Reason::LeaseApplied);
        }
        Next::stay(Primary::Initializing(Self::start(cx, held)))
    }

    fn start(cx: &mut Shared, held: Held) -> Self {
        let limit = cx.now + cx.policy.start_timeout;
        let opening = Self::begin(cx, &held, limit, Opening::Awaited);
        Self { step: Step::Starting(held, limit, opening), unproven: None }
    }

    /// Starts the database once nothing else runs on it and a required watchdog guards it.
    fn begin(cx: &mut Shared, held: &Held, limit: Instant, opening: Opening) -> Opening {
        if opening == Opening::Awaited && cx.is_guarded() && !cx.busy() {
            if let Some(requirement) = cx.missing_requirement(&cx.synchronous_set().clone()) {
                if cx.may_require() {
                    cx.require(requirement, held.epoch);
                }
                return opening;
            }
            cx.act(Action::StartPrimary, held.epoch, limit.since(cx.now));
            return Opening::Begun;
        }
        opening
    }

    fn initialising(mut held: Held, cx: &mut Shared, signal: Signal) -> Next {
        if let Standing::Lost(reason) = held.standing(cx, &signal) {
            cx.cancel();
            cx.epoch_ended(held.epoch);
            return Next::to(replica::start(cx), reason);
        }
        match signal {
            Signal::Acted(Action::Bootstrap, ActionOutcome::Applied(_)) => {
                cx.guard(&held);
                Next::stay(Primary::Initializing(Self::start(cx, held)))
            }
            Signal::Acted(_, ActionOutcome::Refused(_) | ActionOutcome::Unknown(_)) => {
                cx.raise(Alarm::DatabaseBroken);
                let proof = nothing_there();
                Next::to(
                    Primary::Fenced(Fenced::new(Some(held), proof, After::StepBack, cx.now)),
                    Reason::StartFailed,
                )
            }
            Signal::Acted(..)
            | Signal::Look
            | Signal::Died
            | Signal::Lease(_)
            | Signal::Hook(_) => {
                cx.drive_renewal(&mut held, State::PrimaryInitializing);
                Next::stay(Primary::Initializing(Self {
                    step: Step::Bootstrapping(held),
                    unproven: None,
                }))
            }
        }
    }

    fn starting(
        mut held: Held,
        limit: Instant,
        opening: Opening,
        cx: &mut Shared,
        signal: &Signal,
    ) -> Next {
        if let Standing::Lost(reason) = held.standing(cx, signal) {
            let failed = Failed::enter(cx, reason, Some(held), After::for_reason(reason));
            return Next::to(Primary::Failed(failed), reason);
        }
        let failed = match signal {
            // Tried again until the limit.
            Signal::Acted(Action::Require { .. }, _) => cx.now >= limit,
            Signal::Acted(_, ActionOutcome::Applied(_)) => {
                cx.drive_renewal(&mut held, State::PrimaryInitializing);
                return Next::to(Primary::Healthy(Healthy::new(cx, held)), Reason::LeaseKept);
            }
            Signal::Acted(_, ActionOutcome::Refused(_) | ActionOutcome::Unknown(_)) => true,
            Signal::Look | Signal::Died | Signal::Lease(_) | Signal::Hook(_) => cx.now >= limit,
        };
        if failed || cx.shutdown.is_some() {
            if failed {
                // Cleared once it is seen to run, here or as a standby.
                cx.raise(Alarm::DatabaseBroken);
            }
            let reason = if failed { Reason::StartFailed } else { Reason::Shutdown };
            let after = if failed { After::StepBack } else { After::Release };
            let failed = Failed::enter(cx, reason, Some(held), after);
            return Next::to(Primary::Failed(failed), reason);
        }
        cx.drive_renewal(&mut held, State::PrimaryInitializing);
        let opening = Self::begin(cx, &held, limit, opening);
        let step = Step::Starting(held, limit, opening);
        Next::stay(Primary::Initializing(Self { step, unproven: None }))
    }
}

/// System identifiers of our cluster: what the store says counts while it is fresh and obeyed, what
/// this member knew always.
fn clusters(cx: &Shared) -> impl Iterator<Item = SystemId> {
    let shown = cx.view.system().filter(|_| cx.view_is_fresh() && cx.view.obeyed());
    let known = cx.floor.as_ref().and_then(|floor| floor.system);
    shown.into_iter().chain(known)
}

/// The system identifier of a running database that is another cluster's.
fn foreign_system(cx: &Shared) -> Option<SystemId> {
    let seen = cx.database.as_ref().filter(|seen| seen.process.is_running())?;
    let own = seen.system?;
    let mut clusters = clusters(cx).peekable();
    (clusters.peek().is_some() && clusters.all(|cluster| cluster != own)).then_some(own)
}

fn nothing_there() -> FenceProof {
    FenceProof { clean: false, lsn: Default::default(), timeline: Default::default(), rung: "down" }
}

/// The epoch in which an agent without a lease acts: none of its own.
pub(super) const NO_EPOCH: Epoch = Epoch(0);
