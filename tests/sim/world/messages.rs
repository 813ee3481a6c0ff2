//! Messages from agent to agent: lost, late and repeated like any, but without a store.

use harmony_agent::core::event::Event;
use harmony_agent::core::ids::MemberId;
use harmony_agent::core::promise::{PromiseAnswer, PromiseRequest};
use harmony_agent::core::records::Address;

use super::{Asks, Fact, Item, World};
use crate::sim::mutant::Mutant;

/// The agent that asked, as the number that comes back with the answer.
fn number(m: usize, life: u32) -> u64 {
    (m as u64) << 32 | u64::from(life)
}

impl World {
    /// A holder asks others for promises.
    pub(crate) fn ask_promises(
        &mut self,
        m: usize,
        life: u32,
        request: &PromiseRequest,
        peers: &[(MemberId, Address)],
    ) {
        let asks = Asks { by: m, sent: self.local(m), request: request.clone() };
        self.fact(Fact::Asks(Box::new(asks)));
        let name = self.name(m);
        let round = request.round;
        if round % 10 == 1 {
            self.say(format_args!("{name}: asks for promises, round {round}"));
        }
        // Whoever listens under the member's name gets it, at its address or by the servers.
        let meant = |world: &Self, to: usize| {
            peers.iter().any(|(member, _)| *member == world.machines[to].member)
        };
        for to in (0..self.machines.len()).filter(|to| *to != m) {
            if !meant(self, to) || self.net.cut.contains(&(m, to)) {
                continue;
            }
            if self.setup.mutant == Some(Mutant::PromiseInvented) {
                let invented = PromiseAnswer {
                    boot: request.boot.clone(),
                    round,
                    member: self.machines[to].member.clone(),
                    instance: self.machines[to].instance.clone(),
                    refused: None,
                };
                self.deliver(Item::Tell(m, life, Box::new(Event::PromiseAnswered(invented))));
                continue;
            }
            let Some(agent) = &self.machines[to].agent else { continue };
            let asked = Item::Asked(to, agent.life, number(m, life), Box::new(request.clone()));
            self.deliver(asked);
        }
    }

    /// An agent answers.
    pub(crate) fn promise(&mut self, m: usize, to: u64, answer: PromiseAnswer) {
        let (asker, life) = (usize::try_from(to >> 32).unwrap(), to as u32);
        if answer.refused.is_none() {
            self.fact(Fact::Promised(m, answer.clone()));
        }
        if !self.net.cut.contains(&(m, asker)) {
            self.deliver(Item::Tell(asker, life, Box::new(Event::PromiseAnswered(answer))));
        }
    }

    /// On its way, at times late, twice or never.
    fn deliver(&mut self, item: Item) {
        let Some(chosen) = self.fate_of_message(&item) else { return };
        if self.rng.chance(3) {
            return;
        }
        if self.rng.chance(3) {
            let again = self.some(1, 60_000);
            self.later(again, item.clone());
        }
        let late = self.rng.chance(3);
        let delay = if late { self.some(200, 60_000) } else { self.some(1, 20) };
        self.later(delay + chosen, item);
    }
}
