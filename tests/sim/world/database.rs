//! A database: a data directory and the server on it, as `src/database/local` finds and treats them.

use std::collections::BTreeMap;

use harmony_agent::core::ids::SystemId;
use harmony_agent::core::synchronous::Requirement;

use super::demotion::Demoting;
use super::fault::Kind;
use super::history::{Place, Streams};
use super::{Item, World};
use crate::sim::mutant::Mutant;

/// A data directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Data {
    pub(crate) system: SystemId,
    /// Where its log ends.
    pub(crate) place: Place,
    /// A file says that it is to come up as a standby.
    pub(crate) standby_signal: bool,
    /// The control file says that it was last in recovery.
    pub(crate) recovery: bool,
    /// It was shut down cleanly.
    pub(crate) clean: bool,
    /// What the control file says of the end of the log when it was not.
    pub(crate) checkpoint: u64,
    /// The machine it is configured to follow.
    pub(crate) upstream: Option<usize>,
}

/// The server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Server {
    #[default]
    Down,
    /// It does not accept connections yet.
    Starting {
        standby: bool,
    },
    Up {
        standby: bool,
    },
    /// It was told to stop; what runs on it may still commit.
    Stopping {
        standby: bool,
    },
    /// The postmaster is gone; what it started is not and may still commit.
    Remnants {
        standby: bool,
    },
}

/// What a server does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ServerEvent {
    Started,
    StartFailed,
    Stopped {
        clean: bool,
    },
    RemnantsGone,
    Promoted,
    /// Its operator made it a standby.
    Demoted,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    pub(crate) data: Option<Data>,
    pub(crate) server: Server,
    /// Counts the servers started on it.
    pub(crate) server_number: u64,
    pub(crate) promoting: bool,
    /// Fences begun: an action that began before one starts nothing any more.
    pub(crate) fences: u64,
    /// Data set aside lies beside the data directory.
    pub(crate) beside: bool,
    /// Data that is being rewound, or was when that was interrupted.
    pub(crate) rewinding: Option<Data>,
    /// The last start failed.
    pub(crate) broken: bool,
    /// Its standby's receiver works, from this machine.
    pub(crate) streaming: Option<usize>,
    /// Commits that wait for standbys, oldest first.
    pub(crate) waiting: Vec<Place>,
    /// How far standbys say that they have flushed.
    pub(crate) flushed: BTreeMap<usize, Place>,
    /// What commits wait for: in effect, and from the next start on.
    pub(crate) requirement: (Option<Requirement>, Option<Requirement>),
    /// It is being made a standby.
    pub(crate) demoting: Option<Demoting>,
    /// What that last gave out, by its number.
    pub(crate) token: Option<usize>,
    /// What the promotion that runs was begun with.
    pub(crate) promoted_with: Option<usize>,
}

impl Database {
    pub(crate) fn is_running(&self) -> bool {
        self.server != Server::Down
    }

    /// It is on its way to be out of recovery, whatever becomes of whoever asked for it.
    pub(crate) fn becomes_primary(&self) -> bool {
        self.promoting || self.server == Server::Starting { standby: false }
    }

    /// It is out of recovery, however badly it is.
    pub(crate) fn is_primary(&self) -> bool {
        match self.server {
            Server::Down | Server::Starting { .. } => false,
            Server::Up { standby }
            | Server::Stopping { standby }
            | Server::Remnants { standby } => !standby,
        }
    }
}

/// Size of the record with which a clean shutdown ends a log.
const LAST_RECORD: u64 = 120;

impl World {
    /// A commit on it would be acknowledged now.
    pub(crate) fn can_acknowledge(&self, m: usize) -> bool {
        let machine = &self.machines[m];
        machine.on
            && !machine.suspended
            && machine.db.is_primary()
            && !self.fault_on(m, Kind::HangDb)
            && !self.fault_on(m, Kind::FillDisk)
    }

    /// The postmaster is started. The caller has looked whether it may be.
    pub(crate) fn launch(&mut self, m: usize, standby: bool) {
        let fails = self.fault_on(m, Kind::FailStart)
            || self.fault_on(m, Kind::FillDisk)
                && self.machines[m].db.data.as_ref().is_some_and(|data| !data.clean);
        let slow = self.fault_on(m, Kind::SlowStart);
        let db = &mut self.machines[m].db;
        let Some(data) = &mut db.data else { return };
        data.standby_signal = standby;
        db.server = Server::Starting { standby };
        db.requirement.0.clone_from(&db.requirement.1);
        db.server_number += 1;
        db.promoting = false;
        db.broken = false;
        let number = db.server_number;
        let took = if slow { self.some(5_000, 90_000) } else { self.some(50, 800) };
        let event = if fails { ServerEvent::StartFailed } else { ServerEvent::Started };
        self.later(took, Item::Server(m, number, event));
        let (name, what) = (self.name(m), if standby { "standby" } else { "primary" });
        self.say(format_args!("{name}: server starts as {what}"));
    }

    /// The postmaster is told to stop.
    pub(crate) fn stop_server(&mut self, m: usize, fast: bool) {
        let stubborn = self.fault_on(m, Kind::Stubborn);
        let slow = self.fault_on(m, Kind::SlowStop);
        let hung = self.fault_on(m, Kind::HangDb);
        let db = &mut self.machines[m].db;
        let (standby, clean) = match db.server {
            Server::Up { standby } | Server::Stopping { standby } => (standby, fast),
            Server::Starting { standby } => (standby, false),
            Server::Down | Server::Remnants { .. } => return,
        };
        if !matches!(db.server, Server::Starting { .. }) {
            db.server = Server::Stopping { standby };
        }
        let number = db.server_number;
        if stubborn || hung {
            return;
        }
        let took = match (fast, slow) {
            (true, true) => self.some(3_000, 40_000),
            (true, false) => self.some(20, 400),
            (false, _) => self.some(5, 60),
        };
        self.later(took, Item::Server(m, number, ServerEvent::Stopped { clean }));
    }

    /// What kept it from stopping is over.
    pub(crate) fn stop_goes_on(&mut self, m: usize) {
        let db = &self.machines[m].db;
        if matches!(db.server, Server::Stopping { .. }) {
            let (number, took) = (db.server_number, self.some(20, 400));
            let event = ServerEvent::Stopped { clean: true };
            self.later(took, Item::Server(m, number, event));
        }
    }

    /// The postmaster ends without a word; what it started takes a moment longer.
    pub(crate) fn kill_server(&mut self, m: usize) {
        let db = &mut self.machines[m].db;
        let standby = match db.server {
            Server::Down | Server::Remnants { .. } => return,
            // Nothing commits that is not up yet.
            Server::Starting { .. } => true,
            Server::Up { standby } | Server::Stopping { standby } => standby,
        };
        db.server = Server::Remnants { standby };
        db.promoting = false;
        let number = db.server_number;
        self.postmaster_ended(m);
        let took = self.some(1, 50);
        self.later(took, Item::Server(m, number, ServerEvent::RemnantsGone));
    }

    /// All its processes end at once.
    pub(crate) fn crash_server(&mut self, m: usize) {
        self.down(m, false);
        self.postmaster_ended(m);
    }

    fn postmaster_ended(&mut self, m: usize) {
        let number = self.machines[m].db.server_number;
        if let Some(agent) = &self.machines[m].agent {
            let life = agent.life;
            let delay = self.some(1, 5);
            self.later(delay, Item::Died(m, life, number));
        }
    }

    /// The agent hears that the postmaster ended, unless it knows.
    pub(crate) fn hear_of_death(&mut self, m: usize, number: u64) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        if agent.mourned >= number {
            return;
        }
        agent.mourned = number;
        agent.look += 1;
        let (look, life) = (agent.look, agent.life);
        self.later(super::network::MOMENT, Item::Look(m, life, look));
        self.feed(m, harmony_agent::core::event::Event::Died);
    }

    fn down(&mut self, m: usize, clean: bool) {
        let db = &mut self.machines[m].db;
        db.server = Server::Down;
        db.promoting = false;
        db.streaming = None;
        // Their clients never hear of them.
        db.waiting.clear();
        db.flushed.clear();
        if let Some(data) = &mut db.data {
            data.clean = clean;
        }
        let name = self.name(m);
        let how = if clean { "cleanly" } else { "uncleanly" };
        self.say(format_args!("{name}: server is down, {how}"));
    }

    /// The machine lost its power.
    pub(crate) fn power_lost(&mut self, m: usize) {
        if self.machines[m].db.is_running() {
            self.down(m, false);
        }
    }

    pub(crate) fn server_event(&mut self, m: usize, number: u64, event: ServerEvent) {
        if event == ServerEvent::Demoted {
            return self.becomes_standby(m);
        }
        let counts = self.setup.mutant != Some(Mutant::SameTimeline);
        let db = &mut self.machines[m].db;
        if db.server_number != number {
            return;
        }
        match (event, db.server) {
            (ServerEvent::Started, Server::Starting { standby }) => {
                db.server = Server::Up { standby };
                if let Some(data) = &mut db.data {
                    data.recovery = standby;
                    data.clean = false;
                    data.checkpoint = data.place.lsn;
                }
                let (name, what) = (self.name(m), if standby { "standby" } else { "primary" });
                self.say(format_args!("{name}: server is up as {what}"));
                if !standby {
                    self.opened(m);
                }
            }
            (ServerEvent::StartFailed, Server::Starting { .. }) => {
                self.down(m, false);
                self.machines[m].db.broken = true;
                self.postmaster_ended(m);
            }
            (ServerEvent::Stopped { clean }, Server::Stopping { standby }) => {
                if clean && !standby {
                    self.say_goodbye(m);
                }
                self.down(m, clean);
                self.postmaster_ended(m);
            }
            (ServerEvent::Stopped { .. }, Server::Starting { .. }) => {
                self.down(m, false);
                self.postmaster_ended(m);
            }
            (ServerEvent::RemnantsGone, Server::Remnants { .. }) => self.down(m, false),
            (ServerEvent::Promoted, Server::Up { standby: true }) if db.promoting => {
                db.promoting = false;
                db.streaming = None;
                db.server = Server::Up { standby: false };
                if let Some(data) = &mut db.data {
                    data.place = self.branches.fork(data.place, counts);
                    data.recovery = false;
                    data.standby_signal = false;
                    data.checkpoint = data.place.lsn;
                }
                let name = self.name(m);
                self.say(format_args!("{name}: server is promoted, writable"));
                self.spend(m);
                self.opened(m);
            }
            _ => {}
        }
    }

    /// A clean shutdown offers everything to the standbys that are there.
    fn say_goodbye(&mut self, m: usize) {
        let Some(data) = &mut self.machines[m].db.data else { return };
        self.branches.append(&mut data.place, LAST_RECORD, false);
        let place = data.place;
        for standby in 0..self.machines.len() {
            if self.machines[standby].db.streaming == Some(m)
                && !self.fault_on(standby, Kind::Lag)
                && self.hears_goodbye(standby, m)
                && let Some(data) = &mut self.machines[standby].db.data
            {
                data.place = place;
            }
        }
    }

    /// Senders of a server that stops go on until the standby has everything.
    pub(crate) fn hears_goodbye(&self, standby: usize, m: usize) -> bool {
        let (own, source) = (&self.machines[standby], &self.machines[m]);
        let (Some(data), Some(theirs)) = (&own.db.data, &source.db.data) else { return false };
        matches!(source.db.server, Server::Stopping { standby: false })
            && matches!(own.db.server, Server::Up { standby: true })
            && own.on
            && !own.suspended
            && !self.fault_on(standby, Kind::HangDb)
            && !self.fault_on(standby, Kind::FillDisk)
            && self.net.connected(standby, m)
            && self.branches.streams(data.place, theirs.place) == Streams::Yes
    }

    // ---- replication

    /// Whether a server can be asked for its log or its data.
    pub(crate) fn is_source(&self, m: usize, source: usize) -> bool {
        let machine = &self.machines[source];
        self.net.connected(m, source)
            && machine.on
            && !machine.suspended
            && matches!(machine.db.server, Server::Up { .. })
            && !self.fault_on(source, Kind::HangDb)
    }

    /// Whether the standby on `m` would stream from `source` now; `None` when it cannot even ask.
    pub(crate) fn streams_from(&self, m: usize, source: usize) -> Option<Streams> {
        let machine = &self.machines[m];
        let asks = matches!(machine.db.server, Server::Up { standby: true })
            && machine.on
            && !machine.suspended
            && !self.fault_on(m, Kind::HangDb);
        let theirs = self.machines[source].db.data.as_ref();
        let (Some(own), Some(theirs)) = (&machine.db.data, theirs) else { return None };
        (asks && source != m && self.is_source(m, source) && own.system == theirs.system)
            .then(|| self.branches.streams(own.place, theirs.place))
    }
}
