//! Whole clusters over one store in virtual time: smoke, not a search.

use std::collections::VecDeque;

use super::bench::*;
use crate::core::agent::Agent;
use crate::core::event::{
    Action, ActionOutcome, Done, Effect, Event, Guard, Observation, Process, ReadFailure,
    ShutdownMode, State,
};
use crate::core::hook::HookOutcome;
use crate::core::ids::MemberId;
use crate::core::promise::PromiseRequest;
use crate::core::records::Address;
use crate::core::shared::Identity;
use crate::core::time::Instant;

struct Node {
    id: Identity,
    agent: Option<Agent>,
    process: Process,
    upstream: Option<(String, u16)>,
    /// When the watchdog kills.
    guard: Option<Instant>,
    frozen: bool,
    cut_off: bool,
    /// It gets no messages of other agents.
    mute: bool,
    queue: VecDeque<Event>,
}

impl Node {
    fn observation(&self) -> Observation {
        Observation { upstream: self.upstream.clone(), ..seen(self.process) }
    }

    fn act(&mut self, action: &Action) -> ActionOutcome {
        match action {
            Action::Bootstrap => self.process = Process::StoppedPrimary,
            Action::Clone { upstream } | Action::Rejoin { upstream } => {
                self.process = Process::RunningStandby;
                self.upstream = Some((upstream.address.host.clone(), upstream.address.port));
            }
            Action::Follow { upstream } => {
                self.process = Process::RunningStandby;
                self.upstream =
                    upstream.as_ref().map(|up| (up.address.host.clone(), up.address.port));
            }
            Action::StartPrimary | Action::Promote | Action::PromoteWith { .. } => {
                self.process = Process::RunningPrimary
            }
            Action::Demote { to } => {
                self.process = Process::RunningStandby;
                self.upstream = Some((to.address.host.clone(), to.address.port));
                return ActionOutcome::Applied(Done::Demoted { token: None });
            }
            Action::Require { .. } | Action::Checkpoint => {}
            Action::Fence { .. } => {
                self.process = match self.process {
                    Process::RunningStandby => Process::StoppedStandby,
                    Process::Absent => Process::Absent,
                    _ => Process::StoppedPrimary,
                };
                return fenced();
            }
        }
        ActionOutcome::Applied(Done::Done)
    }
}

struct Cluster {
    now: Instant,
    store: Store,
    nodes: Vec<Node>,
    boots: u32,
}

impl Cluster {
    fn new(names: &[&str]) -> Self {
        let node = |name: &&str| Node {
            id: identity(name, 1),
            agent: None,
            process: Process::Absent,
            upstream: None,
            guard: None,
            frozen: false,
            cut_off: false,
            mute: false,
            queue: VecDeque::new(),
        };
        let now = Instant::from_millis(1_000_000);
        let nodes = names.iter().map(node).collect();
        let mut cluster = Self { now, store: Store::new(), nodes, boots: 1 };
        for i in 0..names.len() {
            cluster.start(i);
            cluster.run(30);
        }
        assert_eq!(cluster.states(), expected(names.len()));
        cluster
    }

    fn start(&mut self, i: usize) {
        self.boots += 1;
        let id = identity(self.nodes[i].id.member.as_str(), self.boots);
        let node = &mut self.nodes[i];
        node.agent = Some(Agent::new(id.clone(), policy(), None, self.now));
        node.id = id;
        node.queue = VecDeque::from([Event::Tick, Event::Observed(node.observation())]);
    }

    fn states(&self) -> Vec<State> {
        self.nodes.iter().filter_map(|node| Some(node.agent.as_ref()?.state())).collect()
    }

    fn primary(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.process == Process::RunningPrimary)
    }

    /// Lets `seconds` pass; at every step at most one database is writable.
    fn run(&mut self, seconds_to_run: u64) {
        let end = self.now + seconds(seconds_to_run);
        let mut steps = 0;
        while self.now < end {
            steps += 1;
            assert!(steps < 200_000, "{:?}", self.states());
            if !self.deliver() {
                self.wait(end);
            }
            let writable =
                self.nodes.iter().filter(|node| node.process == Process::RunningPrimary).count();
            assert!(writable <= 1, "{:?} at {}", self.states(), self.now);
        }
    }

    fn deliver(&mut self) -> bool {
        let ready = |node: &Node| node.agent.is_some() && !node.frozen && !node.queue.is_empty();
        let Some(i) = self.nodes.iter().position(ready) else { return false };
        let Some(event) = self.nodes[i].queue.pop_front() else { return false };
        let Some(mut agent) = self.nodes[i].agent.take() else { return false };
        let effects = agent.step(self.now, event);
        self.nodes[i].agent = Some(agent);
        for effect in effects {
            self.perform(i, effect);
        }
        true
    }

    /// Messages between agents need no store.
    fn ask(&mut self, i: usize, request: &PromiseRequest, peers: &[(MemberId, Address)]) {
        for node in &mut self.nodes {
            if !node.mute && peers.iter().any(|(member, _)| *member == node.id.member) {
                let asker = u64::try_from(i).unwrap();
                node.queue.push_back(Event::PromiseAsked(asker, request.clone()));
            }
        }
    }

    fn perform(&mut self, i: usize, effect: Effect) {
        let node = &mut self.nodes[i];
        let answer = match effect {
            Effect::Read(op, _) if node.cut_off => {
                Event::Read(op, Err(ReadFailure::Unavailable("cut off".to_owned())))
            }
            Effect::Read(op, _) => Event::Read(op, Ok(self.store.snapshot())),
            Effect::Write(op, ..) if node.cut_off => Event::Written(op, unknown()),
            Effect::Write(op, write, _) => Event::Written(op, self.store.write(&node.id, &write)),
            Effect::Act(op, action, ..) => Event::Acted(op, node.act(&action)),
            Effect::BeforePromote(op, ..) => Event::HookEnded(op, HookOutcome::Succeeded),
            Effect::Observe => Event::Observed(node.observation()),
            Effect::Remember(op, _) => Event::Remembered(op, true),
            Effect::Guard(Guard::Until(at, _)) => return node.guard = Some(at),
            Effect::Guard(Guard::Released) => return node.guard = None,
            Effect::Exit(_) => return node.agent = None,
            Effect::AskPromises(request, peers, _) => return self.ask(i, &request, &peers),
            Effect::Promise(asker, answer) => {
                let asker = &mut self.nodes[usize::try_from(asker).unwrap()];
                return asker.queue.push_back(Event::PromiseAnswered(answer));
            }
            Effect::Cancel(_)
            | Effect::EpochEnded(_)
            | Effect::Became(_)
            | Effect::Report(_)
            | Effect::Alarm(_) => {
                return;
            }
        };
        node.queue.push_back(answer);
    }

    /// Nothing is under way: time passes until somebody's deadline, a look at the databases, or a
    /// watchdog's.
    fn wait(&mut self, end: Instant) {
        let step = (self.now + seconds(1)).min(end);
        let deadlines = self
            .nodes
            .iter()
            .filter(|node| !node.frozen)
            .filter_map(|node| Some(node.agent.as_ref()?.deadline()?.at));
        let guards = self.nodes.iter().filter_map(|node| node.guard);
        let next = deadlines.chain(guards).chain([step]).min().unwrap_or(step);
        let before = self.now;
        self.now = self.now.max(next) + std::time::Duration::from_nanos(u64::from(next <= before));
        self.store.clock += i64::try_from(self.now.since(before).as_nanos()).unwrap();
        for node in &mut self.nodes {
            if node.guard.is_some_and(|at| at <= self.now) {
                node.guard = None;
                node.process = Process::StoppedPrimary;
                node.queue.push_back(Event::Died);
            }
            if node.agent.as_ref().and_then(Agent::deadline).is_some_and(|d| d.at <= self.now) {
                node.queue.push_back(Event::Tick);
            }
            if self.now == step {
                node.queue.push_back(Event::Observed(node.observation()));
            }
            if node.frozen {
                node.queue.clear();
            }
        }
    }
}

fn expected(count: usize) -> Vec<State> {
    let mut states = vec![State::ReplicaWatching; count];
    states[0] = State::PrimaryHealthy;
    states
}

#[test]
fn a_killed_node_is_replaced_and_comes_back_as_a_standby() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    cluster.nodes[0].agent = None;
    cluster.nodes[0].guard = None;
    cluster.nodes[0].process = Process::StoppedPrimary;
    cluster.run(20);
    assert_eq!(cluster.primary(), Some(1));
    cluster.start(0);
    cluster.run(10);
    assert_eq!(cluster.nodes[0].process, Process::RunningStandby);
    assert_eq!(cluster.nodes[2].upstream, Some(("b".to_owned(), 5432)));
}

#[test]
fn a_killed_database_is_replaced_within_a_second() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.nodes[0].process = Process::StoppedPrimary;
    cluster.nodes[0].queue.push_back(Event::Died);
    cluster.run(2);
    assert_eq!(cluster.primary(), Some(1));
    cluster.run(30);
    assert_eq!(cluster.nodes[0].process, Process::RunningStandby);
}

#[test]
fn a_single_member_restarts_its_database_and_survives_the_store() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.nodes[0].process = Process::StoppedPrimary;
    cluster.nodes[0].queue.push_back(Event::Died);
    cluster.run(3);
    assert_eq!(cluster.primary(), Some(0));
    // Nobody else was admitted: nobody else can take over, and the store is not missed.
    cluster.run(5);
    cluster.nodes[0].cut_off = true;
    for _ in 0..60 {
        cluster.run(1);
        assert_eq!(cluster.primary(), Some(0));
    }
    cluster.nodes[0].cut_off = false;
    cluster.run(5);
    assert_eq!(cluster.primary(), Some(0));
}

#[test]
fn a_restarted_agent_goes_on() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.nodes[0].agent = None;
    cluster.run(2);
    cluster.start(0);
    cluster.run(1);
    assert_eq!(cluster.states()[0], State::PrimaryHealthy);
    cluster.run(30);
    assert_eq!(cluster.primary(), Some(0));
}

#[test]
fn a_hand_over_moves_the_primary() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.nodes[0].queue.push_back(Event::Shutdown(ShutdownMode::HandOver));
    cluster.run(3);
    assert_eq!(cluster.primary(), Some(1));
    assert!(cluster.nodes[0].agent.is_none());
}

#[test]
fn a_frozen_agents_database_is_killed_before_it_is_replaced() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.nodes[0].frozen = true;
    cluster.run(20);
    assert_eq!(cluster.primary(), Some(1));
    cluster.nodes[0].frozen = false;
    cluster.nodes[0].agent = None;
    cluster.start(0);
    cluster.run(30);
    assert_eq!(cluster.nodes[0].process, Process::RunningStandby);
}

#[test]
fn a_store_outage_is_ridden_out_by_promises() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    cluster.run(5);
    for node in &mut cluster.nodes {
        node.cut_off = true;
    }
    for _ in 0..60 {
        cluster.run(1);
        assert_eq!(cluster.primary(), Some(0));
    }
    // One whose agent is gone cannot promise.
    cluster.nodes[2].agent = None;
    cluster.run(30);
    assert_eq!(cluster.primary(), None);
}

#[test]
fn a_store_outage_that_nobody_promises_through_fences_and_heals() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.run(5);
    for node in &mut cluster.nodes {
        node.cut_off = true;
        node.mute = true;
    }
    cluster.run(60);
    assert_eq!(cluster.primary(), None);
    for node in &mut cluster.nodes {
        node.cut_off = false;
    }
    cluster.run(30);
    assert!(cluster.primary().is_some());
}

#[test]
fn the_same_events_give_the_same_cluster() {
    let run = || {
        let mut cluster = Cluster::new(&["a", "b", "c"]);
        cluster.nodes[0].agent = None;
        cluster.nodes[0].process = Process::StoppedPrimary;
        cluster.run(30);
        cluster.nodes.into_iter().map(|node| node.agent).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
