//! No lease is taken that may still count.

use std::time::Duration;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct TakeoverWaits {
    /// When and by which machine the lease was last written.
    last: Option<(u64, usize)>,
}

impl Invariant for TakeoverWaits {
    fn name(&self) -> &'static str {
        "takeover_waits"
    }

    fn sentence(&self) -> &'static str {
        "A lease that was not released is taken by another machine only when nobody has written it for its published duration, less the drift."
    }

    fn source(&self) -> &'static str {
        "section 4 (the candidate's arithmetic)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::StoreLost => self.last = None,
            Fact::LeaseWritten(written) => {
                let last = self.last.replace((world.now, written.by));
                let Some((at, by)) = last.filter(|(_, by)| *by != written.by) else {
                    return Ok(());
                };
                let Some(before) = written.before.as_ref().filter(|it| it.released.is_none())
                else {
                    return Ok(());
                };
                let passed = Duration::from_nanos(world.now - at);
                if passed < world.setup.policy.less_drift(before.lease_duration) {
                    return Err(format!(
                        "{} takes the lease that {} wrote {} ms ago",
                        world.name(written.by),
                        world.name(by),
                        passed.as_millis()
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
