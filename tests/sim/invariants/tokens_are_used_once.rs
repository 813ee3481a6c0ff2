//! What proves that one takeover is safe proves nothing of the next.

use std::collections::{BTreeMap, BTreeSet};

use harmony_agent::core::event::Action;
use harmony_agent::core::ids::MemberId;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct TokensAreUsedOnce {
    /// To whom each was released.
    released: BTreeMap<String, Option<MemberId>>,
    /// Those that somebody was promoted with.
    used: BTreeSet<String>,
}

impl Invariant for TokensAreUsedOnce {
    fn name(&self) -> &'static str {
        "tokens_are_used_once"
    }

    fn sentence(&self) -> &'static str {
        "A promotion begins only with a token that was released to this member, that is for its data, \
         and that nobody was promoted with."
    }

    fn source(&self) -> &'static str {
        "section 6 (demotions)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::LeaseWritten(written) => {
                let release = written.lease.released.as_ref();
                if let Some((release, token)) =
                    release.and_then(|it| Some((it, it.token.as_ref()?)))
                {
                    let value = token.value.reveal().to_owned();
                    self.released.insert(value, release.to.clone());
                }
            }
            Fact::TokenUsed(token) => {
                self.used.insert(token.value.reveal().to_owned());
            }
            Fact::Opening(m, Action::PromoteWith { token }, epoch) => {
                let (name, value) = (world.name(*m), token.value.reveal());
                let says =
                    |why: &str| Err(format!("{name} promotes in epoch {epoch}, its {token} {why}"));
                let to = self.released.get(value);
                if to.is_none_or(|to| to.as_ref() != Some(&world.machines[*m].member)) {
                    return says(&format!("was released to {to:?}"));
                }
                if self.used.contains(value) {
                    return says("was used");
                }
                let data = world.machines[*m].db.data.as_ref();
                let own =
                    data.map(|data| (data.system, world.branches.get(data.place.branch).number));
                if own.is_some_and(|(system, number)| {
                    system != token.system || number > token.timeline.0
                }) {
                    return says(&format!("is not for {own:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
