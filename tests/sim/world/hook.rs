//! The operator's program that a promotion waits for (`src/hooks`): it ends well, fails, or hangs until
//! it is killed at its limit. One whose epoch has ended answers, too, when nobody waits for it.

use harmony_agent::core::event::{Event, Transition};
use harmony_agent::core::hook::HookOutcome;
use harmony_agent::core::ids::{Epoch, OpId};

use super::fault::Kind;
use super::{Fact, Item, World};
use crate::sim::mutant::Mutant;

impl World {
    /// The core asked for it.
    pub(crate) fn begin_hook(&mut self, m: usize, op: OpId, transition: &Transition, limit: u64) {
        let (name, epoch) = (self.name(m), transition.epoch);
        self.say(format_args!("{name}: before_promote begins, epoch {epoch}"));
        let (delay, well) = if self.fault_on(m, Kind::HangHook) {
            (limit, false)
        } else {
            (self.some(5, 1_000).min(limit), !self.fault_on(m, Kind::FailHook))
        };
        let Some(agent) = &self.machines[m].agent else { return };
        self.later(delay, Item::HookEnds(m, agent.life, op, epoch, well));
    }

    pub(crate) fn hook_ends(&mut self, m: usize, op: OpId, epoch: Epoch, well: bool) {
        let name = self.name(m);
        self.say(format_args!("{name}: before_promote {}", if well { "done" } else { "failed" }));
        self.fact(Fact::HookEnded(m, epoch, well));
        let outcome = match self.setup.mutant {
            Some(Mutant::HookUnheard) => HookOutcome::Succeeded,
            _ if well => HookOutcome::Succeeded,
            _ => HookOutcome::Failed("it did not end well".to_owned()),
        };
        self.feed(m, Event::HookEnded(op, outcome));
    }
}
