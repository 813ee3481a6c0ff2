//! The right to write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harmony_agent::core::ids::{BootId, MemberId};
use harmony_agent::core::time::Instant;

use super::{Invariant, is_writer};
use crate::sim::world::machine::Clock;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct LeaseCoversWrites {
    /// By machine: by which clock, when sent, until when.
    until: BTreeMap<usize, (Clock, u64, Instant)>,
    /// Rounds of promises, by who asked and their number.
    rounds: BTreeMap<(BootId, u64), Round>,
    /// By machine: by which clock, until when everybody promised.
    promised: BTreeMap<usize, (Clock, Instant)>,
}

/// A round of promises under way.
#[derive(Clone, Debug, Hash)]
struct Round {
    by: usize,
    clock: Clock,
    sent: Instant,
    duration: Duration,
    missing: BTreeSet<MemberId>,
}

impl LeaseCoversWrites {
    fn note_promises(&mut self, world: &World, fact: &Fact) {
        match fact {
            Fact::Asks(asks) => {
                let own = &world.machines[asks.by].member;
                let admitted = world.store.admitted().filter(|member| *member != own);
                let missing = admitted.cloned().collect();
                let round = Round {
                    by: asks.by,
                    clock: world.machines[asks.by].clock.clone(),
                    sent: asks.sent,
                    duration: asks.request.duration,
                    missing,
                };
                let key = (asks.request.boot.clone(), asks.request.round);
                self.rounds.entry(key).or_insert(round);
            }
            Fact::Promised(m, answer) => {
                let key = (answer.boot.clone(), answer.round);
                let Some(round) = self.rounds.get_mut(&key) else { return };
                round.missing.remove(&world.machines[*m].member);
                if round.missing.is_empty() {
                    let until = world.setup.policy.lease_until(round.sent, round.duration);
                    let known = self.promised.get(&round.by);
                    let later =
                        known.is_none_or(|(clock, end)| *clock != round.clock || *end < until);
                    if later {
                        self.promised.insert(round.by, (round.clock.clone(), until));
                    }
                }
            }
            _ => {}
        }
    }
}

impl Invariant for LeaseCoversWrites {
    fn name(&self) -> &'static str {
        "lease_covers_writes"
    }

    fn sentence(&self) -> &'static str {
        "Whoever would acknowledge a commit has an applied write of its own to the lease, or the promise of every other admitted member, asked for less than the published duration ago, less the drift, by its own clock; or nobody else is admitted."
    }

    fn source(&self) -> &'static str {
        "section 4 (the holder's arithmetic), section 10"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        self.note_promises(world, fact);
        if let Fact::LeaseWritten(written) = fact {
            let until = match written.lease.released {
                Some(_) => Instant::ZERO,
                None => world.setup.policy.lease_until(written.sent, written.lease.lease_duration),
            };
            let clock = world.machines[written.by].clock.clone();
            let before = self.until.get(&written.by).filter(|(known, ..)| *known == clock);
            // An older copy that lands late takes no right away, one from before a reboot gives none.
            let newer = before.is_none_or(|(_, sent_at, _)| *sent_at <= written.sent_at);
            if newer && written.sent_at >= clock.booted_at() {
                self.until.insert(written.by, (clock, written.sent_at, until));
            }
        }
        Ok(())
    }

    fn instant(&mut self, world: &World) -> Result<(), String> {
        for m in 0..world.machines.len() {
            if !is_writer(world, m) {
                continue;
            }
            let now = world.local(m);
            let proven = self.until.get(&m).filter(|(clock, ..)| *clock == world.machines[m].clock);
            let clock = &world.machines[m].clock;
            let promised = self.promised.get(&m).filter(|(known, _)| known == clock);
            let alone = world.setup.policy.promises
                && world.store.admitted().all(|member| *member == world.machines[m].member);
            let promised = alone || promised.is_some_and(|(_, until)| now < *until);
            if !promised && proven.is_none_or(|(_, _, until)| now >= *until) {
                let until = proven.map_or(Instant::ZERO, |(_, _, until)| *until);
                return Err(format!(
                    "{} accepts writes at {now} of its clock, its right ended at {until}",
                    world.name(m)
                ));
            }
        }
        Ok(())
    }
}
