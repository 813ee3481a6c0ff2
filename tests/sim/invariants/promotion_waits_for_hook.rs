//! What an operator wants to have happened before a promotion has happened.

use std::collections::BTreeMap;

use harmony_agent::core::ids::Epoch;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct PromotionWaitsForHook {
    /// The latest hook that ended on each machine: of which epoch, and whether well.
    ended: BTreeMap<usize, (Epoch, bool)>,
}

impl Invariant for PromotionWaitsForHook {
    fn name(&self) -> &'static str {
        "promotion_waits_for_hook"
    }

    fn sentence(&self) -> &'static str {
        "A promotion begins only when the hook of its epoch has ended, and well if it is required."
    }

    fn source(&self) -> &'static str {
        "section 6 (rules for tasks), adr/0017-hooks.md"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let Some(hook) = world.setup.policy.before_promote else { return Ok(()) };
        match fact {
            Fact::HookEnded(m, epoch, well) => {
                self.ended.insert(*m, (*epoch, *well));
                Ok(())
            }
            Fact::Opening(m, action, epoch) if action.is_promotion() => {
                let ended = self.ended.get(m).filter(|(of, _)| of == epoch);
                match ended {
                    Some((_, well)) if *well || !hook.required => Ok(()),
                    other => Err(format!(
                        "{} promotes in epoch {epoch}, its hook: {other:?}",
                        world.name(*m)
                    )),
                }
            }
            _ => Ok(()),
        }
    }
}
