//! Reads prove nothing; compare-and-set does.

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct StaleDecisionsChangeNothing;

impl Invariant for StaleDecisionsChangeNothing {
    fn name(&self) -> &'static str {
        "stale_decisions_change_nothing"
    }

    fn sentence(&self) -> &'static str {
        "A write is applied only over the revision it was decided on, however late it lands, and gets a higher one."
    }

    fn source(&self) -> &'static str {
        "section 2 (every write is a compare-and-set)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let Fact::Written(written) = fact else { return Ok(()) };
        let (before, after) = written.revisions;
        if written.expected == before && Some(after) > before {
            return Ok(());
        }
        Err(format!(
            "{} writes {} on revision {:?}, and {before:?} became {after}",
            written.by.map_or("the operator".to_owned(), |by| world.name(by)),
            written.key,
            written.expected
        ))
    }
}
