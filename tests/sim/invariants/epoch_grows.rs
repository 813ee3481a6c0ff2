//! Epochs count acquisitions.

use harmony_agent::core::ids::Epoch;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct EpochGrows {
    highest: Epoch,
    /// When the store last lost something.
    lost_at: u64,
}

impl Invariant for EpochGrows {
    fn name(&self) -> &'static str {
        "epoch_grows"
    }

    fn sentence(&self) -> &'static str {
        "Within one life of the store, the epoch of an acquisition is above those of all before, and the other writes of a holder keep it."
    }

    fn source(&self) -> &'static str {
        "section 1 (epoch), section 4 (acquire)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::StoreLost => (self.highest, self.lost_at) = (Epoch(0), world.now),
            // Whoever writes it anew may not know of a holder that had not described the cluster yet.
            Fact::LeaseDamaged => self.highest = Epoch(self.highest.0.saturating_sub(1)),
            // What was sent before may land in what was restored; its holder's next renewal is refused.
            Fact::LeaseWritten(written) if written.sent_at >= self.lost_at => {
                let (lease, highest) = (&written.lease, self.highest);
                let acquired = lease.seq == 0;
                let right = if acquired { lease.epoch > highest } else { lease.epoch == highest };
                if !right && highest > Epoch(0) {
                    return Err(format!("epoch {} is written after {highest}", lease.epoch));
                }
                self.highest = highest.max(lease.epoch);
            }
            _ => {}
        }
        Ok(())
    }
}
