//! Nobody follows what is not his history.

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct HistoriesAgree;

impl Invariant for HistoriesAgree {
    fn name(&self) -> &'static str {
        "histories_agree"
    }

    fn sentence(&self) -> &'static str {
        "A standby streams only from a server of which its own log is the beginning."
    }

    fn source(&self) -> &'static str {
        "src/database/local/rejoin.rs, section 7 (timelines)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            // After a restored store two histories may have got the same numbers: a known gap of
            // `docs/proof.md`.
            Fact::Diverged(..) if world.rolled_back.is_some() => Ok(()),
            Fact::Diverged(standby, from) => Err(format!(
                "{} streams from {} on a timeline of one number, but with another history",
                world.name(*standby),
                world.name(*from)
            )),
            _ => Ok(()),
        }
    }
}
