//! What makes two worlds the same: a hash of 128 bits of all that can still matter.
//!
//! Left out are lines for people, counters of steps, and what cannot do anything any more: items for
//! processes that are gone, answers nobody waits for, timers that were moved. Times are absolute:
//! worlds are compared within one layer only.

use std::hash::{Hash, Hasher};

use crate::sim::run::Run;
use crate::sim::setup::MS;
use crate::sim::world::agent::Process;
use crate::sim::world::machine::Machine;
use crate::sim::world::{Item, World};

/// Two independent lanes of 64 bits, each a folded product.
#[derive(Clone, Debug)]
struct Wide(u64, u64);

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

impl Wide {
    fn both(&self) -> u128 {
        let last = |lane: u64| fold(lane ^ 0x2D35_8DCC_AA6C_78A5, 0x8BB8_4B93_962E_ACC9);
        u128::from(last(self.0)) << 64 | u128::from(last(self.1))
    }
}

impl Hasher for Wide {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, 0x9E37_79B9_7F4A_7C15).rotate_left(23) ^ word;
        self.1 = fold(self.1 ^ word.rotate_left(32), 0xD1B5_4A32_D192_ED03).wrapping_add(word);
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
        self.write_u64(bytes.len() as u64);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// The hash of a state. `root` tells apart worlds with other settings.
pub(crate) fn mark(run: &Run, root: u64) -> u128 {
    let mut hasher = Wide(root, 0x5EED ^ root);
    world(&run.world, &mut hasher);
    for invariant in &run.invariants {
        invariant.mark(&mut hasher);
    }
    hasher.both()
}

// Each is taken apart whole, so that whoever adds a field has to say here whether it matters.

#[rustfmt::skip]
fn world(world: &World, into: &mut Wide) {
    let World {
        now, store, net, machines, branches, tokens, faults, usurped, lost, spoilt, rolled_back, queue,
        // The same for all states of a root.
        setup: _,
        // Told and looked at before a layer ends, or for people.
        acknowledged: _, latest: _, facts: _, steps: _, log: _, brief: _, recordings: _,
        // Numbers handed out; and chance and choices, which have no part between layers.
        next_fault: _, next_item: _, next_order: _, rng: _, choices: _,
    } = world;
    (now, store, net, branches, tokens, usurped, lost, spoilt, rolled_back).hash(into);
    faults.iter().for_each(|fault| fault.hash(into));
    machines.iter().for_each(|of| machine(world, of, into));
    for ((at, _), item) in queue {
        if !is_spent(world, *at, item) {
            at.hash(into);
            content(item, into);
        }
    }
}

#[rustfmt::skip]
fn machine(world: &World, of: &Machine, into: &mut Wide) {
    let Machine {
        clock, joined, on, suspended, deferred, resumed, agent, lives, floor, held, db, dog, dogs, excused,
        // What never changes, or is for people.
        host: _, member: _, instance: _, committed: _,
    } = of;
    (clock, joined, on, suspended, deferred, resumed, lives).hash(into);
    (floor, held, db, dog, dogs, excused).hash(into);
    agent.is_some().hash(into);
    if let Some(agent) = agent {
        process(world, agent, into);
    }
}

#[rustfmt::skip]
fn process(world: &World, of: &Process, into: &mut Wide) {
    let Process {
        life, core, frozen, deferred, store, open, saving, actions, epoch_of_tasks, lock, keeper, look,
        mourned, known, silent_since, wake, ticks, restart_after, told,
        // No write but a newer one, or one that was asked for before, comes after it.
        asked: _,
    } = of;
    (life, core, frozen, deferred, store, open, saving).hash(into);
    (actions, epoch_of_tasks, lock, keeper, mourned, known, silent_since).hash(into);
    (wake.1, restart_after, told).hash(into);
    // Ticks count within a tenth of a second.
    let many = if ticks.0 == world.now / (100 * MS) { ticks.1 } else { 0 };
    many.hash(into);
    if !deferred.is_empty() {
        // By these it is seen, once that is taken in, whether it still counts.
        (wake.0, look).hash(into);
    }
}

/// An item that counts. Some have a number that says no more than that it does.
fn content(item: &Item, into: &mut Wide) {
    match item {
        Item::Wake(m, ..) => (1_u8, m).hash(into),
        Item::Look(m, ..) => (2_u8, m).hash(into),
        Item::Looked(m, _, _, seen) => (3_u8, m, seen).hash(into),
        other => other.hash(into),
    }
}

/// Nothing will come of it, whatever happens before.
fn is_spent(world: &World, at: u64, item: &Item) -> bool {
    let agent = |m: usize| world.machines[m].agent.as_ref();
    let gone = |m: usize, life: u32| agent(m).is_none_or(|agent| agent.life != life);
    match item {
        Item::Wake(m, life, number) => {
            gone(*m, *life) || agent(*m).is_some_and(|agent| agent.wake.0 != *number)
        }
        Item::Look(m, life, number) | Item::Looked(m, life, number, _) => {
            gone(*m, *life) || agent(*m).is_some_and(|agent| agent.look != *number)
        }
        Item::Answer(m, life, op, _) | Item::GiveUp(m, life, op) => {
            gone(*m, *life) || agent(*m).is_some_and(|agent| !agent.open.contains_key(op))
        }
        Item::Act(m, life, op) => {
            gone(*m, *life) || agent(*m).is_some_and(|agent| !agent.actions.contains_key(op))
        }
        Item::DiskDone(m, life, op) => {
            gone(*m, *life) || agent(*m).is_some_and(|agent| !agent.saving.contains_key(op))
        }
        Item::Died(m, life, number) => {
            gone(*m, *life) || agent(*m).is_some_and(|agent| agent.mourned >= *number)
        }
        Item::Keeper(m, life) => {
            gone(*m, *life) || agent(*m).is_some_and(|agent| !agent.keeper.is_due(at))
        }
        Item::HookEnds(m, life, ..)
        | Item::Tell(m, life, _)
        | Item::Connect(m, life)
        | Item::Hint(m, life)
        | Item::Asked(m, life, ..)
        | Item::KeeperHears(m, life, _)
        | Item::Report(m, life, ..)
        | Item::StartDog(m, life) => gone(*m, *life),
        Item::Dog(m, number) | Item::DogHears(m, number, ..) => {
            world.machines[*m].dog.as_ref().is_none_or(|dog| dog.number != *number)
        }
        Item::Server(m, number, _) | Item::Flushed(m, number, ..) => {
            world.machines[*m].db.server_number != *number
        }
        Item::End(number) => !world.faults.contains_key(number),
        Item::Request(_)
        | Item::Client(_)
        | Item::Stream(_)
        | Item::StartAgent(_)
        | Item::Operator(_)
        | Item::Reported(..)
        | Item::BackUp => false,
    }
}
