//! A lease is given back with proof.

use super::{Invariant, is_writer};
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct ReleasedIsFenced;

impl Invariant for ReleasedIsFenced {
    fn name(&self) -> &'static str {
        "released_is_fenced"
    }

    fn sentence(&self) -> &'static str {
        "When a release is applied, its writer's database cannot acknowledge a commit."
    }

    fn source(&self) -> &'static str {
        "section 4 (release), section 5"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::LeaseWritten(written)
                if written.lease.released.is_some() && is_writer(world, written.by) =>
            {
                Err(format!("{} released its lease and accepts writes", world.name(written.by)))
            }
            _ => Ok(()),
        }
    }
}
