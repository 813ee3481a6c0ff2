//! What synchronous replication is for.

use std::collections::BTreeMap;

use harmony_agent::core::ids::SystemId;

use super::Invariant;
use crate::sim::world::history::{BranchId, Place};
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct SynchronousCommitsSurvive {
    /// By cluster and timeline: the last acknowledged commit.
    acknowledged: BTreeMap<(SystemId, BranchId), u64>,
}

impl SynchronousCommitsSurvive {
    fn missing(&self, world: &World, m: usize) -> Result<(), String> {
        let Some(data) = &world.machines[m].db.data else { return Ok(()) };
        let of = self.acknowledged.iter().filter(|((system, _), _)| *system == data.system);
        for ((_, branch), lsn) in of {
            let place = Place { branch: *branch, lsn: *lsn };
            if !world.branches.contains(data.place, place) {
                return Err(format!(
                    "{} is a primary without the acknowledged commit at {lsn} of timeline {}",
                    world.name(m),
                    world.branches.get(*branch).number
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for SynchronousCommitsSurvive {
    fn name(&self) -> &'static str {
        "synchronous_commits_survive"
    }

    fn sentence(&self) -> &'static str {
        "When PostgreSQL waits for the standbys of all other members, every server that is a primary has every acknowledged commit: no failover loses one, whoever could act or not."
    }

    fn source(&self) -> &'static str {
        "section 11 (synchronous replication)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        if !world.setup.synchronous {
            return Ok(());
        }
        match fact {
            Fact::Opened(m) => self.missing(world, *m),
            Fact::Acknowledged(m, place) => {
                let Some(data) = &world.machines[*m].db.data else { return Ok(()) };
                self.acknowledged.insert((data.system, place.branch), place.lsn);
                // A former primary may still be up: what it acknowledges the new one has, too.
                (0..world.machines.len())
                    .filter(|other| other != m && world.machines[*other].db.is_primary())
                    .try_for_each(|other| self.missing(world, other))
            }
            _ => Ok(()),
        }
    }
}
