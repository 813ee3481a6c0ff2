//! The hook that a promotion waits for.

use std::time::Duration;

use super::{Shared, Signal};
use crate::core::event::{Alarm, Effect, Transition};
use crate::core::hook::HookOutcome;
use crate::core::ids::OpId;

impl Shared {
    /// Asks for the `before_promote` hook.
    pub(in crate::core) fn ask_hook(&mut self, transition: Transition, limit: Duration) {
        let op = self.op();
        self.hook = Some(op);
        self.effects.push(Effect::BeforePromote(op, transition, limit));
    }

    /// Whatever it still says counts for nothing.
    pub(super) fn forget_hook(&mut self) {
        self.hook = None;
    }

    pub(in crate::core) fn hook_ended(&mut self, op: OpId, outcome: HookOutcome) -> Signal {
        if self.hook.take_if(|waited| *waited == op).is_none() {
            self.stale_completions += 1;
            return Signal::Look;
        }
        self.set_alarm(Alarm::HookFailed, outcome != HookOutcome::Succeeded);
        Signal::Hook(outcome)
    }
}
