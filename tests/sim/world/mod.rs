//! A cluster as plain data: store, network, machines with their clocks, agents, watchdogs and
//! databases, and a queue of what is on its way. The agents are the real core.
//!
//! ```text
//!   queue ──► World::advance ──► store · network · database · watchdog
//!     ▲            │                          │
//!     └────────────┴── agent (real core) ◄────┘      facts ──► invariants
//! ```
//!
//! No IO, no threads, no clock but `World::now`, no order but the queue's. Whatever a process does is
//! an item of the queue addressed to it; a process that is frozen, or whose machine is suspended,
//! gets its items when it goes on, and a dead one never.

pub(crate) mod acting;
pub(crate) mod agent;
pub(crate) mod client;
mod damage;
pub(crate) mod database;
pub(crate) mod demotion;
pub(crate) mod fault;
pub(crate) mod heal;
pub(crate) mod history;
mod hook;
mod journal;
mod kind;
pub(crate) mod look;
pub(crate) mod machine;
pub(crate) mod messages;
pub(crate) mod network;
pub(crate) mod operator;
pub(crate) mod steps;
pub(crate) mod store;
pub(crate) mod told;
pub(crate) mod watchdog;

use std::collections::BTreeMap;
use std::fmt::Arguments;

use harmony_agent::core::event::{Action, Event, Floor, Observation, State, Transition};
use harmony_agent::core::ids::{Epoch, OpId, Revision};
use harmony_agent::core::journal::Report;
use harmony_agent::core::promise::{PromiseAnswer, PromiseRequest};
use harmony_agent::core::records::{Invalid, Key, Lease};
use harmony_agent::core::time::Instant;
use harmony_agent::core::token::Token;

use super::model::fate::Choices;
use super::recorded::Recording;
use super::rng::Rng;
use super::setup::Setup;
use database::ServerEvent;
use demotion::Given;
use fault::Fault;
use history::{Branches, Place};
use journal::Draft;
use machine::Machine;
use network::{Answer, MOMENT, Network, Request};
use operator::Wanted;
use store::Store;
use watchdog::{Hears, Order};

/// Something on its way, addressed to a machine, to a process on it (by its number), or to the world.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Item {
    /// The agent's deadline; the number tells one that was moved.
    Wake(usize, u32, u64),
    /// Something the agent's own tasks report.
    Tell(usize, u32, Box<Event>),
    Connect(usize, u32),
    Hint(usize, u32),
    Answer(usize, u32, OpId, Box<Answer>),
    GiveUp(usize, u32, OpId),
    Look(usize, u32, u64),
    Looked(usize, u32, u64, Box<Observation>),
    Act(usize, u32, OpId),
    Died(usize, u32, u64),
    DiskDone(usize, u32, OpId),
    /// The `before_promote` hook of an epoch ends, well or not.
    HookEnds(usize, u32, OpId, Epoch, bool),
    Keeper(usize, u32),
    KeeperHears(usize, u32, Hears),
    Dog(usize, u32),
    DogHears(usize, u32, u32, Order),
    Server(usize, u64, ServerEvent),
    Request(Box<Request>),
    /// An agent is asked for a promise.
    Asked(usize, u32, u64, Box<PromiseRequest>),
    Client(usize),
    Stream(usize),
    /// A server, by its number, hears from a standby how far that has flushed.
    Flushed(usize, u64, usize, Place),
    StartAgent(usize),
    StartDog(usize, u32),
    BackUp,
    /// What an operator writes arrives at the store.
    Operator(Box<Wanted>),
    /// The agent tries to write a report, so many times before.
    Report(usize, u32, Box<Report>, u32),
    /// The write arrives at the store.
    Reported(usize, u32, Box<Draft>),
    End(u64),
}

/// Something that the invariants are about.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// The agent took in an event.
    Stepped,
    /// It reported a transition; so many in one step.
    Became(usize, Transition),
    /// A write to the lease was applied.
    LeaseWritten(Box<LeaseWritten>),
    /// The agent asked for a write to the lease.
    LeaseAsked(usize, Box<Lease>),
    /// The agent decided to ask for the lease: when it asks anew, not when it asks again.
    Acquires(usize),
    /// It asked for an answer to an order, by its id, to be written.
    Answers(usize, String),
    /// A write to any record was applied.
    Written(Box<Written>),
    /// What makes a database writable is about to be done to it.
    Opening(usize, Action, Epoch),
    /// The hook that a promotion in this epoch waits for ended: whether well.
    HookEnded(usize, Epoch, bool),
    /// A database was promoted with this token.
    TokenUsed(Token),
    /// A server came up, or was promoted, as a primary.
    Opened(usize),
    /// A client got its answer: the machine and where its commit is.
    Acknowledged(usize, Place),
    /// An action begins although the core has not been told the end of that other one.
    Overlaps(usize, &'static str, &'static str),
    /// A fence is reported as proven while that other action goes on.
    FencedBeside(usize, &'static str),
    /// `floor.json` was written; what it said before.
    FloorWritten(usize, Option<Floor>),
    /// A standby begins to write where its log is not its upstream's.
    Diverged(usize, usize),
    /// The store lost what it had acknowledged.
    StoreLost,
    /// A report was written into the journal; the one it replaced.
    Reported(Box<Report>, Option<Box<Report>>),
    /// Somebody wrote garbage over the lease.
    LeaseDamaged,
    /// A holder asks for promises.
    Asks(Box<Asks>),
    /// An agent promises: the machine and its answer.
    Promised(usize, PromiseAnswer),
    /// The agent asks for ticks in a circle.
    Storm(usize, State, &'static str),
}

/// A holder that asks for promises.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    pub(crate) by: usize,
    /// When, by that machine's clock.
    pub(crate) sent: Instant,
    pub(crate) request: PromiseRequest,
}

/// An applied write to any record.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// The machine, or else the operator.
    pub(crate) by: Option<usize>,
    pub(crate) key: Key,
    /// The revision it was decided on.
    pub(crate) expected: Option<Revision>,
    /// The revision it replaced, and the one it has.
    pub(crate) revisions: (Option<Revision>, Revision),
}

/// An applied write to the lease.
#[derive(Clone, Debug)]
pub(crate) struct LeaseWritten {
    /// The machine that wrote it.
    pub(crate) by: usize,
    /// When it was sent, by that machine's clock.
    pub(crate) sent: Instant,
    /// The same in true time.
    pub(crate) sent_at: u64,
    /// The revision it was decided on.
    pub(crate) expected: Option<Revision>,
    /// What was there before.
    pub(crate) before: Option<Lease>,
    /// Why what was there before was not to be obeyed, when it was not.
    pub(crate) bad: Option<Invalid>,
    /// What is there now.
    pub(crate) lease: Lease,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// True time, in nanoseconds.
    pub(crate) now: u64,
    pub(crate) setup: Setup,
    pub(crate) store: Store,
    pub(crate) net: Network,
    pub(crate) machines: Vec<Machine>,
    pub(crate) branches: Branches,
    /// Every token that was given out.
    pub(crate) tokens: Vec<Given>,
    /// Acknowledged commits, when there is a log to tell of them.
    pub(crate) acknowledged: Vec<Place>,
    /// The latest acknowledged commit: by whom, when.
    pub(crate) latest: Option<(usize, u64)>,
    /// What happened in the latest step.
    pub(crate) facts: Vec<Fact>,
    /// Steps of all cores so far.
    pub(crate) steps: u64,
    /// Lines for people, when they are wanted.
    pub(crate) log: Option<Vec<String>>,
    /// What every machine's agents are told and ask for, when it is wanted.
    pub(crate) recordings: Option<Vec<Recording>>,
    /// Renewals and rounds of promises are left out of it.
    pub(crate) brief: bool,
    /// Faults that have not ended.
    pub(crate) faults: BTreeMap<u64, Fault>,
    pub(crate) next_fault: u64,
    /// What an operator has written so far.
    pub(crate) next_order: u64,
    /// The agent with another's name held the lease: which of the two goes is for an operator to say.
    pub(crate) usurped: bool,
    /// The store lost something that it had acknowledged.
    pub(crate) lost: bool,
    /// The same, or the lease or `cluster_state` was overwritten: only an operator may be able to mend it.
    pub(crate) spoilt: bool,
    /// When the store was last restored from a backup.
    pub(crate) rolled_back: Option<u64>,
    pub(crate) rng: Rng,
    /// What becomes of messages, when a search decides it.
    pub(crate) choices: Option<Choices>,
    pub(crate) queue: BTreeMap<(u64, u64), Item>,
    pub(crate) next_item: u64,
}

/// Whom an item is for.
enum Target {
    Agent(usize, u32),
    Dog(usize, u32),
    Machine(usize),
    World,
}

impl Item {
    fn target(&self) -> Target {
        match self {
            Self::Wake(m, life, _)
            | Self::Tell(m, life, _)
            | Self::Connect(m, life)
            | Self::Hint(m, life)
            | Self::Answer(m, life, ..)
            | Self::GiveUp(m, life, _)
            | Self::Look(m, life, _)
            | Self::Looked(m, life, ..)
            | Self::Act(m, life, _)
            | Self::Died(m, life, _)
            | Self::Asked(m, life, ..)
            | Self::Report(m, life, ..)
            | Self::DiskDone(m, life, _)
            | Self::HookEnds(m, life, ..)
            | Self::Keeper(m, life)
            | Self::KeeperHears(m, life, _) => Target::Agent(*m, *life),
            Self::Dog(m, dog) | Self::DogHears(m, dog, ..) => Target::Dog(*m, *dog),
            Self::Server(m, ..)
            | Self::Flushed(m, ..)
            | Self::StartAgent(m)
            | Self::StartDog(m, _) => Target::Machine(*m),
            Self::Request(_)
            | Self::Client(_)
            | Self::Stream(_)
            | Self::BackUp
            | Self::Operator(_)
            | Self::Reported(..)
            | Self::End(_) => Target::World,
        }
    }
}

impl World {
    /// The world of a setup, with nothing but machines and an empty store.
    pub(crate) fn new(setup: Setup, logged: bool) -> Self {
        let count = setup.members + usize::from(setup.twin);
        let mut rng = match &setup.terms {
            Some(terms) => Rng::paced(terms.pace),
            None => Rng::new(setup.seed),
        };
        let machines = (0..count).map(|at| Machine::new(at, setup.members, &mut rng)).collect();
        let mut world = Self {
            now: 0,
            store: Store::new(),
            net: Network::new(count),
            machines,
            branches: Branches::default(),
            tokens: Vec::new(),
            acknowledged: Vec::new(),
            latest: None,
            facts: Vec::new(),
            steps: 0,
            log: logged.then(Vec::new),
            recordings: None,
            brief: false,
            faults: BTreeMap::new(),
            next_fault: 0,
            next_order: 0,
            usurped: false,
            lost: false,
            spoilt: false,
            rolled_back: None,
            rng,
            choices: None,
            queue: BTreeMap::new(),
            next_item: 0,
            setup,
        };
        for m in 0..count {
            let drawn = world.rng.below(world.setup.scaled(2_000));
            let begin = world.setup.terms.as_ref().map_or(drawn, |terms| terms.begin(m));
            if let Some(terms) = &world.setup.terms {
                world.machines[m].clock = terms.clock(m);
            }
            if world.setup.late && m + 1 == world.setup.members {
                let machine = &mut world.machines[m];
                (machine.joined, machine.on, machine.held) = (false, false, true);
            } else if m < world.setup.members {
                world.later(begin, Item::StartAgent(m));
            }
            world.later(0, Item::Client(m));
            world.later(0, Item::Stream(m));
        }
        if world.setup.terms.is_none() || world.setup.store_loses {
            world.later(0, Item::BackUp);
        }
        world
    }

    /// Puts something on its way, to arrive after `delay` nanoseconds.
    pub(crate) fn later(&mut self, delay: u64, item: Item) {
        self.next_item += 1;
        self.queue.insert((self.now + delay, self.next_item), item);
    }

    /// A time between two numbers of milliseconds of the standard profile, scaled to this one.
    pub(crate) fn some(&mut self, from: u64, to: u64) -> u64 {
        let (from, to) = (self.setup.scaled(from), self.setup.scaled(to));
        self.rng.range(from, to)
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next thing happens. False when there is nothing.
    pub(crate) fn advance(&mut self) -> bool {
        let Some(((at, _), item)) = self.queue.pop_first() else { return false };
        self.now = self.now.max(at);
        match item.target() {
            Target::Agent(m, life) => {
                let machine = &mut self.machines[m];
                let Some(agent) = machine.agent.as_mut().filter(|agent| agent.life == life) else {
                    return true;
                };
                if agent.frozen || machine.suspended {
                    agent.deferred.push(item);
                    return true;
                }
            }
            Target::Dog(m, number) => {
                let machine = &mut self.machines[m];
                let Some(dog) = machine.dog.as_mut().filter(|dog| dog.number == number) else {
                    return true;
                };
                if dog.frozen || machine.suspended {
                    dog.deferred.push(item);
                    return true;
                }
            }
            Target::Machine(m) => {
                let machine = &mut self.machines[m];
                if machine.suspended {
                    machine.deferred.push(item);
                    return true;
                }
            }
            Target::World => {}
        }
        self.dispatch(item);
        true
    }

    fn dispatch(&mut self, item: Item) {
        match item {
            Item::Wake(m, _, number) => self.wake(m, number),
            Item::Tell(m, _, event) => self.feed(m, *event),
            Item::Connect(m, _) => self.connect(m),
            Item::Hint(m, _) => self.feed(m, Event::Changed),
            Item::Answer(m, _, op, answer) => self.answer(m, op, *answer),
            Item::GiveUp(m, _, op) => self.give_up(m, op),
            Item::Look(m, _, number) => self.look(m, number),
            Item::Looked(m, _, number, seen) => self.looked(m, number, *seen),
            Item::Act(m, _, op) => self.act_on(m, op),
            Item::Died(m, _, server) => self.hear_of_death(m, server),
            Item::DiskDone(m, _, op) => self.disk_done(m, op),
            Item::HookEnds(m, _, op, epoch, well) => self.hook_ends(m, op, epoch, well),
            Item::Keeper(m, _) => self.keeper_quiet(m),
            Item::KeeperHears(m, _, what) => self.keeper_hears(m, what),
            Item::Dog(m, _) => self.dog_looks(m),
            Item::DogHears(m, _, life, order) => self.dog_hears(m, life, order),
            Item::Server(m, server, event) => self.server_event(m, server, event),
            Item::Asked(m, _, from, request) => self.feed(m, Event::PromiseAsked(from, *request)),
            Item::Request(request) => self.request_arrives(*request),
            Item::Client(m) => self.client(m),
            Item::Stream(m) => self.stream(m),
            Item::Flushed(m, server, by, place) => self.hears_of_flush(m, server, by, place),
            Item::StartAgent(m) => self.start_agent(m),
            Item::StartDog(m, life) => self.start_dog(m, life),
            Item::BackUp => {
                self.store.back_up(self.now);
                let pause = self.some(2_000, 2_000);
                self.later(pause, Item::BackUp);
            }
            Item::Operator(wanted) => self.operator_writes(*wanted),
            Item::Report(m, _, report, tries) => self.report(m, report, tries),
            Item::Reported(m, life, draft) => self.reported(m, life, *draft),
            Item::End(number) => self.end_fault(number),
        }
    }

    /// What a process missed while it stood still arrives at once.
    pub(crate) fn catch_up(&mut self, mut missed: Vec<Item>) {
        // Whoever comes back finds all of it waiting and takes it in whatever order.
        let chosen = self.choose_order(3);
        if self.rng.chance(50) || chosen == 1 {
            missed.sort_by_key(|item| matches!(item, Item::Wake(..) | Item::GiveUp(..)));
        } else if self.rng.chance(50) || chosen == 2 {
            missed.sort_by_key(|item| !matches!(item, Item::Wake(..) | Item::GiveUp(..)));
        }
        let mut delay = 0;
        for item in missed {
            delay += self.rng.below(MOMENT / 8);
            self.later(delay, item);
        }
    }

    // ---- time

    /// A machine's clock.
    pub(crate) fn local(&self, m: usize) -> Instant {
        self.machines[m].clock.at(self.now)
    }

    // ---- what is told

    pub(crate) fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// A line for people.
    pub(crate) fn say(&mut self, what: Arguments<'_>) {
        let (seconds, millis) = (self.now / 1_000_000_000, self.now / 1_000_000 % 1_000);
        if let Some(lines) = &mut self.log {
            lines.push(format!("t={seconds}.{millis:03} {what}"));
        }
    }

    pub(crate) fn name(&self, m: usize) -> String {
        self.machines[m].host.clone()
    }
}
