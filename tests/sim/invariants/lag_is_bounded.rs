//! Who lacks too much does not take over.

use std::collections::BTreeMap;

use harmony_agent::core::ids::TimelineId;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct LagIsBounded {
    /// By machine: what it may lack as it last decided to take over; `None` when a person had accepted
    /// any loss.
    allowed: BTreeMap<usize, Option<u64>>,
}

impl Invariant for LagIsBounded {
    fn name(&self) -> &'static str {
        "lag_is_bounded"
    }

    fn sentence(&self) -> &'static str {
        "Whoever acquires another member's lease is on no older timeline and lacks at most maximum_lag_on_failover, as the cluster's settings or else its own say, of what that had last published, unless that named it as having every acknowledged commit, or a person named it and accepted any loss."
    }

    fn source(&self) -> &'static str {
        "section 7"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        if let Fact::Acquires(m) = fact {
            let accepted = world.failover_ordered(*m) == Some(true);
            self.allowed.insert(*m, (!accepted).then(|| world.lag_allowed(*m)));
        }
        let Fact::LeaseWritten(written) = fact else { return Ok(()) };
        let Some(before) = &written.before else { return Ok(()) };
        let own = world.machines[written.by].db.data.as_ref().map(|data| data.place);
        let (Some(own), true) = (own, before.holder != written.lease.holder) else {
            return Ok(());
        };
        let published = before.released.as_ref().and_then(|release| release.lsn);
        let published = published.unwrap_or(before.database.lsn).max(before.database.lsn);
        let lacks = published.0.saturating_sub(own.lsn);
        let behind = TimelineId(world.branches.get(own.branch).number) < before.database.timeline;
        let own_limit = Some(world.setup.policy.maximum_lag_on_failover);
        let named = before.synchronous.contains(&written.lease.holder);
        let allowed = self.allowed.get(&written.by).copied().unwrap_or(own_limit);
        let allowed = allowed.filter(|_| !named);
        if allowed.is_some_and(|allowed| lacks > allowed) || behind {
            return Err(format!(
                "{} takes over from {} and lacks {lacks} bytes",
                world.name(written.by),
                before.holder
            ));
        }
        Ok(())
    }
}
