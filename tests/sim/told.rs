//! A run told line by line, for scenarios; what can happen in it besides `Kind`s, which are drawn by
//! chance and searched.

use harmony_agent::core::records::Key;

use super::run::Run;
use super::setup::Setup;
use super::world::World;
use super::world::fault::Fault;

/// A run whose faults somebody tells one by one.
pub(crate) struct Told(Run);

impl Told {
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut world = World::new(setup.clone(), true);
        world.brief = true;
        Self(Run::new(world))
    }

    /// PostgreSQL has run on the first machine for long; nobody knew of agents then.
    pub(crate) fn runs_already(&mut self) {
        let world = &mut self.0.world;
        world.machines[0].db.data = Some(world.new_data());
        world.launch(0, false);
    }

    /// The agent's state directory is lost: its floor and its instance id.
    pub(crate) fn lose_state(&mut self, m: usize) {
        let world = &mut self.0.world;
        let name = world.name(m);
        assert!(world.machines[m].agent.is_none(), "{name} runs");
        world.say(format_args!("!! the state directory of {name} is lost"));
        world.machines[m].floor = None;
        world.machines[m].instance = format!("instance-{name}-new").parse().unwrap();
    }

    /// Somebody deletes the lease.
    pub(crate) fn lose_lease(&mut self) {
        let world = &mut self.0.world;
        world.say(format_args!("!! the lease is deleted from the store"));
        world.store.delete(&Key::Lease);
        world.store_lost();
        self.0.check();
    }

    pub(crate) fn world(&self) -> &World {
        &self.0.world
    }

    /// Time passes.
    pub(crate) fn pass(&mut self, nanoseconds: u64) {
        let until = self.0.world.now + nanoseconds;
        self.0.until(until);
    }

    /// Time passes until there is a primary that everybody follows.
    pub(crate) fn converge(&mut self) {
        let bound = self.0.world.setup.scaled(400_000);
        self.0.until_converged(bound, "not converged");
        self.show();
    }

    /// What was told so far is not worth telling.
    pub(crate) fn forget(&mut self) {
        self.0.world.log = Some(Vec::new());
    }

    /// A fault happens, if it can.
    pub(crate) fn happens(&mut self, fault: Fault) -> bool {
        let happened = self.0.world.apply(fault);
        self.0.check();
        happened
    }

    /// Says where everybody is.
    pub(crate) fn show(&mut self) {
        for m in 0..self.0.world.machines.len() {
            let (name, state) = (self.0.world.name(m), self.0.world.state(m));
            let state = state.map_or("no agent", |state| state.name());
            let waits = self.0.world.machines[m].db.waiting.len();
            let writes = match (self.0.world.can_acknowledge(m), waits) {
                (false, _) => String::new(),
                (true, 0) => ", writable".to_owned(),
                (true, waits) => format!(", writable, {waits} commits wait for standbys"),
            };
            let from = self.0.world.machines[m].db.streaming.map(|from| self.0.world.name(from));
            let follows = from.map_or(String::new(), |from| format!(", follows {from}"));
            self.0.world.say(format_args!("== {name}: {state}{writes}{follows}"));
        }
    }

    /// The log.
    pub(crate) fn end(mut self) -> String {
        if let Some(violation) = &self.0.violation {
            let log = self.0.world.log.take().unwrap_or_default().join("\n");
            panic!("{violation:?}\n{log}");
        }
        self.0.world.log.take().unwrap_or_default().join("\n")
    }
}
