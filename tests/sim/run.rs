//! One run: a cluster comes up, chaos, then everything heals and has to converge.

use std::any::Any;

use harmony_agent::core::event::State;

use super::chaos::Chaos;
use super::invariants::{self, Invariant};
use super::recorded::Recording;
use super::setup::Setup;
use super::world::World;
use super::world::fault::Fault;

/// When which fault happened.
pub(crate) type Story = Vec<(u64, Fault)>;

/// What was violated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) sentence: &'static str,
    pub(crate) text: String,
    pub(crate) at: u64,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) steps: u64,
    pub(crate) story: Story,
    pub(crate) log: Vec<String>,
}

/// A world, and whether something was violated in it.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) invariants: Vec<Box<dyn Invariant>>,
    pub(crate) violation: Option<Violation>,
}

/// Runs the world of a setup: with random faults, or with those of a story. A core that panics violates
/// `never_panics`; what led to it is in the log of `SIM_SEED`, not in the story.
pub(crate) fn run(setup: &Setup, story: Option<&Story>, logged: bool) -> Outcome {
    let caught = std::panic::catch_unwind(|| go(World::new(setup.clone(), logged), story).0);
    caught.unwrap_or_else(|cause| {
        let violation = Some(panicked(&*cause));
        let story = story.cloned().unwrap_or_default();
        Outcome { violation, steps: 0, story, log: Vec::new() }
    })
}

/// What a panic violates.
pub(crate) fn panicked(cause: &(dyn Any + Send)) -> Violation {
    let text = cause.downcast_ref::<String>().cloned();
    let text = text.or(cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Violation {
        invariant: "never_panics",
        sentence: "Whatever reaches it, the core does not panic.",
        text: text.unwrap_or_default(),
        at: 0,
    }
}

/// Runs the world of a setup with random faults; gives the recording of every machine's agents, too.
pub(crate) fn recorded(setup: &Setup) -> (Outcome, Vec<Vec<u8>>) {
    let mut world = World::new(setup.clone(), false);
    world.recordings = Some(vec![Recording::default(); world.machines.len()]);
    let (outcome, world) = go(world, None);
    let recordings = world.recordings.unwrap_or_default();
    (outcome, recordings.into_iter().map(|recording| recording.bytes).collect())
}

fn go(world: World, story: Option<&Story>) -> (Outcome, World) {
    let setup = world.setup.clone();
    let setup = &setup;
    let mut run = Run::new(world);
    if !setup.early {
        run.until_converged(setup.scaled(200_000), "the cluster did not come up");
    }
    let mut chaos = Chaos::new(setup);
    let end = run.world.now + chaos.lasts;
    let mut told = Story::new();
    match story {
        Some(story) => {
            for (at, fault) in story {
                run.until(*at);
                if run.world.apply(*fault) {
                    told.push((*at, *fault));
                }
                run.check();
            }
        }
        None => {
            while run.world.now < end && run.violation.is_none() {
                let at = run.world.now + chaos.pause();
                run.until(at);
                let Some(fault) = chaos.choose(&run.world) else { continue };
                if run.world.apply(fault) {
                    told.push((at, fault));
                }
                run.check();
            }
        }
    }
    run.until(end);
    run.heal();
    let log = run.world.log.take().unwrap_or_default();
    let outcome = Outcome { violation: run.violation, steps: run.world.steps, story: told, log };
    (outcome, run.world)
}

impl Run {
    /// At the beginning of a world.
    pub(crate) fn new(world: World) -> Self {
        let mut invariants = invariants::all();
        let only = world.setup.only;
        invariants.retain(|invariant| only.is_none_or(|only| only == invariant.name()));
        Self { world, invariants, violation: None }
    }

    /// Everything up to a time happens.
    pub(crate) fn until(&mut self, at: u64) {
        while self.violation.is_none() && self.world.next_at().is_some_and(|next| next <= at) {
            self.world.advance();
            self.check();
        }
        self.world.now = self.world.now.max(at);
    }

    pub(crate) fn check(&mut self) {
        self.world.excuse();
        let facts = std::mem::take(&mut self.world.facts);
        let mut found = None;
        for invariant in &mut self.invariants {
            let mut result = Ok(());
            for fact in &facts {
                result = result.and_then(|()| invariant.fact(&self.world, fact));
            }
            result = result.and_then(|()| invariant.instant(&self.world));
            if let Err(text) = result {
                let (name, sentence) = (invariant.name(), invariant.sentence());
                found = Some((name, sentence, text));
                break;
            }
        }
        if let Some((invariant, sentence, text)) = found {
            self.violate(invariant, sentence, text);
        }
    }

    fn violate(&mut self, invariant: &'static str, sentence: &'static str, text: String) {
        let counts = self.world.setup.only.is_none_or(|only| only == invariant);
        if self.violation.is_some() || !counts {
            return;
        }
        self.world.say(format_args!("VIOLATED {invariant}: {text}"));
        let at = self.world.now;
        self.violation = Some(Violation { invariant, sentence, text, at });
    }

    /// All faults end, everybody who is down comes back, the operator does what is his.
    fn heal(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.world.say(format_args!("!! everything heals"));
        self.world.heal();
        self.check();
        if self.world.needs_operator() {
            // What he does is in the runbooks, and tried with real processes.
            return;
        }
        let policy = &self.world.setup.policy;
        let bound = policy.start_timeout + policy.cool_down * 2 + policy.hand_over_timeout * 4;
        let bound = super::world::agent::nanos(bound) + self.world.setup.scaled(120_000);
        self.until_converged(bound, "not converged");
    }

    pub(crate) fn until_converged(&mut self, bound: u64, what: &str) {
        let end = self.world.now + bound;
        let mut in_a_row = 0;
        while self.violation.is_none() && in_a_row < 4 {
            // Two founders may show only now: who could not start what it founded has to give way.
            if self.world.now > end && self.world.needs_operator() {
                return;
            }
            if self.world.now > end {
                let text = format!("{what}: {}", self.world.picture());
                let sentence = "Once everything works again, there is one primary, and every other \
                                member follows it, within the bound.";
                self.violate("converges", sentence, text);
                return;
            }
            let next = self.world.now + self.world.setup.scaled(1_000);
            self.until(next);
            in_a_row = if self.world.is_converged() { in_a_row + 1 } else { 0 };
        }
    }
}

/// A run whose faults somebody tells one by one.
pub(crate) struct Told(Run);

impl Told {
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut world = World::new(setup.clone(), true);
        world.brief = true;
        Self(Run { world, invariants: invariants::all(), violation: None })
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

impl World {
    /// One primary, healthy, and everybody else follows it.
    pub(crate) fn is_converged(&self) -> bool {
        let members = (0..self.setup.members).filter(|m| self.machines[*m].joined);
        let mut writers = members.clone().filter(|m| self.can_acknowledge(*m));
        let (Some(primary), None) = (writers.next(), writers.next()) else { return false };
        let Some(place) = self.machines[primary].db.data.as_ref().map(|data| data.place) else {
            return false;
        };
        // Commits go on, too.
        let lately = self.now.saturating_sub(self.setup.scaled(3_000));
        if self.latest.is_none_or(|(m, at)| m != primary || at < lately) {
            return false;
        }
        members.into_iter().all(|m| {
            let data = self.machines[m].db.data.as_ref();
            let follows = self.machines[m].db.streaming == Some(primary)
                && self.state(m) == Some(State::ReplicaWatching)
                && data.is_some_and(|data| self.branches.contains(place, data.place));
            let leads = m == primary && self.state(m) == Some(State::PrimaryHealthy);
            follows || leads
        })
    }
}
