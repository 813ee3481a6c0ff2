//! Becoming a standby of the current primary, from whatever is in the data directory.

use super::{Failed, Replica, Watching};
use crate::core::agent::{Deadline, Next, Workflow};
use crate::core::event::{Action, ActionOutcome, Alarm, Condition, Process, Reason, State};
use crate::core::ids::Epoch;
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::primary::{self, Primary};
use crate::core::records::Slot;
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::core) struct Initializing {
    since: Instant,
    /// The acquisition by which the first member founds the cluster is on its way.
    founding: bool,
}

/// What the data directory calls for.
enum Plan {
    Wait,
    Act(Action),
    Found,
    Ready,
    Unfit(Alarm),
    WasPrimary,
    Stray,
}

impl Initializing {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, founding: false }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        if self.founding {
            return cx.renewal_due(None).map(|at| Deadline::at(at, "founding retry"));
        }
        None
    }

    pub(super) fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        if self.founding {
            return self.founding(cx, &signal);
        }
        match signal {
            Signal::Acted(_, ActionOutcome::Applied(_)) => {
                cx.clear(Alarm::RejoinFailed);
                cx.heartbeat_now();
                return Next::to(
                    Workflow::Replica(Replica::Watching(Watching::new(cx))),
                    Reason::Following,
                );
            }
            Signal::Acted(_, ActionOutcome::Refused(_) | ActionOutcome::Unknown(_)) => {
                cx.raise(Alarm::RejoinFailed);
                let failed = Failed::new(cx);
                return Next::to(Workflow::Replica(Replica::Failed(failed)), Reason::DatabaseUnfit);
            }
            Signal::Look | Signal::Died | Signal::Lease(_) => {}
        }
        if cx.shutdown.is_some() {
            return super::failed::stop(cx, Workflow::Replica(Replica::Initializing(self)));
        }
        if cx.running.is_some() || cx.name_contested() || !cx.view_is_fresh() {
            return Next::stay(Workflow::Replica(Replica::Initializing(self)));
        }
        let plan = plan(cx, self.since);
        self.follow(plan, cx)
    }

    fn follow(mut self, plan: Plan, cx: &mut Shared) -> Next {
        match plan {
            Plan::Wait => Next::stay(Workflow::Replica(Replica::Initializing(self))),
            Plan::Act(action) => {
                let limit = match action {
                    Action::Clone { .. } | Action::Rejoin { .. } => cx.policy.rejoin_timeout,
                    Action::Bootstrap
                    | Action::Follow { .. }
                    | Action::StartPrimary
                    | Action::Promote
                    | Action::Checkpoint
                    | Action::Fence { .. } => cx.policy.start_timeout,
                };
                cx.act(action, Epoch(0), limit);
                Next::stay(Workflow::Replica(Replica::Initializing(self)))
            }
            Plan::Found => {
                let expected = cx.view.lease_slot().revision();
                cx.acquire(State::PrimaryInitializing, expected);
                self.founding = true;
                Next::stay(Workflow::Replica(Replica::Initializing(self)))
            }
            Plan::Ready => {
                cx.heartbeat_now();
                Next::to(Workflow::Replica(Replica::Watching(Watching::new(cx))), Reason::Following)
            }
            Plan::Unfit(alarm) => {
                cx.raise(alarm);
                let failed = Failed::new(cx);
                Next::to(Workflow::Replica(Replica::Failed(failed)), Reason::DatabaseUnfit)
            }
            Plan::WasPrimary => {
                let initializing = primary::Initializing::at_start(cx);
                Next::to(Primary::Initializing(initializing), Reason::StartedBesidePrimary)
            }
            Plan::Stray => {
                let reason = Reason::StrayPrimary;
                let failed = primary::Failed::enter(cx, reason, None, primary::After::Rejoin);
                Next::to(Primary::Failed(failed), reason)
            }
        }
    }

    fn founding(mut self, cx: &mut Shared, signal: &Signal) -> Next {
        match signal {
            Signal::Lease(LeaseAnswer::Applied {
                purpose: Purpose::Acquire,
                epoch,
                revision,
                sent,
            }) => {
                let held = Held::acquired(*epoch, *revision, *sent, &cx.policy);
                let initializing = primary::Initializing::bootstrapping(cx, held);
                return Next::to(Primary::Initializing(initializing), Reason::ClusterNew);
            }
            Signal::Lease(LeaseAnswer::Refused(_) | LeaseAnswer::Applied { .. }) => {
                self.founding = false
            }
            Signal::Lease(LeaseAnswer::Unknown(_))
            | Signal::Look
            | Signal::Died
            | Signal::Acted(..) => {
                cx.resend_pending();
            }
        }
        Next::stay(Workflow::Replica(Replica::Initializing(self)))
    }
}

fn plan(cx: &Shared, since: Instant) -> Plan {
    let Some(seen) = &cx.database else { return Plan::Wait };
    if matches!((cx.system(), seen.system), (Some(cluster), Some(own)) if cluster != own) {
        return Plan::Unfit(Alarm::ForeignData);
    }
    let upstream = cx.live_holder().filter(|upstream| upstream.member != cx.id.member);
    match seen.process {
        Process::Absent => match upstream {
            Some(upstream) if cx.view.system().is_some() => Plan::Act(Action::Clone { upstream }),
            Some(_) => Plan::Wait,
            None if may_found(cx) => Plan::Found,
            None => Plan::Wait,
        },
        Process::Unusable => Plan::Unfit(Alarm::DatabaseBroken),
        Process::StoppedPrimary => match upstream {
            Some(upstream) => Plan::Act(Action::Rejoin { upstream }),
            None if ours(cx) => Plan::WasPrimary,
            None if cx.holder_gone(since) => Plan::Act(Action::Follow { upstream: None }),
            None => Plan::Wait,
        },
        Process::StoppedStandby => match upstream {
            Some(upstream) => Plan::Act(Action::Follow { upstream: Some(upstream) }),
            None => Plan::Act(Action::Follow { upstream: None }),
        },
        Process::RunningStandby => match upstream {
            Some(upstream) if !cx.follows(&upstream) => {
                Plan::Act(Action::Follow { upstream: Some(upstream) })
            }
            Some(_) | None => Plan::Ready,
        },
        Process::RunningPrimary if ours(cx) => Plan::WasPrimary,
        Process::RunningPrimary | Process::Remnants => Plan::Stray,
        Process::Running if matches!(seen.condition, Condition::Broken(_)) => {
            Plan::Unfit(Alarm::DatabaseBroken)
        }
        Process::Running => Plan::Wait,
    }
}

/// The lease is ours, or nobody has ever held one.
fn ours(cx: &Shared) -> bool {
    match cx.view.lease_slot() {
        Slot::Absent => cx.view.obeyed(),
        Slot::Valid { record, .. } => cx.view.obeyed() && record.holder == cx.id.member,
        Slot::Invalid { .. } => false,
    }
}

/// Nobody ever initialised this cluster, and nobody is at it: the first member may.
fn may_found(cx: &Shared) -> bool {
    let never = cx.view.obeyed() && cx.system().is_none() && cx.view.cluster().is_none();
    if !never || !cx.policy.may_bootstrap || cx.watchdog_missing() || cx.pending.is_some() {
        return false;
    }
    match cx.view.lease_slot() {
        Slot::Absent => matches!(cx.view.cluster_slot(), Slot::Absent),
        Slot::Valid { record, .. } => {
            let patience = cx.policy.failover_timeout(record.lease_duration);
            let silent =
                cx.view.window_start().is_some_and(|since| cx.now.since(since) >= patience);
            record.database.system.is_none()
                && (record.holder == cx.id.member || record.released.is_some() || silent)
        }
        Slot::Invalid { .. } => false,
    }
}
