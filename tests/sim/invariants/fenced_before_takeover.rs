//! The old primary is down before there is a new holder.

use std::collections::BTreeMap;

use super::{Invariant, is_writer};
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct FencedBeforeTakeover {
    /// By machine: when it last promised not to take over, in true time.
    promised: BTreeMap<usize, u64>,
}

impl Invariant for FencedBeforeTakeover {
    fn name(&self) -> &'static str {
        "fenced_before_takeover"
    }

    fn sentence(&self) -> &'static str {
        "When an acquisition is applied, no other member would acknowledge a commit, unless its sender has promised since to leave it alone for a while."
    }

    fn source(&self) -> &'static str {
        "section 4 (between fencing and takeover lie the margins)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        if let Fact::Promised(m, _) = fact {
            self.promised.insert(*m, world.now);
        }
        let Fact::LeaseWritten(written) = fact else { return Ok(()) };
        if self.promised.get(&written.by).is_some_and(|at| *at >= written.sent_at) {
            return Ok(());
        }
        let acquired = written.lease.released.is_none() && written.lease.seq == 0;
        let other = (0..world.machines.len()).find(|m| *m != written.by && is_writer(world, *m));
        match other.filter(|_| acquired && !world.is_restored()) {
            Some(other) => Err(format!(
                "{} acquires epoch {} while {} accepts writes",
                world.name(written.by),
                written.lease.epoch,
                world.name(other)
            )),
            None => Ok(()),
        }
    }
}
