//! What is not to be obeyed gives no right.

use std::collections::BTreeSet;

use harmony_agent::core::ids::{Epoch, InstanceId};
use harmony_agent::core::records::{Invalid, Lease};

use super::Invariant;
use crate::sim::world::{Fact, LeaseWritten, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct BadDataPromotesNobody {
    last: Option<Lease>,
    /// Who wrote a lease, ever.
    holders: BTreeSet<InstanceId>,
    /// Epochs that were acquired over a damaged lease.
    repaired: BTreeSet<Epoch>,
}

impl BadDataPromotesNobody {
    /// Its last holder may write a damaged lease again; or the one before, when the last one had not
    /// described the cluster yet (`docs/proof.md`, known gaps).
    fn may_repair(&self, world: &World, written: &LeaseWritten) -> bool {
        let Some(last) = &self.last else { return false };
        let described = world.store.cluster().is_some_and(|cluster| cluster.epoch >= last.epoch);
        let own = &written.lease.instance;
        *own == last.instance || !described && self.holders.contains(own)
    }
}

impl Invariant for BadDataPromotesNobody {
    fn name(&self) -> &'static str {
        "bad_data_promotes_nobody"
    }

    fn sentence(&self) -> &'static str {
        "A lease of another schema or of a foreign incarnation is never overwritten, a damaged one only by its last holder, and no standby is promoted on it."
    }

    fn source(&self) -> &'static str {
        "section 2 (the envelope), section 8 (a damaged lease)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::StoreLost => *self = Self::default(),
            Fact::Opening(m, action, epoch)
                if action.is_promotion() && self.repaired.contains(epoch) =>
            {
                return Err(format!("{} promotes in epoch {epoch}, from bad data", world.name(*m)));
            }
            Fact::LeaseWritten(written) => {
                let who = world.name(written.by);
                match &written.bad {
                    Some(why @ (Invalid::Schema(_) | Invalid::ForeignIncarnation(_))) => {
                        return Err(format!("{who} writes the lease over one of {why}"));
                    }
                    Some(why) if !self.may_repair(world, written) => {
                        return Err(format!("{who} writes the lease over what is damaged: {why}"));
                    }
                    Some(_) => drop(self.repaired.insert(written.lease.epoch)),
                    None => {}
                }
                self.holders.insert(written.lease.instance.clone());
                self.last = Some(written.lease.clone());
            }
            _ => {}
        }
        Ok(())
    }
}
