//! Transitions are reported once.

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct OneTransitionAStep {
    seen: bool,
}

impl Invariant for OneTransitionAStep {
    fn name(&self) -> &'static str {
        "one_transition_a_step"
    }

    fn sentence(&self) -> &'static str {
        "At most one transition per event."
    }

    fn source(&self) -> &'static str {
        "section 6"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Stepped => self.seen = false,
            Fact::Became(m, transition) if std::mem::replace(&mut self.seen, true) => {
                let to = transition.to;
                return Err(format!("{} also became {to} in one step", world.name(*m)));
            }
            _ => {}
        }
        Ok(())
    }
}
