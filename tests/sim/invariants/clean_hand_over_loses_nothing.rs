//! A planned change of primary costs no commit.

use harmony_agent::core::event::Reason;
use harmony_agent::core::ids::Lsn;
use harmony_agent::core::records::Lease;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct CleanHandOverLosesNothing {
    /// When the lease was released after a clean stop, where that ended, and how long the old primary
    /// may take it back.
    released: Option<(u64, Lsn)>,
}

impl Invariant for CleanHandOverLosesNothing {
    fn name(&self) -> &'static str {
        "clean_hand_over_loses_nothing"
    }

    fn sentence(&self) -> &'static str {
        "Whoever acquires a lease within hand_over_timeout of its release after a clean stop has all that the old primary wrote; and for a switchover or failback nobody releases after another stop, unless a person accepted any loss."
    }

    fn source(&self) -> &'static str {
        "section 4 (release), section 7 (orders)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        if let Fact::StoreLost = fact {
            // The release may be gone with what else was lost.
            self.released = None;
        }
        if let Fact::LeaseAsked(m, lease) = fact {
            return said_where_it_ends(world, *m, lease);
        }
        let Fact::LeaseWritten(written) = fact else { return Ok(()) };
        let before = self.released.take();
        if let Some(release) = &written.lease.released {
            // A founder that was stopped before it had published its data had no commit to lose.
            let published = written.lease.database.system.is_some();
            self.released = release.lsn.filter(|_| published).map(|lsn| (world.now, lsn));
            return Ok(());
        }
        let Some((at, needed)) = before else { return Ok(()) };
        let patience = u64::try_from(
            world.setup.policy.less_drift(world.setup.policy.hand_over_timeout).as_nanos(),
        )
        .unwrap_or(0);
        let own = world.machines[written.by].db.data.as_ref().map(|data| data.place.lsn);
        if world.now - at < patience && own.is_none_or(|own| Lsn(own) < needed) {
            return Err(format!(
                "{} takes over at {:?} after a clean stop at {needed}",
                world.name(written.by),
                own.map(Lsn)
            ));
        }
        Ok(())
    }
}

/// A release for a planned change says where the log ended.
fn said_where_it_ends(world: &World, m: usize, lease: &Lease) -> Result<(), String> {
    let Some(release) = &lease.released else { return Ok(()) };
    let planned = [Reason::Switchover, Reason::Failback].map(Reason::name);
    let told = world.machines[m].agent.as_ref().map(|agent| &agent.told);
    let accepted = told.is_some_and(|told| told.loss_accepted(lease.epoch));
    if planned.contains(&release.reason.as_str()) && release.lsn.is_none() && !accepted {
        return Err(format!("{} hands over after a stop that was not clean", world.name(m)));
    }
    Ok(())
}
