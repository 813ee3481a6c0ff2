//! Demote before promote, always.

use harmony_agent::core::event::Action;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct DemotedBeforePromoted;

impl Invariant for DemotedBeforePromoted {
    fn name(&self) -> &'static str {
        "demoted_before_promoted"
    }

    fn sentence(&self) -> &'static str {
        "When a token is in a release, or a promotion begins with it, the database that gave it is a standby's."
    }

    fn source(&self) -> &'static str {
        "section 6 (demotions), section 7 (orders)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let (by, what) = match fact {
            Fact::LeaseWritten(written) => match &written.lease.released {
                Some(release) if release.token.is_some() => (written.by, "releases with a token"),
                Some(_) | None => return Ok(()),
            },
            Fact::Opening(_, Action::PromoteWith { token }, _) => match world.given(token) {
                Some(given) => (given.by, "gave the token that somebody is promoted with"),
                None => return Err(format!("nobody gave the {token}")),
            },
            _ => return Ok(()),
        };
        match world.is_standbys(by) {
            true => Ok(()),
            false => Err(format!("{} {what}, and is no standby", world.name(by))),
        }
    }
}
