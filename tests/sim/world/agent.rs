//! An agent's process: the core, and what its driver does around it (`src/runtime/driver.rs`).

use std::collections::BTreeMap;

use harmony_agent::core::event::{
    Effect, Event, Exit, Floor, ReadFailure, Reason, State, StoreWrite, Transition, WatchdogStatus,
    WriteOutcome,
};
use harmony_agent::core::ids::{Epoch, Incarnation, OpId};
use harmony_agent::core::policy::WatchdogMode;
use harmony_agent::core::records::{ClusterState, Record};
use harmony_agent::core::time::Instant;
use harmony_agent::core::{Agent, Identity, header};

use super::acting::Acting;
use super::network::{MOMENT, Reply, Request, What};
use super::told::Told;
use super::watchdog::Keeper;
use super::{Fact, Item, World};
use crate::sim::mutant::Mutant;
use crate::sim::setup::MS;

/// An operation of the store that has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Open {
    Read,
    Write,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Tells it from those before it on this machine.
    pub(crate) life: u32,
    pub(crate) core: Agent,
    pub(crate) frozen: bool,
    pub(crate) deferred: Vec<Item>,
    /// The store's life as it was opened.
    pub(crate) store: Option<Incarnation>,
    pub(crate) open: BTreeMap<OpId, Open>,
    /// Floors on their way to the disk.
    pub(crate) saving: BTreeMap<OpId, Floor>,
    pub(crate) actions: BTreeMap<OpId, Acting>,
    /// What was done in the name of epochs before this one has ended, or is being ended.
    pub(crate) epoch_of_tasks: Epoch,
    /// The action that may touch the database.
    pub(crate) lock: Option<OpId>,
    pub(crate) keeper: Keeper,
    /// The look under way, or due.
    pub(crate) look: u64,
    /// The newest server whose end was reported, or does not have to be.
    pub(crate) mourned: u64,
    /// The server that has answered a question of this agent.
    pub(crate) known: Option<u64>,
    /// Since when the database has not answered.
    pub(crate) silent_since: Option<u64>,
    /// The deadline that is waited for.
    pub(crate) wake: (u64, Option<u64>),
    /// Ticks within one instant.
    pub(crate) ticks: (u64, u32),
    /// What it has read of what a person wants.
    pub(crate) told: Told,
    /// The newest write with which it asked for a lease.
    pub(crate) asked: u64,
    /// How it is to be started again once it has stopped as asked.
    pub(crate) restart_after: u64,
}

/// More ticks than that within a tenth of a second are a circle.
const MANY_TICKS: u32 = 300;

impl World {
    /// Starts the agent, unless it runs, or the machine has no power.
    pub(crate) fn start_agent(&mut self, m: usize) {
        let machine = &self.machines[m];
        if machine.agent.is_some() || !machine.on || machine.held {
            return;
        }
        let now = self.local(m);
        let policy = self.setup.policy_of(m);
        let machine = &mut self.machines[m];
        machine.lives += 1;
        let life = machine.lives;
        let instance = match self.setup.mutant {
            // As when a state directory was copied.
            Some(Mutant::CopiedStateDir) => "instance-copied".parse().unwrap(),
            _ => machine.instance.clone(),
        };
        let id = Identity {
            member: machine.member.clone(),
            boot: format!("boot-{}-{life}", machine.host).parse().unwrap(),
            instance,
            address: machine.address(),
        };
        let forgets = self.setup.mutant == Some(Mutant::FloorForgotten);
        let floor = machine.floor.clone().filter(|_| !forgets);
        let mourned = if machine.db.is_running() { 0 } else { machine.db.server_number };
        machine.agent = Some(Process {
            life,
            core: Agent::new(id, policy, floor, now),
            frozen: false,
            deferred: Vec::new(),
            store: None,
            open: BTreeMap::new(),
            saving: BTreeMap::new(),
            actions: BTreeMap::new(),
            epoch_of_tasks: Epoch(0),
            lock: None,
            keeper: Keeper::default(),
            look: 0,
            mourned,
            known: None,
            silent_since: None,
            wake: (0, None),
            ticks: (0, 0),
            told: Told::default(),
            asked: 0,
            restart_after: 100 * MS,
        });
        let name = self.name(m);
        self.say(format_args!("{name}: agent started (boot {life})"));
        self.feed(m, Event::Watchdog(WatchdogStatus::Down));
        self.later(MOMENT, Item::Look(m, life, 0));
        let connect = self.some(5, 100);
        self.later(connect, Item::Connect(m, life));
        if self.setup.policy.watchdog != WatchdogMode::Off {
            self.keeper_connects(m, MOMENT);
        }
    }

    /// The deadline passed.
    pub(crate) fn wake(&mut self, m: usize, number: u64) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        if agent.wake.0 != number {
            return;
        }
        agent.wake.1 = None;
        let tenth = self.now / (100 * MS);
        if agent.ticks.0 != tenth {
            agent.ticks = (tenth, 0);
        }
        agent.ticks.1 += 1;
        if agent.ticks.1 == MANY_TICKS {
            let why = agent.core.deadline().map_or("", |deadline| deadline.why);
            let state = agent.core.state();
            self.fact(Fact::Storm(m, state, why));
        }
        self.feed(m, Event::Tick);
    }

    /// The clock as the agent reads it.
    fn reading(&self, m: usize) -> Instant {
        let real = self.local(m);
        match self.setup.mutant {
            // A clock that stands still while nobody looks: a tenth of the time goes missing.
            Some(Mutant::ClockTooSlow) if m == 0 => {
                Instant::from_nanos(real.as_nanos() / 10 * 7 + real.as_nanos() % 10)
            }
            _ => real,
        }
    }

    /// An event reaches the agent.
    pub(crate) fn feed(&mut self, m: usize, event: Event) {
        let now = self.reading(m);
        let Some(agent) = &mut self.machines[m].agent else { return };
        let life = agent.life;
        let event = match event {
            Event::Acted(..) => {
                agent.look += 1;
                let number = agent.look;
                if !self.machines[m].db.is_running() {
                    let server = self.machines[m].db.server_number;
                    if let Some(agent) = &mut self.machines[m].agent {
                        agent.mourned = server;
                    }
                }
                self.later(MOMENT, Item::Look(m, life, number));
                event
            }
            other => other,
        };
        let Some(agent) = &mut self.machines[m].agent else { return };
        let recording = self.recordings.as_mut().map(|recordings| &mut recordings[m]);
        let effects = match recording {
            None => agent.core.step(now, event),
            Some(recording) => {
                recording.begin(&agent.core, now);
                let effects = agent.core.step(now, event.clone());
                recording.end(now, &event, &effects);
                effects
            }
        };
        self.steps += 1;
        self.fact(Fact::Stepped);
        for effect in effects {
            if self.machines[m].agent.as_ref().is_none_or(|agent| agent.life != life) {
                return;
            }
            self.start(m, life, effect);
        }
        self.plan_wake(m);
    }

    fn plan_wake(&mut self, m: usize) {
        let clock = self.machines[m].clock.clone();
        let slow = self.setup.mutant == Some(Mutant::ClockTooSlow) && m == 0;
        let circle = self.setup.mutant == Some(Mutant::Circle);
        let Some(agent) = &mut self.machines[m].agent else { return };
        let at = agent.core.deadline().map(|deadline| {
            let at = deadline.at.as_nanos();
            let at = if slow { at / 7 * 10 + 10 } else { at };
            clock.when(Instant::from_nanos(at))
        });
        let at = if circle { Some(0) } else { at };
        if agent.wake.1 == at && !circle {
            return;
        }
        agent.wake = (agent.wake.0 + 1, at);
        let (number, life) = (agent.wake.0, agent.life);
        if let Some(at) = at {
            let late = if circle { 0 } else { self.rng.below(2 * MS) };
            let delay = at.saturating_sub(self.now) + late + 1;
            self.later(delay, Item::Wake(m, life, number));
        }
    }

    fn start(&mut self, m: usize, life: u32, effect: Effect) {
        match effect {
            Effect::Read(op, limit) => self.ask(m, op, What::Read, nanos(limit)),
            Effect::Write(op, write, limit) => self.ask_write(m, op, write, nanos(limit)),
            Effect::Act(op, action, epoch, limit) => self.begin(m, op, action, epoch, nanos(limit)),
            Effect::BeforePromote(op, transition, limit) => {
                self.begin_hook(m, op, &transition, nanos(limit));
            }
            Effect::Cancel(op) => self.cancel(m, op),
            Effect::EpochEnded(epoch) => self.cancel_before(m, epoch),
            Effect::Observe => {
                let Some(agent) = &mut self.machines[m].agent else { return };
                agent.look += 1;
                let number = agent.look;
                self.later(MOMENT, Item::Look(m, life, number));
            }
            Effect::Remember(op, floor) => self.remember(m, life, op, floor),
            Effect::Guard(guard) => {
                self.wish(m, guard);
            }
            Effect::AskPromises(request, peers, _) => self.ask_promises(m, life, &request, &peers),
            Effect::Promise(to, answer) => self.promise(m, to, answer),
            Effect::Became(transition) => {
                let name = self.name(m);
                let to = transition.to.name();
                let (reason, epoch) = (transition.reason, transition.epoch);
                self.say(format_args!("{name}: {to} ({reason}) epoch {epoch}"));
                self.became(m, transition);
            }
            Effect::Report(report) => self.report(m, report, 0),
            Effect::Alarm(alarm) => {
                let name = self.name(m);
                self.say(format_args!("{name}: alarm {alarm}"));
            }
            Effect::Exit(why) => self.exit(m, &why),
        }
    }

    fn became(&mut self, m: usize, mut transition: Transition) {
        match self.setup.mutant {
            Some(Mutant::WrongReason) => transition.reason = Reason::StartFailed,
            Some(Mutant::SaidTwice) => self.fact(Fact::Became(m, transition.clone())),
            Some(Mutant::RenewsWhileFencing) if transition.to == State::PrimaryFailed => {
                if let Some(lease) = self.store.lease().map(|(lease, ..)| Box::new(lease.clone())) {
                    self.fact(Fact::LeaseAsked(m, lease));
                }
            }
            _ => {}
        }
        self.fact(Fact::Became(m, transition));
    }

    fn exit(&mut self, m: usize, why: &Exit) {
        let name = self.name(m);
        self.say(format_args!("{name}: agent exits: {why:?}"));
        let restart = self.machines[m].agent.as_ref().map_or(0, |agent| agent.restart_after);
        self.end_agent(m);
        self.later(restart, Item::StartAgent(m));
    }

    /// The agent's process ends, however that came about.
    pub(crate) fn end_agent(&mut self, m: usize) {
        if self.machines[m].agent.take().is_some() {
            self.agent_gone(m);
        }
    }

    fn ask_write(&mut self, m: usize, op: OpId, write: StoreWrite, limit: u64) {
        let Some(agent) = &self.machines[m].agent else { return };
        let incarnation = agent.store.clone().unwrap_or_else(|| "none".parse().unwrap());
        let header = header(agent.core.identity(), &incarnation, write.number);
        let mut write = write;
        if let Record::Lease(lease) = &mut write.record {
            if self.setup.mutant == Some(Mutant::EpochReused) && lease.seq == 0 {
                lease.epoch = Epoch(lease.epoch.0.saturating_sub(1).max(1));
            }
            let lease = Box::new(lease.clone());
            let acquires = lease.seq == 0 && lease.released.is_none();
            self.fact(Fact::LeaseAsked(m, lease));
            self.decided(m, acquires, write.number);
        }
        if let Record::ClusterState(ClusterState { answer: Some(answer), .. }) = &write.record {
            self.fact(Fact::Answers(m, answer.id.clone()));
        }
        self.ask(m, op, What::Write(write, header), limit);
    }

    /// A write that asks for a lease is decided on when it is sent first.
    fn decided(&mut self, m: usize, acquires: bool, number: u64) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        if acquires && number > agent.asked {
            agent.asked = number;
            self.fact(Fact::Acquires(m));
        }
    }

    fn ask(&mut self, m: usize, op: OpId, what: What, limit: u64) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        let life = agent.life;
        let Some(incarnation) = agent.store.clone() else {
            let cause = "not connected".to_owned();
            let event = match what {
                What::Read => Event::Read(op, Err(ReadFailure::Unavailable(cause))),
                What::Write(..) => {
                    Event::Written(op, WriteOutcome::Unknown { may_land: false, cause })
                }
            };
            self.later(MOMENT, Item::Tell(m, life, Box::new(event)));
            return;
        };
        let open = if matches!(what, What::Read) { Open::Read } else { Open::Write };
        agent.open.insert(op, open);
        // The store's adapter gives up a little before the executor does.
        self.later(limit / 10 * 9, Item::GiveUp(m, life, op));
        let sent = self.local(m);
        let reply = Reply::Usual;
        self.send(Request { from: m, life, op, sent, sent_at: self.now, incarnation, what, reply });
    }

    fn remember(&mut self, m: usize, life: u32, op: OpId, floor: Floor) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        agent.saving.insert(op, floor);
        let delay = self.some(1, 30);
        self.later(delay, Item::DiskDone(m, life, op));
    }

    /// `floor.json` is written and flushed, or is not.
    pub(crate) fn disk_done(&mut self, m: usize, op: OpId) {
        let fails = self.fault_on(m, super::fault::Kind::FloorFails);
        let Some(agent) = &mut self.machines[m].agent else { return };
        let Some(floor) = agent.saving.remove(&op) else { return };
        let lost = self.setup.mutant == Some(Mutant::FloorUnwritten);
        if !fails && !lost {
            let before = self.machines[m].floor.replace(floor);
            self.fact(Fact::FloorWritten(m, before));
        }
        self.feed(m, Event::Remembered(op, !fails));
    }

    /// The agent's state, if it runs.
    pub(crate) fn state(&self, m: usize) -> Option<State> {
        self.machines[m].agent.as_ref().map(|agent| agent.core.state())
    }
}

/// Nanoseconds of a duration.
pub(crate) fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
