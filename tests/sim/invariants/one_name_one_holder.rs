//! Two agents with one name.

use std::collections::BTreeMap;
use std::time::Duration;

use harmony_agent::core::ids::MemberId;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct OneNameOneHolder {
    /// By name: the machine that wrote the lease last, and when.
    last: BTreeMap<MemberId, (usize, u64)>,
}

impl Invariant for OneNameOneHolder {
    fn name(&self) -> &'static str {
        "one_name_one_holder"
    }

    fn sentence(&self) -> &'static str {
        "An agent acquires nothing while another instance of its name has written a record within a failover time."
    }

    fn source(&self) -> &'static str {
        "section 8 (two agents, one name)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::StoreLost => self.last.clear(),
            Fact::LeaseWritten(written) => {
                let name = &world.machines[written.by].member;
                let before = self.last.insert(name.clone(), (written.by, world.now));
                let Some((other, at)) = before.filter(|(by, _)| *by != written.by) else {
                    return Ok(());
                };
                let passed = Duration::from_nanos(world.now - at);
                let policy = &world.setup.policy;
                if passed < policy.less_drift(policy.lease_duration) {
                    return Err(format!(
                        "{} writes the lease {} ms after {}, which has its name",
                        world.name(written.by),
                        passed.as_millis(),
                        world.name(other)
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
