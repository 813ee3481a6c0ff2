//! Whom a holder does not count on.

use std::collections::{BTreeMap, BTreeSet};

use harmony_agent::core::ids::{InstanceId, MemberId, Revision};
use harmony_agent::core::records::Key;

use super::Invariant;
use crate::sim::world::{Fact, LeaseWritten, World};

type Agents = BTreeSet<(MemberId, InstanceId)>;

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct TakeoverIsAdmitted {
    /// Whom the descriptions of the cluster admit, by their revisions, from the one on that the lease names.
    admitted: BTreeMap<Revision, Agents>,
}

impl TakeoverIsAdmitted {
    fn judge(&self, world: &World, written: &LeaseWritten) -> Result<(), String> {
        let (taken, before) = (&written.lease, &written.before);
        let Some((before, described)) = before.as_ref().and_then(|it| Some((it, it.described?)))
        else {
            return Ok(());
        };
        let own = before.holder == taken.holder && before.instance == taken.instance;
        if taken.epoch == before.epoch || own {
            return Ok(());
        }
        let mut known = self.admitted.range(described..).peekable();
        let nothing = known.peek().is_none();
        let agent = (taken.holder.clone(), taken.instance.clone());
        if nothing || known.any(|(_, agents)| agents.contains(&agent)) {
            return Ok(());
        }
        Err(format!(
            "{} takes the lease of {}, whose lease names description {described}, and none from there on admits it",
            world.name(written.by),
            before.holder
        ))
    }
}

impl Invariant for TakeoverIsAdmitted {
    fn name(&self) -> &'static str {
        "takeover_is_admitted"
    }

    fn sentence(&self) -> &'static str {
        "Nobody takes the lease of another holder unless it is admitted by the description of the cluster that this lease names, or by a later one: a holder need not ask anybody else for a promise."
    }

    fn source(&self) -> &'static str {
        "section 7 (members), section 10"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::StoreLost => self.admitted.clear(),
            Fact::Written(written) if written.key == Key::ClusterState => {
                if let Some(cluster) = world.store.cluster() {
                    let agents = cluster.members.iter();
                    let agents = agents.map(|(name, it)| (name.clone(), it.instance.clone()));
                    self.admitted.insert(written.revisions.1, agents.collect());
                }
            }
            Fact::LeaseWritten(written) if !world.lost => {
                self.judge(world, written)?;
                if let Some(described) = written.lease.described {
                    self.admitted = self.admitted.split_off(&described);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
