//! What the agent sees when it looks at its database (`src/database/local/observe.rs`).

use harmony_agent::core::event::{Condition, Event, Observation, Process};
use harmony_agent::core::ids::{Lsn, TimelineId};
use harmony_agent::core::synchronous::Requirement;

use super::agent::nanos;
use super::database::{Data, Server};
use super::fault::Kind;
use super::machine::Machine;
use super::{Item, World};
use crate::sim::mutant::Mutant;
use crate::sim::setup::MS;

fn blank(process: Process, condition: Condition) -> Observation {
    Observation {
        process,
        condition,
        system: None,
        timeline: TimelineId(0),
        lsn: Lsn(0),
        replayed: Lsn(0),
        streaming: false,
        upstream: None,
        required: false,
        deputy_of: None,
        hindered: None,
        doubtful: None,
        standbys: Vec::new(),
    }
}

impl World {
    /// A look begins.
    pub(crate) fn look(&mut self, m: usize, number: u64) {
        let hung = self.fault_on(m, Kind::HangDb) && self.machines[m].db.is_running();
        let now = self.now;
        let Some(agent) = &self.machines[m].agent else { return };
        if agent.look != number {
            return;
        }
        let life = agent.life;
        let refuses = self.refuses(m).is_some();
        let db = &self.machines[m].db;
        let answers = matches!(db.server, Server::Up { .. }) && !hung && !refuses;
        let server = db.server_number;
        let Some(agent) = &mut self.machines[m].agent else { return };
        if answers {
            agent.known = Some(server);
        }
        let mut silent = 0;
        if hung {
            silent = now - *agent.silent_since.get_or_insert(now);
        } else {
            agent.silent_since = None;
        }
        let told = self.machines[m].db.requirement.1.as_ref();
        let required = told.is_some_and(|it| *it != Requirement::Nobody);
        let seen = Observation { required, ..self.observation(m, hung.then_some(silent)) };
        let took = if hung { 1_000 * MS } else { self.some(2, 20) };
        self.later(took, Item::Looked(m, life, number, Box::new(seen)));
    }

    /// A look ended.
    pub(crate) fn looked(&mut self, m: usize, number: u64, seen: Observation) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        if agent.look != number {
            return;
        }
        agent.look += 1;
        let (next, life) = (agent.look, agent.life);
        let pause = nanos(agent.core.policy().heartbeat_interval);
        self.later(pause, Item::Look(m, life, next));
        self.feed(m, Event::Observed(seen));
    }

    /// What there is to see. `silent`: the server has not answered for so long.
    fn observation(&self, m: usize, silent: Option<u64>) -> Observation {
        let db = &self.machines[m].db;
        let Some(data) = &db.data else { return blank(Process::Absent, Condition::Stopped) };
        let full = self.fault_on(m, Kind::FillDisk);
        let (standby, condition) = match db.server {
            Server::Down => return self.at_rest(m, data),
            Server::Remnants { .. } => return blank(Process::Remnants, Condition::Stopping),
            Server::Starting { .. } => return blank(Process::Running, Condition::Starting),
            Server::Stopping { standby } => (standby, Condition::Stopping),
            Server::Up { standby } if full && !standby => {
                (standby, Condition::DiskFull("no space".to_owned()))
            }
            Server::Up { standby } => (standby, Condition::Ok),
        };
        let condition = match silent {
            None => condition,
            Some(silent) if silent >= self.setup.scaled(10_000) => {
                Condition::Hung("no answer".to_owned())
            }
            Some(_) => Condition::Slow,
        };
        let process = if standby { Process::RunningStandby } else { Process::RunningPrimary };
        let refuses = match (db.server, silent) {
            (Server::Up { .. }, None) => self.refuses(m),
            _ => None,
        };
        let known = self.machines[m].agent.as_ref().and_then(|agent| agent.known);
        let condition = match (refuses, known == Some(db.server_number)) {
            (None, _) => condition,
            // What it said last counts on.
            (Some(why), true) => why,
            // What the control file knows.
            (Some(why), false) => {
                let lsn = Lsn(data.checkpoint);
                return Observation {
                    system: Some(data.system),
                    timeline: TimelineId(self.branches.get(data.place.branch).number),
                    lsn,
                    replayed: lsn,
                    ..blank(process, why)
                };
            }
        };
        let lsn = self.seen_lsn(data.place.lsn, standby);
        Observation {
            system: Some(data.system),
            timeline: TimelineId(self.branches.get(data.place.branch).number),
            lsn,
            replayed: lsn,
            streaming: standby && db.streaming.is_some(),
            upstream: data.upstream.filter(|_| standby).map(|up| (self.name(up), 5432)),
            deputy_of: None,
            hindered: None,
            doubtful: None,
            standbys: if standby { Vec::new() } else { self.attached(m) },
            ..blank(process, condition)
        }
    }

    /// What a primary's senders say of the standbys that are there.
    fn attached(&self, m: usize) -> Vec<(String, Lsn)> {
        let there = self.machines.iter().filter(|machine| machine.db.streaming == Some(m));
        if self.setup.is_managed() {
            let flushed = &self.machines[m].db.flushed;
            let there = flushed.iter().map(|(other, place)| (&self.machines[*other], place));
            let there = there.filter(|(machine, _)| machine.db.streaming == Some(m));
            return there.map(|(it, place)| (it.member.to_string(), Lsn(place.lsn))).collect();
        }
        let flushed = |machine: &Machine| {
            let data = machine.db.data.as_ref()?;
            Some((machine.member.to_string(), self.seen_lsn(data.place.lsn, true)))
        };
        there.filter_map(flushed).collect()
    }

    /// Why the agent gets no connection, when it gets none.
    pub(crate) fn refuses(&self, m: usize) -> Option<Condition> {
        if self.fault_on(m, Kind::LocksOut) {
            return Some(Condition::Denied("no entry in pg_hba.conf".to_owned()));
        }
        self.fault_on(m, Kind::NoConnections).then_some(Condition::ConnectionsExhausted)
    }

    fn seen_lsn(&self, lsn: u64, standby: bool) -> Lsn {
        match self.setup.mutant {
            Some(Mutant::LagHidden) if standby => Lsn(lsn + (64 << 20)),
            _ => Lsn(lsn),
        }
    }

    fn at_rest(&self, m: usize, data: &Data) -> Observation {
        let standby = data.standby_signal || data.recovery;
        let process = if standby { Process::StoppedStandby } else { Process::StoppedPrimary };
        let full = self.fault_on(m, Kind::FillDisk) && !data.clean;
        let condition = match (full, self.machines[m].db.broken) {
            (true, _) => Condition::DiskFull("no space".to_owned()),
            (false, true) => Condition::Broken("the last start failed".to_owned()),
            (false, false) => Condition::Stopped,
        };
        let lsn = Lsn(if data.clean || standby { data.place.lsn } else { data.checkpoint });
        Observation {
            system: Some(data.system),
            timeline: TimelineId(self.branches.get(data.place.branch).number),
            lsn,
            replayed: lsn,
            ..blank(process, condition)
        }
    }
}
