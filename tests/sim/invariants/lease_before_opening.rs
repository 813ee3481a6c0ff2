//! Nothing is opened without the right to.

use std::collections::BTreeMap;

use harmony_agent::core::ids::Epoch;
use harmony_agent::core::time::Instant;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct LeaseBeforeOpening {
    /// By machine: its newest epoch, and until when.
    held: BTreeMap<usize, (Epoch, Instant)>,
}

impl Invariant for LeaseBeforeOpening {
    fn name(&self) -> &'static str {
        "lease_before_opening"
    }

    fn sentence(&self) -> &'static str {
        "A promotion or the start of a primary begins only in the name of an epoch that this machine acquired by an applied write, and before that right ends by its clock."
    }

    fn source(&self) -> &'static str {
        "section 4, section 6 (rules for tasks), section 8"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::LeaseWritten(written) => {
                let duration = written.lease.lease_duration;
                let until = world.setup.policy.lease_until(written.sent, duration);
                self.held.insert(written.by, (written.lease.epoch, until));
            }
            Fact::Opening(m, action, epoch) => {
                let held = self.held.get(m).filter(|(held, _)| held == epoch);
                let Some((_, until)) = held else {
                    return Err(format!(
                        "{} begins to {} in epoch {epoch}, which it does not hold",
                        world.name(*m),
                        action.name()
                    ));
                };
                if world.local(*m) >= *until {
                    return Err(format!(
                        "{} begins to {} at {}, its right ended at {until}",
                        world.name(*m),
                        action.name(),
                        world.local(*m)
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
