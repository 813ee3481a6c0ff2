//! A store that shows less than it did.

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct LostStoreNotObeyed {
    /// When it last lost something.
    lost_at: u64,
}

impl Invariant for LostStoreNotObeyed {
    fn name(&self) -> &'static str {
        "lost_store_not_obeyed"
    }

    fn sentence(&self) -> &'static str {
        "Nobody asks to acquire from a store of another incarnation, or at a lower epoch or lease revision, than its own floor.json knows."
    }

    fn source(&self) -> &'static str {
        "section 9"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        if let Fact::StoreLost = fact {
            self.lost_at = world.now;
        }
        let Fact::LeaseWritten(written) = fact else { return Ok(()) };
        // What was sent before may land in what was restored; nobody acts on it.
        if written.sent_at < self.lost_at {
            return Ok(());
        }
        let Some(floor) = &world.machines[written.by].floor else { return Ok(()) };
        if written.lease.seq != 0 || written.lease.released.is_some() {
            return Ok(());
        }
        let foreign = floor.incarnation != world.store.incarnation;
        let older = written.expected.unwrap_or_default() < floor.revision;
        let lower = written.lease.epoch < floor.epoch;
        if foreign || older || lower {
            return Err(format!(
                "{} acquires epoch {} on revision {:?} of {}; its floor is {floor:?}",
                world.name(written.by),
                written.lease.epoch,
                written.expected,
                world.store.incarnation
            ));
        }
        Ok(())
    }
}
