//! Which fault comes next: a seeded choice among what can happen.

use super::rng::Rng;
use super::setup::Setup;
use super::world::World;
use super::world::fault::{Fault, Kind};

/// A seeded source of faults.
#[derive(Clone, Debug)]
pub(crate) struct Chaos {
    rng: Rng,
    /// Mean time between faults.
    pause: u64,
    /// Kinds this run prefers.
    favourites: Vec<Kind>,
    pub(crate) lasts: u64,
}

impl Chaos {
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut rng = Rng::new(setup.seed ^ 0xC4A0_5000);
        let pause = setup.scaled(rng.range(800, 15_000));
        let lasts = setup.scaled(rng.range(40_000, 300_000));
        Self { rng, pause, favourites: Vec::new(), lasts }
    }

    /// How long until the next one.
    pub(crate) fn pause(&mut self) -> u64 {
        // Often two at almost the same moment.
        if self.rng.chance(25) {
            self.rng.below(self.pause / 20 + 1)
        } else {
            self.rng.below(self.pause * 2)
        }
    }

    /// The next fault.
    pub(crate) fn choose(&mut self, world: &World) -> Option<Fault> {
        let actions = world.actions();
        if self.favourites.is_empty() {
            for _ in 0..5 {
                self.favourites.push(actions[self.rng.index(actions.len())].0);
            }
        }
        let liked: Vec<_> =
            actions.iter().filter(|(kind, _)| self.favourites.contains(kind)).collect();
        let primary = |m: usize| world.machines[m].db.is_primary();
        let mut choice = match liked.is_empty() || self.rng.chance(45) {
            true => *actions.get(self.rng.index(actions.len()))?,
            false => **liked.get(self.rng.index(liked.len()))?,
        };
        // What befalls a primary is of more interest.
        if !primary(choice.1) && !choice.0.is_of_operator() && self.rng.chance(40) {
            let same = actions.iter().find(|(kind, m)| *kind == choice.0 && primary(*m));
            choice = same.copied().unwrap_or(choice);
        }
        let (kind, machine) = choice;
        let lasts = match self.rng.below(100) {
            0..=44 => self.rng.range(world.setup.scaled(10), world.setup.scaled(2_500)),
            45..=79 => self.rng.range(world.setup.scaled(2_500), world.setup.scaled(20_000)),
            _ => self.rng.range(world.setup.scaled(20_000), world.setup.scaled(90_000)),
        };
        Some(Fault { kind, machine, lasts, detail: self.rng.next() >> 16 })
    }
}
