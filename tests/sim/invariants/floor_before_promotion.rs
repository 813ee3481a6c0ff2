//! A crash must not forget an epoch.

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct FloorBeforePromotion;

impl Invariant for FloorBeforePromotion {
    fn name(&self) -> &'static str {
        "floor_before_promotion"
    }

    fn sentence(&self) -> &'static str {
        "A promotion begins only when the new epoch is on this member's disk."
    }

    fn source(&self) -> &'static str {
        "section 6 (rules for tasks)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let Fact::Opening(m, action, epoch) = fact else { return Ok(()) };
        if !action.is_promotion() {
            return Ok(());
        }
        let known = world.machines[*m].floor.as_ref().map(|floor| floor.epoch);
        match known.filter(|known| known >= epoch) {
            Some(_) => Ok(()),
            None => Err(format!(
                "{} promotes in epoch {epoch}, its disk knows {known:?}",
                world.name(*m)
            )),
        }
    }
}
