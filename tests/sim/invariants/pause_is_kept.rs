//! Nothing changes by itself while transitions are paused.

use harmony_agent::core::event::{Reason, State};
use harmony_agent::core::order::Wish;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct PauseIsKept;

impl Invariant for PauseIsKept {
    fn name(&self) -> &'static str {
        "pause_is_kept"
    }

    fn sentence(&self) -> &'static str {
        "While the store, as a member last read it, says that transitions are paused, that member neither decides to take over another's lease, unless an order for a failover from that lease names it, nor begins a switchover or failback but for such an order."
    }

    fn source(&self) -> &'static str {
        "section 7 (pauses)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let told = |m: usize| world.machines[m].agent.as_ref().map(|agent| &agent.told);
        let paused = |m: usize| told(m).is_some_and(|told| told.paused());
        match fact {
            Fact::Acquires(m) => {
                let by_itself = world.reads_of_another(*m) && world.failover_ordered(*m).is_none();
                if paused(*m) && by_itself {
                    return Err(format!("{} takes over while paused", world.name(*m)));
                }
            }
            Fact::Became(m, became)
                if became.from == State::PrimaryHealthy
                    && matches!(became.reason, Reason::Switchover | Reason::Failback) =>
            {
                let order = told(*m).and_then(|told| told.order(became.epoch));
                let failover = |wish: Wish| matches!(wish, Wish::Failover { .. });
                if paused(*m) && !order.is_some_and(|order| failover(order.wish)) {
                    return Err(format!("{} hands over while paused", world.name(*m)));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
