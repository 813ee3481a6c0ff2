//! Lease won and being renewed; the promotion runs as a cancellable task, after its hook if there
//! is one.

use serde::{Deserialize, Serialize};

use super::Replica;
use crate::core::agent::{Deadline, Next, Workflow};
use crate::core::event::{Action, ActionOutcome, Reason, ShutdownMode, State, Transition};
use crate::core::hook::{BeforePromote, HookOutcome};
use crate::core::lease::Held;
use crate::core::primary::{self, After, Primary, Standing};
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::core) struct Promoting {
    pub(super) held: Held,
    /// The promotion was started; before, the new epoch must be on disk and the watchdog armed.
    started: bool,
    /// Its hook has not ended yet: whether the promotion depends on how it does.
    #[serde(default)]
    hook: Option<BeforePromote>,
    limit: Instant,
}

impl Promoting {
    pub(super) fn new(cx: &mut Shared, held: Held, reason: Reason) -> Self {
        cx.guard(&held);
        let limit = cx.now + cx.policy.promote_timeout;
        let hook = cx.policy.before_promote;
        if let Some(hook) = hook {
            let (from, to, epoch) = (State::ReplicaWatching, State::ReplicaPromoting, held.epoch);
            let limit = hook.limit.min(cx.policy.promote_timeout);
            cx.ask_hook(Transition { from, to, reason, epoch }, limit);
        }
        let mut promoting = Self { held, started: false, hook, limit };
        promoting.start_when_safe(cx);
        promoting
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        let limit = Some(Deadline::at(self.limit, "promotion limit"));
        let guard = cx.guard_wait_over().filter(|_| !self.started);
        let guard = guard.map(|at| Deadline::at(at, "watchdog waited for"));
        Deadline::earliest([self.held.deadline(cx), limit, guard])
    }

    /// Starts the promotion once a crash could neither forget the epoch nor leave us unguarded, and
    /// its hook has ended.
    fn start_when_safe(&mut self, cx: &mut Shared) {
        let safe = cx.is_guarded() && cx.has_remembered(self.held.epoch);
        if self.started || self.hook.is_some() || !safe || cx.busy() {
            return;
        }
        // Whoever may be taken for one that has every commit has to get those of the new timeline, too.
        if let Some(requirement) = cx.missing_requirement(&cx.synchronous_set().clone()) {
            if cx.may_require() {
                cx.require(requirement, self.held.epoch);
            }
        } else {
            self.started = true;
            let action = match cx.token() {
                Some(token) => Action::PromoteWith { token: token.clone() },
                None => Action::Promote,
            };
            cx.act(action, self.held.epoch, self.limit.since(cx.now));
        }
    }

    /// Takes in how the hook ended; whether it refuses the promotion.
    fn is_refused(&mut self, signal: &Signal) -> bool {
        let Signal::Hook(outcome) = signal else { return false };
        let hook = self.hook.take();
        *outcome != HookOutcome::Succeeded && hook.is_some_and(|hook| hook.required)
    }

    fn give_up(self, cx: &mut Shared, reason: Reason, after: After) -> Next {
        let failed = primary::Failed::enter(cx, reason, Some(self.held), after);
        Next::to(Primary::Failed(failed), reason)
    }

    pub(super) fn advance(mut self, cx: &mut Shared, signal: Signal) -> Next {
        if let Standing::Lost(lost) = self.held.standing(cx, &signal) {
            let after = After::for_reason(lost);
            let failed = primary::Failed::enter(cx, lost, Some(self.held), after);
            return Next::to(Primary::Failed(failed), Reason::LeaseLost);
        }
        if self.is_refused(&signal) {
            return self.give_up(cx, Reason::HookRefused, After::StepBack);
        }
        let failed = match &signal {
            Signal::Acted(action, ActionOutcome::Applied(_)) if action.is_promotion() => {
                cx.token_used();
                cx.drive_renewal(&mut self.held, State::PrimaryHealthy);
                let healthy = primary::Healthy::new(cx, self.held);
                return Next::to(Primary::Healthy(healthy), Reason::Promoted);
            }
            // Tried again until the limit.
            Signal::Acted(Action::Require { .. }, _)
            | Signal::Look
            | Signal::Lease(_)
            | Signal::Hook(_) => cx.now >= self.limit,
            Signal::Acted(..) | Signal::Died => true,
        };
        if failed {
            return self.give_up(cx, Reason::PromotionFailed, After::StepBack);
        }
        if cx.shutdown.is_some_and(|shutdown| shutdown.mode == ShutdownMode::HandOver) {
            return self.give_up(cx, Reason::Shutdown, After::Release);
        }
        self.start_when_safe(cx);
        cx.drive_renewal(&mut self.held, State::ReplicaPromoting);
        Next::stay(Workflow::Replica(Replica::Promoting(self)))
    }
}
