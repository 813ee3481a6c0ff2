//! Who lacks too much does not take over.

use harmony_agent::core::ids::TimelineId;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct LagIsBounded;

impl Invariant for LagIsBounded {
    fn name(&self) -> &'static str {
        "lag_is_bounded"
    }

    fn sentence(&self) -> &'static str {
        "Whoever acquires another member's lease lacks at most maximum_lag_on_failover of what that had last published, and is on no older timeline."
    }

    fn source(&self) -> &'static str {
        "section 7"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
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
        if lacks > world.setup.policy.maximum_lag_on_failover || behind {
            return Err(format!(
                "{} takes over from {} and lacks {lacks} bytes",
                world.name(written.by),
                before.holder
            ));
        }
        Ok(())
    }
}
