//! What a member has seen it does not forget.

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct FloorsOnlyGrow;

impl Invariant for FloorsOnlyGrow {
    fn name(&self) -> &'static str {
        "floors_only_grow"
    }

    fn sentence(&self) -> &'static str {
        "The epoch and the lease revision that a member's floor.json knows never go back, and its incarnation and system identifier never change."
    }

    fn source(&self) -> &'static str {
        "section 9"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let Fact::FloorWritten(m, Some(before)) = fact else { return Ok(()) };
        let Some(floor) = &world.machines[*m].floor else { return Ok(()) };
        let same = floor.incarnation == before.incarnation
            && before.system.is_none_or(|system| floor.system == Some(system));
        if same && floor.epoch >= before.epoch && floor.revision >= before.revision {
            return Ok(());
        }
        Err(format!("{} forgets {before:?}, knows {floor:?}", world.name(*m)))
    }
}
