//! Whom the lease names may be trusted with it.

use std::collections::{BTreeMap, BTreeSet};

use harmony_agent::core::ids::SystemId;
use harmony_agent::core::records::Lease;

use super::Invariant;
use crate::sim::world::history::{BranchId, Place};
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct NamedMembersHaveEveryCommit {
    /// By cluster and timeline: the last commit that the lease's holder acknowledged.
    acknowledged: BTreeMap<(SystemId, BranchId), u64>,
    /// Machines that decided to take over because a person accepts any loss.
    accepted: BTreeSet<usize>,
}

impl NamedMembersHaveEveryCommit {
    /// The acknowledged commits that a machine does not have.
    fn missing(&self, world: &World, m: usize) -> Vec<((SystemId, BranchId), u64)> {
        let Some(data) = &world.machines[m].db.data else { return Vec::new() };
        let lacks = |((system, branch), lsn): &((SystemId, BranchId), u64)| {
            let place = Place { branch: *branch, lsn: *lsn };
            *system == data.system && !world.branches.contains(data.place, place)
        };
        self.acknowledged.iter().map(|(key, lsn)| (*key, *lsn)).filter(lacks).collect()
    }

    fn taken_over(&mut self, world: &World, m: usize, before: &Lease) -> Result<(), String> {
        let missing = self.missing(world, m);
        let accepted = self.accepted.remove(&m) || before.synchronous.is_empty();
        if !missing.is_empty() && !accepted {
            return Err(format!(
                "{} takes over from {}, which named {:?}, without the acknowledged commit at {}",
                world.name(m),
                before.holder,
                before.synchronous.iter().map(ToString::to_string).collect::<Vec<_>>(),
                missing[0].1
            ));
        }
        for (key, _) in missing {
            // Given up for good.
            self.acknowledged.remove(&key);
        }
        Ok(())
    }
}

impl Invariant for NamedMembersHaveEveryCommit {
    fn name(&self) -> &'static str {
        "named_members_have_every_commit"
    }

    fn sentence(&self) -> &'static str {
        "Whoever takes over a lease that names members has every commit that holders acknowledged, unless a person accepted any loss; a takeover of a lease that names nobody may give some up."
    }

    fn source(&self) -> &'static str {
        "section 7 (synchronous replication)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        if !world.setup.is_managed() {
            return Ok(());
        }
        match fact {
            Fact::Acquires(m) if world.failover_ordered(*m) == Some(true) => {
                self.accepted.insert(*m);
            }
            Fact::Acquires(m) => drop(self.accepted.remove(m)),
            Fact::LeaseWritten(written) => {
                let other = |before: &&Lease| before.holder != written.lease.holder;
                if let Some(before) = written.before.as_ref().filter(other) {
                    return self.taken_over(world, written.by, before);
                }
            }
            Fact::Acknowledged(m, place) => {
                let holds = world
                    .store
                    .lease()
                    .is_some_and(|(lease, ..)| lease.holder == world.machines[*m].member);
                if let Some(data) = world.machines[*m].db.data.as_ref().filter(|_| holds) {
                    self.acknowledged.insert((data.system, place.branch), place.lsn);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
