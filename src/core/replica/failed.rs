//! Not a candidate; keeps trying to recover.

use serde::{Deserialize, Serialize};

use super::{Initializing, Replica};
use crate::core::agent::{Deadline, Next, Workflow};
use crate::core::event::{
    Action, ActionOutcome, Alarm, Condition, Ladder, Process, Reason, ShutdownMode,
};
use crate::core::ids::Epoch;
use crate::core::primary;
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::core) struct Failed {
    retry: Instant,
}

impl Failed {
    pub(super) fn new(cx: &mut Shared) -> Self {
        cx.heartbeat_now();
        Self { retry: cx.now + cx.policy.heartbeat_interval * 2 }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        let at = if failed_to_start(cx) { self.start_again(cx) } else { self.retry };
        (at > cx.now).then(|| Deadline::at(at, "recovery retry"))
    }

    /// When a database that failed to start is tried again. Only trying shows whether what was in
    /// its way (a taken port, a setting) is gone.
    fn start_again(&self, cx: &Shared) -> Instant {
        self.retry + cx.policy.cool_down
    }

    pub(super) fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        if cx.shutdown.is_some() {
            return stop(cx, &signal, Workflow::Replica(Replica::Failed(self)));
        }
        if let Some(next) = primary::stray(cx, None, primary::After::Rejoin) {
            return next;
        }
        if cx.busy()
            || cx.now < self.retry
            || cx.heartbeats_fail()
            || !cx.view_is_fresh()
            || !usable(cx, self.start_again(cx))
        {
            return Next::stay(Workflow::Replica(Replica::Failed(self)));
        }
        let initializing = Initializing::new(cx.now);
        Next::to(Workflow::Replica(Replica::Initializing(initializing)), Reason::Recovered)
    }
}

/// The database is stopped, and its last start failed.
fn failed_to_start(cx: &Shared) -> bool {
    cx.database.as_ref().is_some_and(|seen| {
        matches!(seen.process, Process::StoppedStandby | Process::StoppedPrimary)
            && matches!(seen.condition, Condition::Broken(_))
    })
}

/// The database is not in a condition that only a person can mend.
fn usable(cx: &mut Shared, start_again: Instant) -> bool {
    let Some(seen) = cx.database.clone() else { return false };
    let broken =
        matches!(seen.condition, Condition::Broken(_)) || seen.process == Process::Unusable;
    let foreign =
        matches!((cx.system(), seen.system), (Some(cluster), Some(own)) if cluster != own);
    cx.set_alarm(Alarm::DatabaseBroken, broken);
    cx.set_alarm(Alarm::ForeignData, foreign);
    // It could not be told whom to follow; it goes on as the standby that it is.
    let closed = seen.process == Process::RunningStandby
        && matches!(seen.condition, Condition::Denied(_) | Condition::ConnectionsExhausted);
    !closed && !foreign && (!broken || failed_to_start(cx) && cx.now >= start_again)
}

/// A replica's end: its database is stopped, or left running, as the shutdown says.
pub(super) fn stop(cx: &mut Shared, signal: &Signal, stay: Workflow) -> Next {
    let fenced = matches!(signal, Signal::Acted(Action::Fence { .. }, ActionOutcome::Applied(_)));
    let down = cx.database.as_ref().is_some_and(|seen| !seen.process.is_running());
    let leave = cx.shutdown.is_some_and(|shutdown| shutdown.mode == ShutdownMode::LeaveRunning);
    if leave || fenced || (down && cx.running.is_none()) {
        cx.cancel();
        return Next::exit(stay);
    }
    let refused = matches!(signal, Signal::Acted(Action::Fence { .. }, _));
    let stopping =
        cx.running.as_ref().is_some_and(|running| matches!(running.action, Action::Fence { .. }));
    // A stop that failed is not tried in a circle: a standby left running does no harm.
    if !stopping && !refused {
        let limit = cx.policy.stop_timeout;
        let ladder = Ladder { fast: limit / 2, immediate: limit / 4 * 3 };
        cx.act(Action::Fence { ladder }, Epoch(0), limit);
    }
    if refused { Next::exit(stay) } else { Next::stay(stay) }
}
