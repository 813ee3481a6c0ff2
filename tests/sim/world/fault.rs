//! What can go wrong, as data: `World::actions` lists what can happen now, `World::apply` does it.

use harmony_agent::core::event::{Event, ShutdownMode};
use harmony_agent::core::ids::Epoch;
use harmony_agent::core::policy::WatchdogMode;

use super::database::Server;
pub(crate) use super::kind::{Fault, Kind};
use super::{Fact, Item, World};
use crate::sim::setup::MS;

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
        if kind == Kind::Join {
            // A machine that knows nothing beside a store that knows nothing founds a cluster.
            return self.newcomer().is_some() && !self.lost;
        }
        if kind.is_of_operator() {
            return !again && self.may_operate(kind);
        }
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
            Kind::CrashDb | Kind::KillDb | Kind::HangDb | Kind::LocksOut | Kind::NoConnections => {
                matches!(machine.db.server, Server::Up { .. } | Server::Starting { .. })
            }
            Kind::FailHook | Kind::HangHook => self.setup.policy.before_promote.is_some(),
            Kind::SlowDemote
            | Kind::FailDemote
            | Kind::LoseToken
            | Kind::ForeignToken
            | Kind::RefuseToken => self.setup.policy.demotes,
            Kind::CutPair | Kind::CutOneWay => self.machines.len() > 1,
            // A loss that nobody could know of because nobody had written anything down is beyond
            // any protocol.
            Kind::RollBack | Kind::Wipe => self.machines[..self.setup.members]
                .iter()
                .all(|machine| machine.floor.as_ref().is_some_and(|floor| floor.epoch > Epoch(0))),
            // As with a machine that joins.
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
        let what = self.describe_fault(&fault);
        self.say(format_args!("!! {what}"));
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
            Kind::HintsReplayed => way.hints_again = true,
            Kind::StaleReads => way.stale = Some(self.store.now.clone()),
            Kind::TornReads => way.torn = Some(self.store.now.clone()),
            Kind::CutPair | Kind::CutOneWay => {
                let other = self.other(fault);
                self.net.cut.insert((m, other));
                if fault.kind == Kind::CutPair {
                    self.net.cut.insert((other, m));
                }
            }
            Kind::StoreDown => self.store.up = false,
            Kind::StoreClock => {
                let seconds = i64::try_from(fault.detail % 7_200).unwrap_or(0) - 3_600;
                self.store.clock += seconds * 1_000_000_000;
                self.say(format_args!("store: its clock is set by {seconds} s"));
            }
            Kind::RollBack => {
                let age = fault.detail % self.setup.scaled(60_000);
                self.say(format_args!("store: restored to what it was {} ago", spoken(age)));
                if self.store.roll_back(self.now, age) {
                    self.rolled_back = Some(self.now);
                    self.store_lost();
                }
            }
            Kind::Wipe => {
                self.store.wipe();
                self.store_lost();
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
                let mut policy = self.setup.policy_of(m);
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
            Kind::CrashDb => self.crash_server(m),
            Kind::KillDb => self.kill_server(m),
            Kind::Join => self.join(fault.detail),
            kind if kind.is_of_operator() => self.operate(fault),
            _ => {}
        }
    }

    /// It forgot what it had acknowledged.
    pub(crate) fn store_lost(&mut self) {
        self.lost = true;
        self.spoilt = true;
        self.fact(Fact::StoreLost);
    }

    /// The machine that is not part of the cluster yet.
    pub(crate) fn newcomer(&self) -> Option<usize> {
        (0..self.setup.members).find(|m| !self.machines[*m].joined)
    }

    /// The new machine is switched on. With a `detail` that is a multiple of 8 it brings data along that
    /// belongs to another cluster.
    pub(crate) fn join(&mut self, detail: u64) {
        let Some(m) = self.newcomer() else { return };
        if detail.is_multiple_of(8) {
            self.machines[m].db.data = Some(self.new_data());
        }
        let machine = &mut self.machines[m];
        machine.joined = true;
        machine.on = true;
        machine.held = false;
        self.later(1, Item::StartAgent(m));
    }

    fn other(&self, fault: Fault) -> usize {
        let count = self.machines.len();
        let step = 1 + usize::try_from(fault.detail).unwrap_or(0) % (count - 1);
        (fault.machine + step) % count
    }

    /// A fault for people.
    fn describe_fault(&self, fault: &Fault) -> String {
        let Fault { kind, machine, lasts, .. } = *fault;
        let mut words = format!("{kind:?}");
        if !kind.is_common() {
            words.push_str(&format!(" on {}", self.name(machine)));
        }
        if matches!(kind, Kind::CutPair | Kind::CutOneWay) {
            words.push_str(&format!(" and {}", self.name(self.other(*fault))));
        }
        if !kind.is_moment() && lasts > 0 {
            words.push_str(&format!(" for {}", spoken(lasts)));
        }
        words
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
        let what = self.describe_fault(&Fault { lasts: 0, ..fault });
        self.say(format_args!("!! over: {what}"));
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
            Kind::HintsReplayed => way.hints_again = false,
            Kind::StaleReads => way.stale = None,
            Kind::TornReads => way.torn = None,
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
                let policy = self.setup.policy_of(m);
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
            Kind::Pause => self.pause_is_over(fault),
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

/// Nanoseconds for people.
pub(crate) fn spoken(nanoseconds: u64) -> String {
    match nanoseconds / MS {
        millis if millis % 1_000 == 0 => format!("{} s", millis / 1_000),
        millis => format!("{millis} ms"),
    }
}
