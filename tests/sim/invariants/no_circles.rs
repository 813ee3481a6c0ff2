//! Deadlines lead somewhere.

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct NoCircles;

impl Invariant for NoCircles {
    fn name(&self) -> &'static str {
        "no_circles"
    }

    fn sentence(&self) -> &'static str {
        "No agent asks for 300 ticks within a tenth of a second."
    }

    fn source(&self) -> &'static str {
        "src/core/mod.rs (contract, 4)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Storm(m, state, why) => {
                Err(format!("{} ticks in a circle in {state}: {why}", world.name(*m)))
            }
            _ => Ok(()),
        }
    }
}
