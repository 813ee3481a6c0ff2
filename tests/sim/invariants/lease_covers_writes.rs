//! The right to write.

use std::collections::BTreeMap;

use harmony_agent::core::time::Instant;

use super::{Invariant, is_writer};
use crate::sim::world::machine::Clock;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseCoversWrites {
    /// By machine: by which clock, when sent, until when.
    until: BTreeMap<usize, (Clock, u64, Instant)>,
}

impl Invariant for LeaseCoversWrites {
    fn name(&self) -> &'static str {
        "lease_covers_writes"
    }

    fn sentence(&self) -> &'static str {
        "Whoever would acknowledge a commit has an applied write of its own to the lease that was sent less than the published duration ago, less the drift, by its own clock."
    }

    fn source(&self) -> &'static str {
        "section 4 (the holder's arithmetic)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        if let Fact::LeaseWritten(written) = fact {
            let until = match written.lease.released {
                Some(_) => Instant::ZERO,
                None => world.setup.policy.lease_until(written.sent, written.lease.lease_duration),
            };
            let clock = world.machines[written.by].clock.clone();
            let before = self.until.get(&written.by).filter(|(known, ..)| *known == clock);
            // An older copy that lands late takes no right away, one from before a reboot gives none.
            let newer = before.is_none_or(|(_, sent_at, _)| *sent_at <= written.sent_at);
            if newer && written.sent_at >= clock.booted_at() {
                self.until.insert(written.by, (clock, written.sent_at, until));
            }
        }
        Ok(())
    }

    fn instant(&mut self, world: &World) -> Result<(), String> {
        for m in 0..world.machines.len() {
            if !is_writer(world, m) {
                continue;
            }
            let now = world.local(m);
            let proven = self.until.get(&m).filter(|(clock, ..)| *clock == world.machines[m].clock);
            if proven.is_none_or(|(_, _, until)| now >= *until) {
                let until = proven.map_or(Instant::ZERO, |(_, _, until)| *until);
                return Err(format!(
                    "{} accepts writes at {now} of its clock, its right ended at {until}",
                    world.name(m)
                ));
            }
        }
        Ok(())
    }
}
