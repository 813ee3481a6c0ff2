//! Start-up reconciliation, and every way back to being a writable primary: the lease first, by an
//! applied write of ours; then the database.

use super::{Failed, Fenced, Healthy, Primary, Standing, Yielding, wake};
use crate::core::agent::{Deadline, Next};
use crate::core::event::{
    Action, ActionOutcome, FenceProof, Process, Reason, State, WatchdogStatus,
};
use crate::core::ids::Epoch;
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::primary::fenced::After;
use crate::core::records::Slot;
use crate::core::replica;
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::core) struct Initializing {
    step: Step,
    /// Until when a database that is already writable may go on without a proven lease of ours.
    /// `None` when the database is proven down.
    grace: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Reading lease and database.
    Reading,
    /// Our acquisition is on its way.
    Acquiring,
    /// The first member initialises its data.
    Bootstrapping(Held),
    /// The lease is ours; the database is being opened.
    Starting(Held, Instant),
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
        let grace = match cx.watchdog {
            WatchdogStatus::Armed(deadline) => deadline.max(cx.now),
            WatchdogStatus::Down | WatchdogStatus::Idle => {
                cx.now + cx.policy.heartbeat_timeout * cx.policy.failure_threshold
            }
        };
        Self { step: Step::Reading, grace: Some(grace) }
    }

    /// The database is proven down and the lease may still be ours: take it again, then open.
    pub(in crate::core) fn reopening() -> Self {
        Self { step: Step::Reading, grace: None }
    }

    /// The cluster is new and its lease was just applied: initialise the data.
    pub(in crate::core) fn bootstrapping(cx: &mut Shared, held: Held) -> Self {
        cx.act(Action::Bootstrap, held.epoch, cx.policy.start_timeout);
        Self { step: Step::Bootstrapping(held), grace: None }
    }

    pub(super) fn held(&self) -> Option<&Held> {
        match &self.step {
            Step::Reading | Step::Acquiring => None,
            Step::Bootstrapping(held) | Step::Starting(held, _) => Some(held),
        }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        let grace = self.grace.map(|at| Deadline::at(at, "start-up grace over"));
        let step = match &self.step {
            Step::Reading => None,
            Step::Acquiring => cx.renewal_due(None).map(|at| Deadline::at(at, "acquisition retry")),
            Step::Bootstrapping(held) => held.deadline(cx),
            Step::Starting(held, limit) => {
                Deadline::earliest([held.deadline(cx), wake(*limit, "start limit")])
            }
        };
        Deadline::earliest([grace, step])
    }

    pub(super) fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        match self.step {
            Step::Reading => Self::reading(self.grace, cx),
            Step::Acquiring => Self::acquiring(self.grace, cx, &signal),
            Step::Bootstrapping(held) => Self::initialising(held, cx, signal),
            Step::Starting(held, limit) => Self::starting(held, limit, cx, &signal),
        }
    }

    fn reading(grace: Option<Instant>, cx: &mut Shared) -> Next {
        let stay = Self { step: Step::Reading, grace };
        if cx.name_contested() {
            return Next::stay(Primary::Initializing(stay));
        }
        if let Some(next) = Self::out_of_grace(grace, cx) {
            return next;
        }
        if cx.shutdown.is_some() && grace.is_none() {
            return Next::exit(Primary::Initializing(stay));
        }
        if cx.pending.is_some() {
            cx.resend_pending();
            return Next::stay(Primary::Initializing(Self { step: Step::Acquiring, grace }));
        }
        match Self::claim(cx) {
            Claim::Unclear => Next::stay(Primary::Initializing(stay)),
            Claim::Others => Self::deposed(grace, cx),
            Claim::Ours if cx.watchdog_missing() => Next::stay(Primary::Initializing(stay)),
            Claim::Ours => {
                let expected = cx.view.lease_slot().revision();
                cx.acquire(State::PrimaryInitializing, expected);
                Next::stay(Primary::Initializing(Self { step: Step::Acquiring, grace }))
            }
        }
    }

    fn claim(cx: &Shared) -> Claim {
        if !cx.view_is_fresh() || !cx.view.obeyed() || cx.database.is_none() {
            return Claim::Unclear;
        }
        let foreign = match (cx.system(), cx.database.as_ref().and_then(|seen| seen.system)) {
            (Some(cluster), Some(own)) => cluster != own,
            (Some(_) | None, _) => false,
        };
        match cx.view.lease_slot() {
            Slot::Valid { record, .. } if record.holder == cx.id.member && !foreign => Claim::Ours,
            Slot::Valid { .. } => Claim::Others,
            // A running cluster is adopted; a store that lost its lease is not obeyed (above).
            Slot::Absent if cx.view.system().is_none() && !foreign => Claim::Ours,
            Slot::Absent => Claim::Unclear,
            Slot::Invalid { .. } if cx.may_repair_lease() => Claim::Ours,
            Slot::Invalid { .. } => Claim::Unclear,
        }
    }

    /// The database runs (or may run) as a primary and the time for that is over.
    fn out_of_grace(grace: Option<Instant>, cx: &mut Shared) -> Option<Next> {
        let over = grace.is_some_and(|until| cx.now >= until);
        let stopped = cx.database.as_ref().is_some_and(|seen| !seen.process.is_running());
        if !over || stopped {
            return None;
        }
        let failed = Failed::enter(cx, Reason::LeaseExpiring, None, After::Reopen);
        Some(Next::to(Primary::Failed(failed), Reason::LeaseExpiring))
    }

    fn deposed(grace: Option<Instant>, cx: &mut Shared) -> Next {
        let down =
            grace.is_none() || cx.database.as_ref().is_some_and(|seen| !seen.process.is_running());
        if down {
            cx.unguard();
            return Next::to(Primary::Yielding(Yielding::deposed(cx)), Reason::Deposed);
        }
        let failed = Failed::enter(cx, Reason::StrayPrimary, None, After::Rejoin);
        Next::to(Primary::Failed(failed), Reason::StrayPrimary)
    }

    fn acquiring(grace: Option<Instant>, cx: &mut Shared, signal: &Signal) -> Next {
        match signal {
            Signal::Lease(LeaseAnswer::Applied { purpose: Purpose::Release, .. }) => {
                // An earlier release of ours landed: look again.
                Next::stay(Primary::Initializing(Self { step: Step::Reading, grace }))
            }
            Signal::Lease(LeaseAnswer::Applied { purpose: Purpose::Renew, .. }) => {
                // A renewal left from before the fence landed: the lease is ours as of then.
                Next::stay(Primary::Initializing(Self { step: Step::Reading, grace }))
            }
            Signal::Lease(LeaseAnswer::Applied { epoch, revision, sent, .. }) => {
                let held = Held::acquired(*epoch, *revision, *sent, &cx.policy);
                Self::open(cx, held)
            }
            Signal::Lease(LeaseAnswer::Refused(_)) => {
                Next::stay(Primary::Initializing(Self { step: Step::Reading, grace }))
            }
            Signal::Lease(LeaseAnswer::Unknown(_))
            | Signal::Look
            | Signal::Died
            | Signal::Acted(..) => {
                if let Some(next) = Self::out_of_grace(grace, cx) {
                    return next;
                }
                cx.resend_pending();
                Next::stay(Primary::Initializing(Self { step: Step::Acquiring, grace }))
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
        let limit = cx.policy.start_timeout;
        cx.act(Action::StartPrimary, held.epoch, limit);
        Self { step: Step::Starting(held, cx.now + limit), grace: None }
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
                let proof = nothing_there();
                Next::to(
                    Primary::Fenced(Fenced::new(Some(held), proof, After::StepBack, cx.now)),
                    Reason::StartFailed,
                )
            }
            Signal::Acted(..) | Signal::Look | Signal::Died | Signal::Lease(_) => {
                cx.drive_renewal(&held, State::PrimaryInitializing);
                Next::stay(Primary::Initializing(Self {
                    step: Step::Bootstrapping(held),
                    grace: None,
                }))
            }
        }
    }

    fn starting(mut held: Held, limit: Instant, cx: &mut Shared, signal: &Signal) -> Next {
        if let Standing::Lost(reason) = held.standing(cx, signal) {
            let failed = Failed::enter(cx, reason, Some(held), After::for_reason(reason));
            return Next::to(Primary::Failed(failed), reason);
        }
        let failed = match signal {
            Signal::Acted(_, ActionOutcome::Applied(_)) => {
                cx.drive_renewal(&held, State::PrimaryInitializing);
                return Next::to(Primary::Healthy(Healthy::new(cx, held)), Reason::LeaseKept);
            }
            Signal::Acted(_, ActionOutcome::Refused(_) | ActionOutcome::Unknown(_)) => true,
            Signal::Look | Signal::Died | Signal::Lease(_) => cx.now >= limit,
        };
        if failed || cx.shutdown.is_some() {
            let reason = if failed { Reason::StartFailed } else { Reason::Shutdown };
            let after = if failed { After::StepBack } else { After::Release };
            let failed = Failed::enter(cx, reason, Some(held), after);
            return Next::to(Primary::Failed(failed), reason);
        }
        cx.drive_renewal(&held, State::PrimaryInitializing);
        Next::stay(Primary::Initializing(Self { step: Step::Starting(held, limit), grace: None }))
    }
}

fn nothing_there() -> FenceProof {
    FenceProof { clean: false, lsn: Default::default(), timeline: Default::default(), rung: "down" }
}

/// The epoch in which an agent without a lease acts: none of its own.
pub(super) const NO_EPOCH: Epoch = Epoch(0);
