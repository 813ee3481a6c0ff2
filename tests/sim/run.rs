//! One run: a cluster comes up, chaos, then everything heals and has to converge.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use harmony_agent::core::event::State;

use super::chaos::Chaos;
use super::invariants::{self, Converges, Invariant, NeverPanics};
use super::recorded::Recording;
use super::setup::Setup;
use super::times::Times;
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
    /// Why it was not expected to converge, when it was not.
    pub(crate) unjudged: Option<&'static str>,
    pub(crate) log: Vec<String>,
}

/// A world, and whether something was violated in it.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) invariants: Vec<Box<dyn Invariant>>,
    pub(crate) violation: Option<Violation>,
    /// When somebody wants to know.
    times: Option<Times>,
}

/// Runs the world of a setup: with random faults, or with those of a story.
pub(crate) fn run(setup: &Setup, story: Option<&Story>, logged: bool) -> Outcome {
    go(Run::new(World::new(setup.clone(), logged)), story).0
}

/// Runs the world of a setup with random faults; for how long somebody could write in it.
pub(crate) fn timed(setup: &Setup) -> Times {
    let mut run = Run::new(World::new(setup.clone(), false));
    run.times = Some(Times::default());
    go(run, None).1.times.unwrap_or_default()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static WHERE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Does something that may panic, and says with what and where: a story tells it, not the terminal.
fn caught(what: impl FnOnce()) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                WHERE.replace(place);
            } else {
                loud(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(what));
    QUIET.set(before);
    result.map_err(|cause| format!("{} ({})", said(&*cause), WHERE.take()))
}

/// What a panic says.
fn said(cause: &(dyn Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().cloned();
    let text = text.or(cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_default()
}

/// Runs the world of a setup with random faults; gives the recording of every machine's agents, too.
pub(crate) fn recorded(setup: &Setup) -> (Outcome, Vec<Vec<u8>>) {
    let mut world = World::new(setup.clone(), false);
    world.recordings = Some(vec![Recording::default(); world.machines.len()]);
    let (outcome, run) = go(Run::new(world), None);
    let recordings = run.world.recordings.unwrap_or_default();
    (outcome, recordings.into_iter().map(|recording| recording.bytes).collect())
}

fn go(mut run: Run, story: Option<&Story>) -> (Outcome, Run) {
    let setup = run.world.setup.clone();
    let setup = &setup;
    if !setup.early {
        let bound = setup.scaled(200_000);
        run.caught(|run| _ = run.until_converged(bound, "the cluster did not come up"));
    }
    let mut chaos = Chaos::new(setup);
    let end = run.world.now + chaos.lasts;
    let mut told = Story::new();
    match story {
        Some(story) => {
            for (at, fault) in story {
                if run.befalls(*at, *fault) {
                    told.push((*at, *fault));
                }
            }
        }
        None => {
            while run.world.now < end && run.violation.is_none() {
                let at = run.world.now + chaos.pause();
                run.caught(|run| run.until(at));
                let Some(fault) = chaos.choose(&run.world) else { continue };
                if run.befalls(at, fault) {
                    told.push((at, fault));
                }
            }
        }
    }
    run.caught(|run| run.until(end));
    let mut unjudged = None;
    run.caught(|run| unjudged = run.heal());
    let log = run.world.log.take().unwrap_or_default();
    let outcome = Outcome {
        violation: run.violation.take(),
        steps: run.world.steps,
        story: told,
        unjudged,
        log,
    };
    (outcome, run)
}

impl Run {
    /// At the beginning of a world.
    pub(crate) fn new(world: World) -> Self {
        let mut invariants = invariants::all();
        let only = world.setup.only;
        invariants.retain(|invariant| only.is_none_or(|only| only == invariant.name()));
        Self { world, invariants, violation: None, times: None }
    }

    /// A core that panics violates `never_panics`; the world, its log and the story so far stay.
    pub(crate) fn caught(&mut self, what: impl FnOnce(&mut Self)) {
        if let Err(why) = caught(|| what(self)) {
            // Whatever else was looked for: nothing more can be, in a world that fell over.
            self.world.setup.only = None;
            self.violate(&NeverPanics, why);
        }
    }

    /// A fault happens at its time, if nothing was violated before, and if it can.
    fn befalls(&mut self, at: u64, fault: Fault) -> bool {
        self.caught(|run| run.until(at));
        if self.violation.is_some() {
            return false;
        }
        // One that the core falls over at has happened.
        let mut happened = true;
        self.caught(|run| {
            happened = run.world.apply(fault);
            run.check();
        });
        happened
    }

    /// Everything up to a time happens.
    pub(crate) fn until(&mut self, at: u64) {
        while self.violation.is_none() && self.world.next_at().is_some_and(|next| next <= at) {
            self.time_passes(self.world.next_at().unwrap_or(at));
            self.world.advance();
            self.check();
        }
        self.time_passes(at);
        self.world.now = self.world.now.max(at);
    }

    fn time_passes(&mut self, until: u64) {
        if let Some(times) = &mut self.times {
            times.pass(&self.world, until.saturating_sub(self.world.now));
        }
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
                found = Some((invariant.copy(), text));
                break;
            }
        }
        if let Some((invariant, text)) = found {
            self.violate(&*invariant, text);
        }
    }

    fn violate(&mut self, of: &dyn Invariant, text: String) {
        let (invariant, sentence) = (of.name(), of.sentence());
        let counts = self.world.setup.only.is_none_or(|only| only == invariant);
        if self.violation.is_some() || !counts {
            return;
        }
        self.world.say(format_args!("VIOLATED {invariant}: {text}"));
        let at = self.world.now;
        self.violation = Some(Violation { invariant, sentence, text, at });
    }

    /// All faults end, everybody who is down comes back, and they converge, unless that is an operator's
    /// to mend: then it is said why.
    fn heal(&mut self) -> Option<&'static str> {
        if self.violation.is_some() {
            return None;
        }
        self.world.say(format_args!("!! everything heals"));
        self.world.heal();
        self.check();
        let unjudged = self.world.needs_operator();
        if unjudged.is_some() {
            // What he does is in the runbooks, and tried with real processes.
            return unjudged;
        }
        let policy = &self.world.setup.policy;
        let bound = policy.start_timeout + policy.cool_down * 2 + policy.hand_over_timeout * 4;
        let bound = super::world::agent::nanos(bound) + self.world.setup.scaled(120_000);
        self.until_converged(bound, "not converged")
    }

    /// Until there is one primary that everybody follows; says why, if that turns out not to be expected.
    pub(crate) fn until_converged(&mut self, bound: u64, what: &str) -> Option<&'static str> {
        let end = self.world.now + bound;
        let mut in_a_row = 0;
        while self.violation.is_none() && in_a_row < 4 {
            // Two founders may show only now: who could not start what it founded has to give way.
            if self.world.now > end {
                let unjudged = self.world.needs_operator();
                if unjudged.is_none() {
                    let text = format!("{what}: {}", self.world.picture());
                    self.violate(&Converges, text);
                }
                return unjudged;
            }
            let next = self.world.now + self.world.setup.scaled(1_000);
            self.until(next);
            in_a_row = if self.world.is_converged() { in_a_row + 1 } else { 0 };
        }
        None
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
