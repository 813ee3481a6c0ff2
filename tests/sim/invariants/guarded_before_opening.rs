//! Nobody becomes writable unguarded.

use harmony_agent::core::policy::WatchdogMode;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct GuardedBeforeOpening;

impl Invariant for GuardedBeforeOpening {
    fn name(&self) -> &'static str {
        "guarded_before_opening"
    }

    fn sentence(&self) -> &'static str {
        "With a required watchdog, a promotion or the start of a primary begins only while the watchdog is armed, or has just been killed or frozen."
    }

    fn source(&self) -> &'static str {
        "section 6 (rules for tasks), section 11"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let required = world.setup.policy.watchdog == WatchdogMode::Required;
        let Fact::Opening(m, ..) = fact else { return Ok(()) };
        // A watchdog that is gone or stands still is noticed a moment later.
        let there = world.machines[*m].dog.as_ref().is_some_and(|dog| !dog.frozen);
        if !required || !there || world.is_guarded(*m) {
            return Ok(());
        }
        Err(format!("{} opens its database, and its watchdog guards nothing", world.name(*m)))
    }
}
