//! What is done to a database is done in somebody's name.

use harmony_agent::core::event::Action;
use harmony_agent::core::ids::Epoch;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct TasksBelongToTheirEpoch;

impl Invariant for TasksBelongToTheirEpoch {
    fn name(&self) -> &'static str {
        "tasks_belong_to_their_epoch"
    }

    fn sentence(&self) -> &'static str {
        "No action goes on uncancelled when its epoch has ended; none but a fence begins before the one before has ended, and no fence counts as proven before it has."
    }

    fn source(&self) -> &'static str {
        "section 6 (rules for tasks)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Overlaps(m, action, other) => {
                Err(format!("{} begins to {action} while {other} goes on", world.name(*m)))
            }
            Fact::FencedBeside(m, other) => {
                Err(format!("{} counts as fenced while {other} goes on", world.name(*m)))
            }
            _ => Ok(()),
        }
    }

    fn instant(&mut self, world: &World) -> Result<(), String> {
        for (m, machine) in world.machines.iter().enumerate() {
            let Some(agent) = &machine.agent else { continue };
            let mut running = 0;
            for acting in agent.actions.values() {
                let ended = acting.epoch > Epoch(0) && acting.epoch < agent.epoch_of_tasks;
                if ended && !acting.cancelled {
                    return Err(format!(
                        "{}: {} of epoch {} goes on, its epoch has ended",
                        world.name(m),
                        acting.action.name(),
                        acting.epoch
                    ));
                }
                running += usize::from(!acting.waits && !is_fence(&acting.action));
            }
            if running > 1 {
                return Err(format!("{}: {running} actions at a time", world.name(m)));
            }
        }
        Ok(())
    }
}

fn is_fence(action: &Action) -> bool {
    matches!(action, Action::Fence { .. })
}
