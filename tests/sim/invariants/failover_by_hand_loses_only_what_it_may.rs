//! Who did not accept a loss gets none that is known of.

use std::collections::BTreeSet;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct FailoverByHandLosesOnlyWhatItMay {
    /// Machines that decided to take over because of an order for a failover without loss.
    decided: BTreeSet<usize>,
}

impl Invariant for FailoverByHandLosesOnlyWhatItMay {
    fn name(&self) -> &'static str {
        "failover_by_hand_loses_only_what_it_may"
    }

    fn sentence(&self) -> &'static str {
        "Who takes over by an order for a failover that does not accept a loss lacks nothing of what the lease had last published."
    }

    fn source(&self) -> &'static str {
        "section 7 (orders)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Acquires(m) if world.failover_ordered(*m) == Some(false) => {
                self.decided.insert(*m);
            }
            Fact::Acquires(m) => drop(self.decided.remove(m)),
            Fact::LeaseWritten(written) if written.lease.seq == 0 => {
                let Some(before) = &written.before else { return Ok(()) };
                let own = world.machines[written.by].db.data.as_ref().map_or(0, |it| it.place.lsn);
                let stopped = before.released.as_ref().and_then(|release| release.lsn);
                let published = before.database.lsn.max(stopped.unwrap_or_default()).0;
                let other = before.holder != written.lease.holder;
                if self.decided.remove(&written.by) && other && own < published {
                    return Err(format!(
                        "{} takes over from {} by hand and lacks {} bytes",
                        world.name(written.by),
                        before.holder,
                        published - own
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
