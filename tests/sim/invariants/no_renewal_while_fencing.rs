//! A fence because of the lease is the end of it.

use std::collections::BTreeMap;

use harmony_agent::core::event::State;
use harmony_agent::core::ids::Epoch;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct NoRenewalWhileFencing {
    /// By machine: the newest write asked for.
    asked: BTreeMap<usize, (Epoch, u64)>,
}

impl Invariant for NoRenewalWhileFencing {
    fn name(&self) -> &'static str {
        "no_renewal_while_fencing"
    }

    fn sentence(&self) -> &'static str {
        "An agent in primary_failed or primary_fenced asks for no renewal it had not asked for before."
    }

    fn source(&self) -> &'static str {
        "section 5"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let Fact::LeaseAsked(m, lease) = fact else { return Ok(()) };
        let fencing = matches!(world.state(*m), Some(State::PrimaryFailed | State::PrimaryFenced));
        let asked = (lease.epoch, lease.seq);
        let before = self.asked.insert(*m, asked).is_some_and(|before| before >= asked);
        // The core has made its step already: a release belongs to the state after the fence.
        if fencing && lease.released.is_none() && (!before || world.setup.mutant.is_some()) {
            return Err(format!(
                "{} asks for number {} of epoch {} while it fences",
                world.name(*m),
                lease.seq,
                lease.epoch
            ));
        }
        Ok(())
    }
}
