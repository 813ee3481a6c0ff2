//! What can go wrong, as data: `World::actions` lists what can happen now, `World::apply` does it.

use std::fmt;

use harmony_agent::core::event::{Event, ShutdownMode};
use harmony_agent::core::ids::Epoch;
use harmony_agent::core::policy::WatchdogMode;
use harmony_agent::core::records::Key;

use super::database::Server;
use super::{Fact, Item, World};
use crate::sim::setup::MS;

/// What kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    // the agent and its watchdog
    FreezeAgent,
    /// It stands still right before it opens its database.
    Stumble,
    KillAgent,
    StopAgent,
    StopAgentLeaving,
    FreezeDog,
    KillDog,
    NoDog,
    FloorFails,
    SpuriousHint,
    Reconfigure,
    StartTwin,
    // the machine
    Suspend,
    PowerOff,
    // the database
    CrashDb,
    KillDb,
    HangDb,
    FillDisk,
    Stubborn,
    SlowStop,
    SlowStart,
    FailStart,
    SlowPromote,
    FailPromote,
    Lag,
    // the network
    CutFromStore,
    CutToStore,
    CutAnswers,
    SlowStore,
    LateWrites,
    TwiceSent,
    HintsLost,
    StaleReads,
    CutPair,
    CutOneWay,
    // the store
    StoreDown,
    StoreClock,
    RollBack,
    Wipe,
    Damage,
}

/// A fault: of what kind, where, for how long (nanoseconds), and a number that means something to
/// some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) machine: usize,
    pub(crate) lasts: u64,
    pub(crate) detail: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, machine, lasts, detail } = self;
        write!(f, "{kind:?} {machine} for {} ms, {detail}", lasts / MS)
    }
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 40] = [
        Self::FreezeAgent,
        Self::Stumble,
        Self::KillAgent,
        Self::StopAgent,
        Self::StopAgentLeaving,
        Self::FreezeDog,
        Self::KillDog,
        Self::NoDog,
        Self::FloorFails,
        Self::SpuriousHint,
        Self::Reconfigure,
        Self::StartTwin,
        Self::Suspend,
        Self::PowerOff,
        Self::CrashDb,
        Self::KillDb,
        Self::HangDb,
        Self::FillDisk,
        Self::Stubborn,
        Self::SlowStop,
        Self::SlowStart,
        Self::FailStart,
        Self::SlowPromote,
        Self::FailPromote,
        Self::Lag,
        Self::CutFromStore,
        Self::CutToStore,
        Self::CutAnswers,
        Self::SlowStore,
        Self::LateWrites,
        Self::TwiceSent,
        Self::HintsLost,
        Self::StaleReads,
        Self::CutPair,
        Self::CutOneWay,
        Self::StoreDown,
        Self::StoreClock,
        Self::RollBack,
        Self::Wipe,
        Self::Damage,
    ];

    /// It befalls the store, or nobody's machine in particular.
    fn is_common(self) -> bool {
        matches!(
            self,
            Self::StoreDown
                | Self::StoreClock
                | Self::RollBack
                | Self::Wipe
                | Self::Damage
                | Self::StartTwin
        )
    }

    /// It is over as soon as it has happened.
    pub(crate) fn is_moment(self) -> bool {
        matches!(
            self,
            Self::SpuriousHint
                | Self::KillDog
                | Self::CrashDb
                | Self::KillDb
                | Self::StoreClock
                | Self::RollBack
                | Self::Wipe
                | Self::Damage
        )
    }
}

impl World {
    /// A fault of this kind has this machine.
    pub(crate) fn fault_on(&self, m: usize, kind: Kind) -> bool {
        self.faults.values().any(|fault| fault.kind == kind && fault.machine == m)
    }

    /// What can happen now: kinds and machines. How long is the caller's choice.
    pub(crate) fn actions(&self) -> Vec<(Kind, usize)> {
        let mut actions = Vec::new();
        for kind in Kind::ALL {
            let loses = matches!(kind, Kind::RollBack | Kind::Wipe | Kind::Damage);
            if loses && !self.setup.store_loses || kind == Kind::StartTwin && !self.setup.twin {
                continue;
            }
            let machines = if kind.is_common() { 1 } else { self.machines.len() };
            actions.extend((0..machines).filter(|m| self.may(kind, *m)).map(|m| (kind, m)));
        }
        actions
    }

    /// Whether this can happen now.
    pub(crate) fn may(&self, kind: Kind, m: usize) -> bool {
        let machine = &self.machines[m];
        let agent = machine.agent.as_ref().is_some_and(|agent| !agent.frozen);
        let up = machine.on && !machine.suspended;
        let again = !kind.is_moment() && self.fault_on(m, kind);
        if again || !up {
            return false;
        }
        match kind {
            Kind::FreezeAgent
            | Kind::KillAgent
            | Kind::StopAgent
            | Kind::StopAgentLeaving
            | Kind::SpuriousHint
            | Kind::Reconfigure => agent,
            Kind::FreezeDog | Kind::KillDog => machine.dog.as_ref().is_some_and(|dog| !dog.frozen),
            Kind::NoDog => self.setup.policy.watchdog != WatchdogMode::Off,
            Kind::CrashDb | Kind::KillDb | Kind::HangDb => {
                matches!(machine.db.server, Server::Up { .. } | Server::Starting { .. })
            }
            Kind::CutPair | Kind::CutOneWay => self.machines.len() > 1,
            // A loss that nobody could know of because nobody had written anything down is beyond
            // any protocol.
            Kind::RollBack | Kind::Wipe => self.machines[..self.setup.members]
                .iter()
                .all(|machine| machine.floor.as_ref().is_some_and(|floor| floor.epoch > Epoch(0))),
            // A machine that knows nothing beside a store that knows nothing founds a cluster.
            Kind::StartTwin if self.store.lives > 1 => false,
            Kind::StartTwin => {
                self.machines.last().is_some_and(|twin| twin.agent.is_none() && !twin.held)
            }
            // Its end starts the machine's agent: the namesake's is for `StartTwin` to start.
            Kind::PowerOff => m < self.setup.members || machine.lives > 0,
            Kind::StoreDown => self.store.up,
            _ => true,
        }
    }

    /// It happens, if it can.
    pub(crate) fn apply(&mut self, fault: Fault) -> bool {
        if !self.may(fault.kind, fault.machine) {
            return false;
        }
        self.say(format_args!("!! {fault}"));
        if !fault.kind.is_moment() {
            self.next_fault += 1;
            self.faults.insert(self.next_fault, fault);
            self.later(fault.lasts, Item::End(self.next_fault));
        }
        self.begin_fault(fault);
        true
    }

    fn begin_fault(&mut self, fault: Fault) {
        let m = fault.machine;
        let way = &mut self.net.ways[m];
        match fault.kind {
            Kind::CutFromStore => (way.cut_to, way.cut_from) = (true, true),
            Kind::CutToStore => way.cut_to = true,
            Kind::CutAnswers => way.cut_from = true,
            Kind::SlowStore => way.slow = fault.detail % self.setup.scaled(3_000),
            Kind::LateWrites => way.late = true,
            Kind::TwiceSent => way.twice = true,
            Kind::HintsLost => way.hints_lost = true,
            Kind::StaleReads => way.stale = Some(self.store.now.clone()),
            Kind::CutPair | Kind::CutOneWay => {
                let other = self.other(fault);
                self.net.cut.insert((m, other));
                if fault.kind == Kind::CutPair {
                    self.net.cut.insert((other, m));
                }
            }
            Kind::StoreDown => self.store.up = false,
            Kind::StoreClock => {
                let hours = i64::try_from(fault.detail % 7_200).unwrap_or(0) - 3_600;
                self.store.clock += hours * 1_000_000_000;
            }
            Kind::RollBack => {
                let age = fault.detail % self.setup.scaled(60_000);
                if self.store.roll_back(self.now, age) {
                    self.rolled_back = Some(self.now);
                    self.fact(Fact::StoreLost);
                }
            }
            Kind::Wipe => {
                self.store.wipe();
                self.fact(Fact::StoreLost);
            }
            Kind::Damage => self.damage(fault.detail),
            _ => self.begin_local(fault),
        }
    }

    fn begin_local(&mut self, fault: Fault) {
        let m = fault.machine;
        match fault.kind {
            Kind::FreezeAgent => {
                if let Some(agent) = &mut self.machines[m].agent {
                    agent.frozen = true;
                }
            }
            Kind::KillAgent => {
                self.machines[m].held = true;
                self.end_agent(m);
            }
            Kind::StopAgent | Kind::StopAgentLeaving => {
                let mode = match fault.kind {
                    Kind::StopAgent => ShutdownMode::HandOver,
                    _ => ShutdownMode::LeaveRunning,
                };
                if let Some(agent) = &mut self.machines[m].agent {
                    agent.restart_after = 100 * MS + fault.lasts / 4;
                }
                self.feed(m, Event::Shutdown(mode));
            }
            Kind::SpuriousHint => self.feed(m, Event::Changed),
            Kind::Reconfigure => {
                let mut policy = self.setup.policy.clone();
                policy.lease_duration = policy.lease_duration
                    * u32::try_from(100 + fault.detail % 60).unwrap_or(100)
                    / 100;
                self.feed(m, Event::Reconfigured(policy));
            }
            Kind::FreezeDog => {
                if let Some(dog) = &mut self.machines[m].dog {
                    dog.frozen = true;
                }
            }
            Kind::KillDog => self.dog_gone(m),
            Kind::StartTwin => {
                let twin = self.machines.len() - 1;
                self.later(1, Item::StartAgent(twin));
            }
            Kind::Suspend => self.machines[m].suspended = true,
            Kind::PowerOff => self.power_off(m),
            Kind::CrashDb | Kind::KillDb => self.kill_server(m),
            _ => {}
        }
    }

    fn damage(&mut self, detail: u64) {
        // What cluster_state said is an operator's to mend; the others mend themselves.
        let keys: Vec<Key> =
            self.store.keys().into_iter().filter(|key| *key != Key::ClusterState).collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[usize::try_from(detail).unwrap_or(0) % keys.len()].clone();
        if key == Key::Lease {
            self.fact(Fact::LeaseDamaged);
        }
        self.store.damage(self.now, key);
    }

    fn other(&self, fault: Fault) -> usize {
        let count = self.machines.len();
        let step = 1 + usize::try_from(fault.detail).unwrap_or(0) % (count - 1);
        (fault.machine + step) % count
    }

    fn power_off(&mut self, m: usize) {
        self.power_lost(m);
        self.machines[m].dog = None;
        self.end_agent(m);
        self.machines[m].on = false;
    }

    /// A fault ends.
    pub(crate) fn end_fault(&mut self, number: u64) {
        let Some(fault) = self.faults.remove(&number) else { return };
        self.say(format_args!("!! over: {fault}"));
        let m = fault.machine;
        let answers = self.fault_on(m, Kind::CutAnswers) || self.fault_on(m, Kind::CutFromStore);
        let requests = self.fault_on(m, Kind::CutToStore) || self.fault_on(m, Kind::CutFromStore);
        let way = &mut self.net.ways[m];
        match fault.kind {
            Kind::CutFromStore | Kind::CutToStore | Kind::CutAnswers => {
                (way.cut_to, way.cut_from) = (requests, answers);
                self.flush();
            }
            Kind::SlowStore => way.slow = 0,
            Kind::LateWrites => way.late = false,
            Kind::TwiceSent => way.twice = false,
            Kind::HintsLost => way.hints_lost = false,
            Kind::StaleReads => way.stale = None,
            Kind::CutPair | Kind::CutOneWay => {
                let other = self.other(fault);
                self.net.cut.remove(&(m, other));
                self.net.cut.remove(&(other, m));
            }
            Kind::StoreDown => {
                self.store.up = true;
                self.flush();
            }
            _ => self.end_local(fault),
        }
    }

    fn end_local(&mut self, fault: Fault) {
        let m = fault.machine;
        match fault.kind {
            Kind::FreezeAgent => {
                if let Some(agent) = &mut self.machines[m].agent {
                    agent.frozen = false;
                    let missed = std::mem::take(&mut agent.deferred);
                    self.catch_up(missed);
                }
            }
            Kind::KillAgent => {
                self.machines[m].held = false;
                self.later(100 * MS, Item::StartAgent(m));
            }
            Kind::Reconfigure => {
                let policy = self.setup.policy.clone();
                if self.machines[m].agent.as_ref().is_some_and(|agent| !agent.frozen) {
                    self.feed(m, Event::Reconfigured(policy));
                }
            }
            Kind::FreezeDog => {
                if let Some(dog) = &mut self.machines[m].dog {
                    dog.frozen = false;
                    let missed = std::mem::take(&mut dog.deferred);
                    self.catch_up(missed);
                    self.dog_looks(m);
                }
            }
            Kind::StartTwin => self.end_agent(self.machines.len() - 1),
            Kind::Stubborn | Kind::HangDb if self.machines[m].on => self.stop_goes_on(m),
            Kind::Suspend => self.resume(m),
            Kind::PowerOff => {
                let now = self.now;
                self.machines[m].on = true;
                self.machines[m].reboot(now, &mut self.rng);
                let boot = self.some(500, 5_000);
                self.later(boot, Item::StartAgent(m));
            }
            _ => {}
        }
    }

    fn resume(&mut self, m: usize) {
        let machine = &mut self.machines[m];
        machine.suspended = false;
        machine.resumed = self.now;
        let mut missed = Vec::new();
        let processes = std::mem::take(&mut machine.deferred);
        let mut frozen = 0;
        if let Some(agent) = machine.agent.as_mut().filter(|agent| !agent.frozen) {
            missed.append(&mut agent.deferred);
            frozen += 1;
        }
        if let Some(dog) = machine.dog.as_mut().filter(|dog| !dog.frozen) {
            missed.append(&mut dog.deferred);
            frozen += 1;
        }
        for item in processes {
            let delay = self.some(0, 20);
            self.later(delay, item);
        }
        self.catch_up(missed);
        if frozen > 0 {
            self.dog_looks_if_awake(m);
        }
    }

    fn dog_looks_if_awake(&mut self, m: usize) {
        if self.machines[m].dog.as_ref().is_some_and(|dog| !dog.frozen) {
            self.dog_looks(m);
        }
    }
}
