//! Becoming a standby of the current primary, from whatever is in the data directory.

use serde::{Deserialize, Serialize};

use super::{Failed, Replica, Watching};
use crate::core::agent::{Deadline, Next, Workflow};
use crate::core::event::{
    Action, ActionOutcome, Alarm, Condition, Observation, Process, Reason, State,
};
use crate::core::ids::Epoch;
use crate::core::lease::{LeaseAnswer, Purpose};
use crate::core::primary::{self, Primary};
use crate::core::records::Slot;
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        match self.plan_now(cx) {
            Plan::Wait => None,
            Plan::Act(_)
            | Plan::Found
            | Plan::Ready
            | Plan::Unfit(_)
            | Plan::WasPrimary
            | Plan::Stray => Some(Deadline::at(cx.now, "database can be started")),
        }
    }

    pub(super) fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        if cx.shutdown.is_some() && !self.founding {
            let stay = Workflow::Replica(Replica::Initializing(self));
            return super::failed::stop(cx, &signal, stay);
        }
        if self.founding {
            return self.founding(cx, &signal);
        }
        match signal {
            Signal::Acted(_, ActionOutcome::Applied(_)) => {
                cx.follow_failed = false;
                cx.clear(Alarm::RejoinFailed);
                cx.clear(Alarm::DatabaseBroken);
                cx.heartbeat_now();
                return Next::to(
                    Workflow::Replica(Replica::Watching(Watching::new(cx))),
                    Reason::Following,
                );
            }
            Signal::Acted(action, ActionOutcome::Refused(_) | ActionOutcome::Unknown(_)) => {
                cx.follow_failed = matches!(action, Action::Follow { .. });
                cx.raise(Alarm::RejoinFailed);
                let failed = Failed::new(cx);
                return Next::to(Workflow::Replica(Replica::Failed(failed)), Reason::DatabaseUnfit);
            }
            Signal::Look | Signal::Died | Signal::Lease(_) | Signal::Hook(_) => {}
        }
        let plan = self.plan_now(cx);
        self.follow(plan, cx)
    }

    /// What is to be done. A database that may be writable does not wait for the store: for how long
    /// it may go on is decided where primaries start.
    fn plan_now(&self, cx: &Shared) -> Plan {
        if cx.busy() {
            return Plan::Wait;
        }
        if cx
            .database
            .as_ref()
            .is_some_and(|seen| may_be_writable(seen) || becomes_primary(cx, seen))
        {
            return Plan::WasPrimary;
        }
        if cx.name_contested() || !cx.view_is_fresh() {
            return Plan::Wait;
        }
        plan(cx, self.since)
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
                    | Action::PromoteWith { .. }
                    | Action::Demote { .. }
                    | Action::Require { .. }
                    | Action::Checkpoint
                    | Action::Fence { .. } => cx.policy.start_timeout,
                };
                cx.act(action, Epoch(0), limit);
                Next::stay(Workflow::Replica(Replica::Initializing(self)))
            }
            Plan::Found => {
                cx.forget_pending();
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
            Plan::Stray => primary::Failed::stray(cx, None, primary::After::Rejoin),
        }
    }

    fn founding(mut self, cx: &mut Shared, signal: &Signal) -> Next {
        match signal {
            Signal::Lease(LeaseAnswer::Applied(landed)) if landed.purpose == Purpose::Acquire => {
                if let Some(held) = cx.won(landed) {
                    let initializing = primary::Initializing::bootstrapping(cx, held);
                    return Next::to(Primary::Initializing(initializing), Reason::ClusterNew);
                }
                self.founding = false;
            }
            Signal::Lease(LeaseAnswer::Refused(_) | LeaseAnswer::Applied(_)) => {
                self.founding = false
            }
            Signal::Lease(LeaseAnswer::Unknown(_))
            | Signal::Look
            | Signal::Died
            | Signal::Hook(_)
            | Signal::Acted(..) => {
                cx.resend_pending();
            }
        }
        Next::stay(Workflow::Replica(Replica::Initializing(self)))
    }
}

/// The instance runs, and nothing says that it is a standby or not up yet.
fn may_be_writable(seen: &Observation) -> bool {
    match seen.process {
        Process::RunningPrimary => true,
        Process::Running => !matches!(seen.condition, Condition::Starting | Condition::Broken(_)),
        Process::Absent
        | Process::Unusable
        | Process::StoppedStandby
        | Process::StoppedPrimary
        | Process::RunningStandby
        | Process::Remnants => false,
    }
}

/// It starts, and a watchdog was found armed: that guards what is to be a primary.
fn becomes_primary(cx: &Shared, seen: &Observation) -> bool {
    let starts = seen.process == Process::Running && seen.condition == Condition::Starting;
    starts && cx.last_deadline.is_some()
}

fn plan(cx: &Shared, since: Instant) -> Plan {
    let Some(seen) = &cx.database else { return Plan::Wait };
    if matches!((cx.system(), seen.system), (Some(cluster), Some(own)) if cluster != own) {
        return Plan::Unfit(Alarm::ForeignData);
    }
    let upstream = cx.upstream();
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
            // PostgreSQL does not start what was replayed further than the upstream's history has it.
            Some(upstream) if cx.follow_failed && cx.upstream_left(seen.timeline) => {
                Plan::Act(Action::Rejoin { upstream })
            }
            Some(upstream) => Plan::Act(Action::Follow { upstream: Some(upstream) }),
            None => Plan::Act(Action::Follow { upstream: None }),
        },
        Process::RunningStandby => match upstream {
            Some(upstream) if !cx.follows(&upstream) => {
                Plan::Act(Action::Follow { upstream: Some(upstream) })
            }
            Some(_) | None => Plan::Ready,
        },
        Process::RunningPrimary => Plan::WasPrimary,
        Process::Remnants => Plan::Stray,
        Process::Running if matches!(seen.condition, Condition::Broken(_)) => {
            Plan::Unfit(Alarm::DatabaseBroken)
        }
        Process::Running => match upstream {
            Some(upstream) if never_comes_up(cx, seen, since) => {
                Plan::Act(Action::Rejoin { upstream })
            }
            Some(_) | None => Plan::Wait,
        },
    }
}

/// It has been starting for too long: what it needs to be consistent may be in nobody's history. A
/// rejoin leaves alone what gets anywhere.
fn never_comes_up(cx: &Shared, seen: &Observation, since: Instant) -> bool {
    let starting = seen.condition == Condition::Starting;
    starting && (cx.follow_failed || cx.now >= since + cx.policy.start_timeout)
}

/// The lease is ours (also when what is left of it can only be mended by us), or nobody has ever held
/// one.
fn ours(cx: &Shared) -> bool {
    cx.view.obeyed()
        && match cx.view.lease_slot() {
            Slot::Absent => true,
            Slot::Valid { record, .. } => cx.is_ours(record),
            Slot::Invalid { .. } => cx.may_repair_lease(),
        }
}

/// Nobody ever initialised this cluster, and nobody is at it: the first member may.
fn may_found(cx: &Shared) -> bool {
    let never = cx.view.obeyed() && cx.system().is_none() && cx.view.cluster().is_none();
    let data_elsewhere = cx.view.heartbeats().any(|(_, other)| other.database.system.is_some());
    let free = cx.shutdown.is_none() && cx.bound_until().is_none();
    let may = cx.policy.may_bootstrap && !cx.watchdog_missing() && free;
    if !never || !may || data_elsewhere {
        return false;
    }
    match cx.view.lease_slot() {
        Slot::Absent => matches!(cx.view.cluster_slot(), Slot::Absent),
        Slot::Valid { record, .. } => {
            let patience = cx.policy.failover_timeout(record.lease_duration);
            let silent =
                cx.view.window_start().is_some_and(|since| cx.now.since(since) >= patience);
            record.database.system.is_none()
                && (cx.is_ours(record) || record.released.is_some() || silent)
        }
        Slot::Invalid { .. } => false,
    }
}
