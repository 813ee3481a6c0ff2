//! The end of all faults, and what the world looks like from outside.

use harmony_agent::core::event::Event;
use harmony_agent::core::policy::WatchdogMode;

use super::World;

impl World {
    /// Ends every fault and starts every agent that does not run. The twin goes.
    pub(crate) fn heal(&mut self) {
        let numbers: Vec<u64> = self.faults.keys().copied().collect();
        for number in numbers {
            self.end_fault(number);
        }
        self.lift_pause();
        self.join(1);
        for m in 0..self.machines.len() {
            if m >= self.setup.members {
                self.end_agent(m);
                self.dog_gone(m);
                self.power_lost(m);
                self.machines[m].held = true;
                continue;
            }
            let policy = self.setup.policy_of(m);
            if self.machines[m].agent.is_some() {
                self.feed(m, Event::Reconfigured(policy));
            } else {
                self.later(1, super::Item::StartAgent(m));
            }
        }
    }

    /// What is as only an operator may mend it.
    pub(crate) fn needs_operator(&self) -> Option<&'static str> {
        let mut systems: Vec<_> = self
            .machines
            .iter()
            .filter_map(|machine| Some(machine.db.data.as_ref()?.system))
            .collect();
        systems.sort_unstable();
        systems.dedup();
        match (self.spoilt, self.usurped, systems.len()) {
            (true, ..) => Some("a lost store or record"),
            (false, true, _) => Some("a namesake held the lease"),
            (false, false, 2..) => Some("two founders"),
            (false, false, _) => None,
        }
    }

    /// The store was restored within the time for which a lease lasts: a former holder that did not see
    /// what came after it may open again beside a primary that has not noticed yet.
    pub(crate) fn is_restored(&self) -> bool {
        let lease = super::agent::nanos(self.setup.policy.lease_duration) * 2;
        self.rolled_back.is_some_and(|at| self.now < at + lease)
    }

    /// Notes on whose behalf nobody could act.
    pub(crate) fn excuse(&mut self) {
        for m in 0..self.machines.len() {
            let machine = &self.machines[m];
            if !machine.db.is_primary() && !machine.db.becomes_primary() {
                self.machines[m].excused = false;
                continue;
            }
            if machine.suspended {
                continue;
            }
            let local = self.local(m);
            let machine = &self.machines[m];
            let agent = machine.agent.as_ref().filter(|agent| !agent.frozen);
            let proven = agent.and_then(|agent| agent.core.writable_until());
            let watchdog = self.setup.policy.watchdog != WatchdogMode::Off && self.is_guarded(m);
            if agent.is_none() && !watchdog {
                self.machines[m].excused = true;
            } else if proven.is_some_and(|until| local < until) {
                self.machines[m].excused = false;
            }
        }
    }

    /// Where everybody is, in a line.
    pub(crate) fn picture(&self) -> String {
        let mut words = Vec::new();
        for (m, machine) in self.machines.iter().enumerate() {
            let state = self.state(m).map_or("no agent", |state| state.name());
            let data = machine.db.data.as_ref().map(|data| {
                (self.branches.get(data.place.branch).number, data.place.branch, data.place.lsn)
            });
            let streaming = machine.db.streaming.map(|from| self.name(from));
            let status = machine.agent.as_ref().map(|agent| agent.core.status());
            let takeover = status.map_or_else(String::new, |status| status.takeover);
            words.push(format!(
                "{}: {state}, {:?}, data {data:?}, streams from {streaming:?}, says {takeover:?}",
                machine.host, machine.db.server
            ));
        }
        if let Some((lease, ..)) = self.store.lease() {
            words.push(super::network::describe(lease));
        }
        words.join("; ")
    }
}
