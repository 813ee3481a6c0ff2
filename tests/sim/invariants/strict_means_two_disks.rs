//! Strict synchronous replication never falls back.

use super::Invariant;
use crate::sim::world::{Fact, World};
use harmony_agent::core::synchronous::SynchronousMode;

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct StrictMeansTwoDisks;

impl Invariant for StrictMeansTwoDisks {
    fn name(&self) -> &'static str {
        "strict_means_two_disks"
    }

    fn sentence(&self) -> &'static str {
        "With synchronous.mode = strict no commit is acknowledged that is not on another member's disk, too."
    }

    fn source(&self) -> &'static str {
        "section 7 (synchronous replication)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let Fact::Acknowledged(m, place) = fact else { return Ok(()) };
        if world.setup.policy.synchronous != SynchronousMode::Strict {
            return Ok(());
        }
        let has = |other: &usize| {
            let data = world.machines[*other].db.data.as_ref();
            data.is_some_and(|data| world.branches.contains(data.place, *place))
        };
        let others = (0..world.machines.len()).filter(|other| other != m);
        if others.filter(has).count() == 0 {
            return Err(format!("{} acknowledges what nobody else has", world.name(*m)));
        }
        Ok(())
    }
}
