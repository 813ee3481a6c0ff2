//! Breadth first through all worlds within the bounds.
//!
//! ```text
//!   roots ─► calm layers of the first period ─► one job for each first fault ─► breadth-first search ─┐
//!                                                (two threads take jobs)                              ▼
//!                                      all states, counted once; the earliest violation of the first job
//! ```

#![expect(
    clippy::disallowed_types,
    reason = "millions of states are looked up by their mark, and never gone through in order"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use harmony_agent::core::event::State;

use super::canon::mark;
use super::fate::Choices;
use super::terms::{EVER, Search, unit};
use crate::sim::mutant::Mutant;
use crate::sim::run::{Run, Violation};
use crate::sim::setup::Setup;
use crate::sim::world::World;
use crate::sim::world::fault::{Fault, Kind};

/// What was chosen in one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    layer: u64,
    faults: Vec<Fault>,
    /// What was chosen in it, and how many more faults were allowed then.
    script: Vec<u8>,
    left: u8,
}

/// A state, and how it was reached.
#[derive(Clone)]
struct Node {
    run: Run,
    /// Faults that may still happen.
    left: u8,
    path: Vec<Chosen>,
}

/// A violation, and how to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) violation: Violation,
    pub(crate) layer: u64,
    pub(crate) root: usize,
    pub(crate) path: Vec<Chosen>,
}

impl Found {
    /// How many faults it took.
    pub(crate) fn faults(&self) -> usize {
        self.path.iter().map(|chosen| chosen.faults.len().max(1)).sum()
    }
}

/// What a search came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Distinct states at the ends of layers.
    pub(crate) states: u64,
    /// The same by layer.
    pub(crate) layers: BTreeMap<u64, u64>,
    /// Ways from a state to one of the next layer.
    pub(crate) ways: u64,
    /// Steps of cores.
    pub(crate) steps: u64,
    pub(crate) jobs: usize,
    /// Kinds of faults that happened, and what members were in at the ends of layers.
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) members: BTreeSet<State>,
    pub(crate) found: Option<Found>,
}

/// Part of a search: everything after one first fault.
struct Job {
    root: usize,
    layer: u64,
    node: Node,
}

/// What comes of a job, or of the calm beginning.
#[derive(Default)]
struct Reached {
    states: Vec<(u64, u128)>,
    ways: u64,
    steps: u64,
    kinds: BTreeSet<Kind>,
    members: BTreeSet<State>,
}

struct Searching<'a> {
    search: &'a Search,
    unit: u64,
}

/// Goes through all of it on so many threads. The result does not depend on how many.
pub(crate) fn explore(
    search: &Search,
    mutant: Option<(Mutant, &'static str)>,
    threads: usize,
) -> Report {
    let setups = search.setups(mutant);
    let within = Searching { search, unit: unit(&setups[0].policy) };
    let mut reached = Reached::default();
    let mut jobs = Vec::new();
    for (root, setup) in setups.iter().enumerate() {
        within.begin(root, setup, &mut jobs, &mut reached);
    }
    let all = Mutex::new((Report { jobs: jobs.len(), ..Report::default() }, Seen::default()));
    add(&all, reached);
    let best: Mutex<Option<(u64, usize, Found)>> = Mutex::new(None);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    add(&all, within.work(index, job, &best));
                }
            });
        }
    });
    let (mut report, _) = all.into_inner().unwrap();
    report.found = best.into_inner().unwrap().map(|(.., found)| found);
    report
}

/// States seen, by their hash.
type Seen = HashSet<u128>;

fn add(all: &Mutex<(Report, Seen)>, reached: Reached) {
    let (report, seen) = &mut *all.lock().unwrap();
    for (layer, state) in reached.states {
        if seen.insert(state) {
            report.states += 1;
            *report.layers.entry(layer).or_default() += 1;
        }
    }
    report.ways += reached.ways;
    report.steps += reached.steps;
    report.kinds.extend(reached.kinds);
    report.members.extend(reached.members);
}

impl Searching<'_> {
    fn last_layer(&self) -> u64 {
        (self.search.first + self.search.horizon) * self.search.layers
    }

    /// Where a root begins.
    fn root(&self, setup: &Setup, logged: bool) -> Run {
        let mut run = Run::new(World::new(setup.clone(), logged));
        if !self.search.start.founding {
            run.until_converged(setup.scaled(400_000), "the cluster did not come up");
            run.until(
                run.world.now.next_multiple_of(self.unit) + self.search.start.later * self.unit,
            );
        }
        run
    }

    /// The calm beginning of a root, and a job for each first fault.
    fn begin(&self, root: usize, setup: &Setup, jobs: &mut Vec<Job>, reached: &mut Reached) {
        let run = self.root(setup, false);
        let mut seen = HashSet::new();
        let mut calm = Node { run, left: self.search.faults, path: Vec::new() };
        for layer in 0..self.search.first * self.search.layers {
            if calm.run.violation.is_some() {
                jobs.push(Job { root, layer, node: calm });
                return;
            }
            let mut children = self.expand(&calm, layer, reached);
            let following = children.remove(0);
            for node in children {
                let violated = node.run.violation.is_some();
                if seen.insert((mark(&node.run, root as u64), violated, node.left)) {
                    jobs.push(Job { root, layer: layer + 1, node });
                }
            }
            reached.states.push((layer, mark(&following.run, root as u64)));
            calm = following;
        }
        // And if nothing ever happens.
        calm.left = 0;
        jobs.push(Job { root, layer: self.search.first * self.search.layers, node: calm });
    }

    /// Everything after a first fault, breadth first.
    fn work(&self, index: usize, job: &Job, best: &Mutex<Option<(u64, usize, Found)>>) -> Reached {
        let mut reached = Reached::default();
        let mut frontier = vec![job.node.clone()];
        reached.states.push((job.layer.saturating_sub(1), mark(&job.node.run, job.root as u64)));
        for layer in job.layer..=self.last_layer() {
            if let Some(node) = frontier.iter().find(|node| node.run.violation.is_some()) {
                let violation = node.run.violation.clone().unwrap();
                let path = node.path.clone();
                let found = Found { violation, layer, root: job.root, path };
                let mut best = best.lock().unwrap();
                if best.as_ref().is_none_or(|(at, by, _)| (layer, index) < (*at, *by)) {
                    *best = Some((layer, index, found));
                }
                return reached;
            }
            let beaten = |(at, by): (u64, usize)| (at, by) < (layer, index);
            let earlier = best.lock().unwrap().as_ref().map(|(at, by, _)| (*at, *by));
            if layer == self.last_layer() || earlier.is_some_and(beaten) {
                break;
            }
            frontier = self.next_layer(&frontier, layer, job.root, &mut reached);
        }
        reached
    }

    /// All states that follow those of a layer, each once, with as many faults left as possible.
    fn next_layer(
        &self,
        frontier: &[Node],
        layer: u64,
        root: usize,
        reached: &mut Reached,
    ) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        // A violated state is never taken for a sound one, whatever else they have in common.
        let mut places: HashMap<(u128, bool), usize> = HashMap::new();
        for node in frontier {
            for child in self.expand(node, layer, reached) {
                let state = mark(&child.run, root as u64);
                let place = (state, child.run.violation.is_some());
                match places.get(&place) {
                    None => {
                        places.insert(place, nodes.len());
                        reached.states.push((layer, state));
                        nodes.push(child);
                    }
                    Some(at) if nodes[*at].left < child.left => nodes[*at] = child,
                    Some(_) => {}
                }
            }
        }
        nodes
    }

    /// All that may follow a state within one layer; first of all, nothing unusual.
    fn expand(&self, node: &Node, layer: u64, reached: &mut Reached) -> Vec<Node> {
        let mut children = Vec::new();
        self.follow(node, layer, &[], reached, &mut children);
        if node.left == 0 {
            return children;
        }
        let faults = self.faults(&node.run.world);
        for (at, fault) in faults.iter().enumerate() {
            self.follow(node, layer, &[*fault], reached, &mut children);
            // Two at once.
            for other in faults[at + 1..].iter().filter(|_| node.left > 1) {
                if (other.kind, other.machine) != (fault.kind, fault.machine) {
                    self.follow(node, layer, &[*fault, *other], reached, &mut children);
                }
            }
        }
        children
    }

    /// All ways through a layer that begins with these faults.
    fn follow(
        &self,
        node: &Node,
        layer: u64,
        faults: &[Fault],
        reached: &mut Reached,
        children: &mut Vec<Node>,
    ) {
        let mut scripts = vec![Vec::new()];
        let left = node.left - u8::try_from(faults.len()).unwrap_or(node.left);
        while let Some(script) = scripts.pop() {
            let known = script.len();
            let mut run = node.run.clone();
            let steps = run.world.steps;
            let choices = self.pass(&mut run, faults, script.clone(), left);
            reached.ways += 1;
            let world = &run.world;
            reached.members.extend((0..world.machines.len()).filter_map(|m| world.state(m)));
            reached.kinds.extend(faults.iter().map(|fault| fault.kind));
            reached.steps += run.world.steps - steps;
            for at in (known..choices.taken.len()).rev() {
                let before = choices.taken[..at].iter().map(|choice| choice.chosen);
                for other in (1..choices.taken[at].options).rev() {
                    scripts.push(before.clone().chain([other]).collect());
                }
            }
            let mut path = node.path.clone();
            if !faults.is_empty() || !script.is_empty() {
                path.push(Chosen { layer, faults: faults.to_vec(), script, left });
            }
            children.push(Node { run, left: choices.left, path });
        }
    }

    /// One way through a layer.
    fn pass(&self, run: &mut Run, faults: &[Fault], script: Vec<u8>, left: u8) -> Choices {
        let length = self.unit / self.search.layers;
        let end = run.world.now + length;
        run.world.choices = Some(Choices::new(script, left, self.search.fates));
        run.caught(|run| {
            for fault in faults {
                run.world.apply(*fault);
                run.check();
            }
            run.until(end);
        });
        run.world.choices.take().unwrap_or_else(|| Choices::new(Vec::new(), 0, self.search.fates))
    }

    /// What can go wrong now.
    fn faults(&self, world: &World) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (kind, machine) in world.actions() {
            if !self.search.kinds.contains(&kind) {
                continue;
            }
            let moment = [0];
            let lasts = if kind.is_moment() { &moment[..] } else { self.search.lasts };
            for lasts in lasts {
                for detail in self.details(kind, world) {
                    faults.push(Fault { kind, machine, lasts: lasts * self.unit, detail });
                }
            }
        }
        faults
    }

    /// The numbers that make a difference to this kind.
    fn details(&self, kind: Kind, world: &World) -> Vec<u64> {
        match kind {
            Kind::CutPair | Kind::CutOneWay => (0..world.machines.len() as u64 - 1).collect(),
            Kind::StoreClock => vec![0, 7_199],
            Kind::RollBack => vec![self.unit, 8 * self.unit],
            // Every record in each of five ways; a newcomer with data of its own and without.
            Kind::Damage => (0..world.store.keys().len() as u64 * 5).collect(),
            Kind::Join => vec![0, 1],
            Kind::Reconfigure => vec![0, 59],
            Kind::SlowStore => vec![self.unit / 8, self.unit / 3],
            // It ends within the limit, and long after whoever waits has died.
            Kind::SlowDemote => vec![self.unit, 6 * self.unit],
            // Another system, an older timeline, a later one.
            Kind::ForeignToken => vec![0, 1, 2],
            Kind::Stumble => vec![6 * self.unit],
            // To whom it names, and to nobody in particular.
            Kind::OrderSwitchover => vec![0, 5],
            // Without loss, and at any.
            Kind::OrderFailover => vec![0, 8],
            // Less lag and no failback by itself; more, and one soon.
            Kind::ChangeSettings => vec![6, 4],
            // Without an end of its own, and with one.
            Kind::Pause => vec![0, 1],
            _ => vec![0],
        }
    }

    /// The log of a path, from where the search begins.
    fn tell(&self, setups: &[Setup], found: &Found) -> Vec<String> {
        let mut run = self.root(&setups[found.root], true);
        let from = run.world.log.as_ref().map_or(0, Vec::len);
        for layer in 0..found.layer {
            let chosen = found.path.iter().find(|chosen| chosen.layer == layer);
            let script = chosen.map_or(Vec::new(), |chosen| chosen.script.clone());
            let faults = chosen.map_or(&[][..], |chosen| &chosen.faults);
            self.pass(&mut run, faults, script, chosen.map_or(0, |chosen| chosen.left));
        }
        let mut log = run.world.log.take().unwrap_or_default();
        if !self.search.start.founding {
            log.drain(..from.min(log.len()));
        }
        log
    }
}

/// What to read about a violation.
pub(crate) fn explain(
    search: &Search,
    mutant: Option<(Mutant, &'static str)>,
    found: Option<&Found>,
) -> String {
    let Some(found) = found else { return "nothing was found".to_owned() };
    let setups = search.setups(mutant);
    let within = Searching { search, unit: unit(&setups[0].policy) };
    format!(
        "violates {}: {}\n{}\n{search}\nbegan with {:?}\nheartbeat {} of {}, {} faults (what lasts \
         {EVER} heartbeats does not end):\n{}\n",
        found.violation.invariant,
        found.violation.sentence,
        found.violation.text,
        setups[found.root],
        found.layer / search.layers,
        search.first + search.horizon,
        found.faults(),
        within.tell(&setups, found).join("\n")
    )
}
