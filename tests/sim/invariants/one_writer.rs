//! Never two at once.

use super::{Invariant, is_writer};
use crate::sim::world::World;

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct OneWriter;

impl Invariant for OneWriter {
    fn name(&self) -> &'static str {
        "one_writer"
    }

    fn sentence(&self) -> &'static str {
        "At no instant would two members acknowledge a commit."
    }

    fn source(&self) -> &'static str {
        "section 1 (primary), section 4"
    }

    fn instant(&mut self, world: &World) -> Result<(), String> {
        let mut writers = (0..world.machines.len()).filter(|m| is_writer(world, *m));
        match (writers.next(), writers.next()) {
            (Some(a), Some(b)) if !world.is_restored() => {
                Err(format!("{} and {} accept writes", world.name(a), world.name(b)))
            }
            _ => Ok(()),
        }
    }
}
