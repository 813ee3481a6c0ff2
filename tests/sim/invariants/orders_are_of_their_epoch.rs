//! What a person asked for is done in its epoch, and once.

use std::collections::{BTreeMap, BTreeSet};

use harmony_agent::core::event::{Reason, State, Transition};
use harmony_agent::core::ids::Epoch;
use harmony_agent::core::order::Wish;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct OrdersAreOfTheirEpoch {
    /// By machine: the order that it is carrying out, and in which epoch.
    begun: BTreeMap<usize, (Epoch, Option<String>)>,
    /// By machine: the order that it has answered.
    answered: BTreeMap<usize, String>,
    /// Orders that ended in a release.
    carried_out: BTreeSet<String>,
}

impl OrdersAreOfTheirEpoch {
    /// The order that a hand-over goes back to; none for one that goes back to the settings.
    fn cause(
        &self,
        world: &World,
        m: usize,
        became: &Transition,
    ) -> Result<Option<String>, String> {
        let name = world.name(m);
        let agent = world.machines[m].agent.as_ref();
        let order = agent.and_then(|agent| agent.told.order(became.epoch));
        let failback = became.reason == Reason::Failback;
        match order.filter(|order| (order.wish == Wish::Failback) == failback) {
            Some(order) if self.answered.get(&m) == Some(&order.id) => {
                Err(format!("{name} answered {} and begins it", order.id))
            }
            Some(order) => Ok(Some(order.id.clone())),
            None if failback && world.fails_back(m) => Ok(None),
            None => Err(format!("{name} begins a {} that nobody ordered", became.reason)),
        }
    }
}

impl Invariant for OrdersAreOfTheirEpoch {
    fn name(&self) -> &'static str {
        "orders_are_of_their_epoch"
    }

    fn sentence(&self) -> &'static str {
        "A primary begins a switchover only by an order about its own epoch that the store, as it last read it, shows, whose time has come and that it has not answered; a failback so, or by its settings; a release with that reason follows at most once for an order, and in that epoch."
    }

    fn source(&self) -> &'static str {
        "section 7 (orders)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::StoreLost => *self = Self::default(),
            Fact::Answers(m, order) => drop(self.answered.insert(*m, order.clone())),
            Fact::Became(m, became) if became.from == State::PrimaryHealthy => {
                if matches!(became.reason, Reason::Switchover | Reason::Failback) {
                    let cause = self.cause(world, *m, became)?;
                    self.begun.insert(*m, (became.epoch, cause));
                }
            }
            Fact::LeaseWritten(written) => {
                let released = written.lease.released.as_ref();
                let planned = |reason: &str| {
                    [Reason::Switchover, Reason::Failback].iter().any(|it| it.name() == reason)
                };
                if !released.is_some_and(|released| planned(&released.reason)) {
                    return Ok(());
                }
                let (name, epoch) = (world.name(written.by), written.lease.epoch);
                match self.begun.remove(&written.by) {
                    Some((begun, order)) if begun == epoch => {
                        if let Some(order) = order
                            && !self.carried_out.insert(order.clone())
                        {
                            return Err(format!("{name} carries out {order} once more"));
                        }
                    }
                    // Written before the store lost what it knew.
                    None if world.lost => {}
                    Some(_) | None => {
                        return Err(format!("{name} hands over in epoch {epoch}, unasked"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
