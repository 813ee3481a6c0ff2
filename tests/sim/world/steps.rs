//! What each action does to a database, step by step, as the files of `src/database/local` do it.

use harmony_agent::core::event::{Action, ActionOutcome, Done};
use harmony_agent::core::ids::{Lsn, SystemId, TimelineId};
use harmony_agent::core::synchronous::Requirement;

use super::Item;
use super::World;
use super::acting::{Acting, Flow, Phase, refused, unknown};
use super::database::{Data, Server, ServerEvent};
use super::fault::Kind;
use super::history::{Place, Streams};
use crate::sim::mutant::Mutant;

fn done() -> Flow {
    Flow::Done(ActionOutcome::Applied(Done::Done))
}

impl World {
    fn poll(&self) -> u64 {
        self.setup.scaled(40)
    }

    // ---- making data

    pub(crate) fn bootstrap(&mut self, m: usize, acting: &mut Acting) -> Flow {
        let db = &self.machines[m].db;
        if db.data.is_some() || db.beside || db.rewinding.is_some() {
            return refused("there is a database already: nothing was touched");
        }
        if acting.phase == Phase::Begin {
            let took = self.some(300, 2_000);
            return Flow::Again(Phase::Work, took);
        }
        self.machines[m].db.data = Some(self.new_data());
        done()
    }

    /// What `initdb` makes.
    pub(crate) fn new_data(&mut self) -> Data {
        let place = self.branches.root();
        Data {
            system: SystemId(1_000 + place.branch as u64),
            place,
            standby_signal: false,
            recovery: false,
            clean: true,
            checkpoint: place.lsn,
            upstream: None,
        }
    }

    pub(crate) fn clone_data(&mut self, m: usize, source: usize, acting: &mut Acting) -> Flow {
        match acting.phase {
            Phase::Begin if self.machines[m].db.data.is_some() => {
                refused("there is a data directory already")
            }
            Phase::Begin if !self.is_source(m, source) => refused("the upstream does not answer"),
            Phase::Begin => {
                let took = self.some(500, 6_000);
                Flow::Again(Phase::Work, took)
            }
            Phase::Work => {
                if !self.copy(m, source) {
                    return refused("the copy failed");
                }
                Flow::Again(Phase::Launch, self.poll())
            }
            Phase::Launch => match self.try_launch(m, true, acting.permit) {
                Ok(()) => Flow::Again(Phase::AwaitUp, self.poll()),
                Err(why) => refused(why),
            },
            _ => self.await_up(m, |_| done()),
        }
    }

    /// A base backup becomes the data directory; what was there is set aside.
    fn copy(&mut self, m: usize, source: usize) -> bool {
        if !self.is_source(m, source) || self.fault_on(m, Kind::FillDisk) {
            return false;
        }
        let Some(theirs) = self.machines[source].db.data.clone() else { return false };
        let db = &mut self.machines[m].db;
        db.beside |= db.data.is_some() || db.rewinding.take().is_some();
        db.data = Some(Data {
            standby_signal: true,
            recovery: true,
            clean: false,
            checkpoint: theirs.place.lsn,
            upstream: Some(source),
            ..theirs
        });
        true
    }

    // ---- starting

    /// Starts the stopped server, if no fence began since this action was allowed to.
    fn try_launch(&mut self, m: usize, standby: bool, permit: u64) -> Result<(), &'static str> {
        let db = &self.machines[m].db;
        if db.fences != permit {
            return Err("a fence began after this action: not starting");
        }
        if db.data.is_none() {
            return Err("there is no data directory");
        }
        match db.server {
            Server::Down => {}
            Server::Remnants { .. } => return Err("processes are left: fence first"),
            Server::Starting { .. } | Server::Up { .. } | Server::Stopping { .. } => {
                return Err("the server started before has not ended");
            }
        }
        self.launch(m, standby);
        Ok(())
    }

    /// Waits until the server answers; `up` is told whether it is a standby.
    fn await_up(&mut self, m: usize, up: impl FnOnce(bool) -> Flow) -> Flow {
        match self.machines[m].db.server {
            Server::Up { .. } if self.fault_on(m, Kind::HangDb) => {
                Flow::Again(Phase::AwaitUp, self.poll())
            }
            Server::Up { standby } => up(standby),
            Server::Starting { .. } | Server::Stopping { .. } => {
                Flow::Again(Phase::AwaitUp, self.poll())
            }
            Server::Down | Server::Remnants { .. } => refused("the server has ended"),
        }
    }

    pub(crate) fn follow(&mut self, m: usize, up: Option<usize>, acting: &mut Acting) -> Flow {
        if acting.phase == Phase::AwaitUp {
            return self.await_up(m, |_| done());
        }
        if self.machines[m].db.demoting.is_some() {
            return Flow::Again(Phase::Begin, self.poll());
        }
        let refuses = self.refuses(m).is_some();
        let db = &mut self.machines[m].db;
        let Some(data) = &mut db.data else { return refused("there is no data directory") };
        match db.server {
            Server::Remnants { .. } => refused("processes are left: fence first"),
            Server::Down => {
                data.upstream = up;
                match self.try_launch(m, true, acting.permit) {
                    Ok(()) => Flow::Again(Phase::AwaitUp, self.poll()),
                    Err(why) => refused(why),
                }
            }
            Server::Up { standby: false } => refused("it runs as a primary: fence it first"),
            Server::Up { standby: true } if refuses => refused("it lets nobody in"),
            Server::Up { standby: true } => {
                data.upstream = up;
                Flow::Again(Phase::AwaitUp, self.poll())
            }
            Server::Starting { .. } | Server::Stopping { .. } => {
                Flow::Again(Phase::Begin, self.poll())
            }
        }
    }

    pub(crate) fn start_primary(&mut self, m: usize, acting: &mut Acting) -> Flow {
        match acting.phase {
            Phase::AwaitUp => {
                let recovers = self.machines[m].db.data.as_ref().is_some_and(|data| data.recovery);
                match self.machines[m].db.server {
                    Server::Up { standby: true } if recovers => self.promote(m, acting),
                    _ => self.await_up(m, |_| done()),
                }
            }
            Phase::AwaitPromotion => self.promote(m, acting),
            _ => {
                let Some(data) = &self.machines[m].db.data else {
                    return refused("there is no data directory to start");
                };
                let (standby, signal) = (data.recovery, data.standby_signal);
                let demoting = self.machines[m].db.demoting.is_some();
                match self.machines[m].db.server {
                    Server::Up { standby: false } => done(),
                    Server::Up { standby: true } => refused("a standby is running"),
                    Server::Starting { .. } | Server::Stopping { .. } => {
                        Flow::Again(Phase::Begin, self.poll())
                    }
                    // What makes it writable is a promotion.
                    Server::Down if self.setup.policy.demotes && signal => {
                        refused("it is a standby's")
                    }
                    Server::Down if demoting => refused("it is being made a standby"),
                    Server::Down | Server::Remnants { .. } => {
                        if standby && let Some(data) = &mut self.machines[m].db.data {
                            data.upstream = None;
                        }
                        match self.try_launch(m, standby, acting.permit) {
                            Ok(()) => Flow::Again(Phase::AwaitUp, self.poll()),
                            Err(why) => refused(why),
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn promote(&mut self, m: usize, acting: &mut Acting) -> Flow {
        let fails = self.fault_on(m, Kind::FailPromote);
        let slow = self.fault_on(m, Kind::SlowPromote);
        let hung = self.fault_on(m, Kind::HangDb) || self.refuses(m).is_some();
        let poll = self.setup.scaled(20);
        let number = self.machines[m].db.server_number;
        match (acting.phase, self.machines[m].db.server) {
            (_, Server::Up { standby: false }) => {
                let place = self.machines[m].db.data.as_ref().map(|data| data.place);
                let place = place.unwrap_or(Place { branch: 0, lsn: 0 });
                let timeline = TimelineId(self.branches.get(place.branch).number);
                Flow::Done(ActionOutcome::Applied(Done::Promoted { timeline, lsn: Lsn(place.lsn) }))
            }
            (Phase::AwaitPromotion, Server::Up { standby: true }) => {
                Flow::Again(Phase::AwaitPromotion, poll)
            }
            (Phase::AwaitPromotion, _) => unknown("promotion began, but the server is gone"),
            (_, Server::Up { standby: true }) if !hung => {
                if fails {
                    return refused("cannot promote");
                }
                // From here on it promotes itself, whatever becomes of whoever asked.
                self.machines[m].db.promoting = true;
                let token = match &acting.action {
                    Action::PromoteWith { token } => {
                        self.tokens.iter().position(|given| given.token.value == token.value)
                    }
                    _ => None,
                };
                self.machines[m].db.promoted_with = token;
                let took = if slow { self.some(2_000, 70_000) } else { self.some(10, 250) };
                self.later(took, Item::Server(m, number, ServerEvent::Promoted));
                Flow::Again(Phase::AwaitPromotion, poll)
            }
            (_, _) => refused("cannot promote: it does not answer"),
        }
    }

    pub(crate) fn checkpoint(&mut self, m: usize, acting: &mut Acting) -> Flow {
        if acting.phase == Phase::Begin {
            let up = matches!(self.machines[m].db.server, Server::Up { .. });
            if !up || self.refuses(m).is_some() {
                return refused("it does not answer");
            }
            let took = self.some(10, 3_000);
            return Flow::Again(Phase::Work, took);
        }
        match &mut self.machines[m].db.data {
            Some(data) => data.checkpoint = data.place.lsn,
            None => return refused("there is no data directory"),
        }
        done()
    }

    /// What commits wait for: known on disk at once, to the server's processes by and by.
    pub(crate) fn require(
        &mut self,
        m: usize,
        requirement: Requirement,
        acting: &mut Acting,
    ) -> Flow {
        let up = matches!(self.machines[m].db.server, Server::Up { .. });
        let answers = up && !self.fault_on(m, Kind::HangDb) && self.refuses(m).is_none();
        if self.setup.mutant == Some(Mutant::RequirementLies) {
            return self.requires(m);
        }
        if acting.phase == Phase::Begin {
            let early = self.rng.chance(50);
            let db = &mut self.machines[m].db;
            db.requirement.1 = Some(requirement.clone());
            if up && early {
                db.requirement.0 = Some(requirement);
                self.release(m);
            }
            let took = self.some(2, 400);
            return Flow::Again(Phase::Work, took);
        }
        if self.machines[m].db.is_running() && !answers {
            return Flow::Again(Phase::Work, self.setup.scaled(100));
        }
        self.machines[m].db.requirement.0 = Some(requirement);
        self.release(m);
        self.requires(m)
    }

    fn requires(&self, m: usize) -> Flow {
        let data = self.machines[m].db.data.as_ref().filter(|_| self.machines[m].db.is_primary());
        let lsn = Lsn(data.map_or(0, |data| data.place.lsn));
        Flow::Done(ActionOutcome::Applied(Done::Required { lsn }))
    }

    // ---- rejoining: start, else rewind, else copy

    pub(crate) fn rejoin(&mut self, m: usize, source: usize, acting: &mut Acting) -> Flow {
        match acting.phase {
            Phase::Begin => self.rejoin_begins(m, source, acting),
            Phase::Launch => match self.try_launch(m, true, acting.permit) {
                Ok(()) => Flow::Again(Phase::AwaitUp, self.poll()),
                Err(_) if self.machines[m].db.fences == acting.permit => {
                    self.next_rung(m, source, acting)
                }
                Err(why) => unknown(why),
            },
            Phase::AwaitUp => match self.machines[m].db.server {
                Server::Down | Server::Remnants { .. } => self.next_rung(m, source, acting),
                _ => {
                    acting.since = self.now;
                    self.await_up(m, |_| Flow::Again(Phase::AwaitStream, 1))
                }
            },
            Phase::AwaitStream => match self.streams_from(m, source) {
                Some(Streams::Yes | Streams::Unnoticed) => {
                    let by = if acting.rung.is_empty() { "start" } else { acting.rung };
                    Flow::Done(ActionOutcome::Applied(Done::Rejoined { by }))
                }
                _ if self.now - acting.since >= self.setup.scaled(5_000) => {
                    self.next_rung(m, source, acting)
                }
                _ => Flow::Again(Phase::AwaitStream, self.poll()),
            },
            _ => self.rejoin_works(m, source, acting),
        }
    }

    fn rejoin_begins(&mut self, m: usize, source: usize, acting: &mut Acting) -> Flow {
        if self.machines[m].db.demoting.is_some() {
            return Flow::Again(Phase::Begin, self.poll());
        }
        if !self.is_source(m, source) || source == m {
            return refused("the upstream does not answer");
        }
        let theirs = self.machines[source].db.data.clone();
        let db = &mut self.machines[m].db;
        let Some(theirs) = theirs else { return refused("the upstream has no data") };
        let Some(data) = &mut db.data else {
            acting.rung = "clone";
            let took = self.some(500, 6_000);
            return Flow::Again(Phase::Work, took);
        };
        if data.system != theirs.system {
            return refused("it is another cluster's, nothing was touched");
        }
        match db.server {
            Server::Up { standby: false } => refused("it runs as a primary: fence it first"),
            Server::Remnants { .. } => refused("processes are left: fence first"),
            Server::Starting { .. } | Server::Stopping { .. } => {
                Flow::Again(Phase::Begin, self.poll())
            }
            Server::Up { standby: true } => {
                data.upstream = Some(source);
                acting.since = self.now;
                Flow::Again(Phase::AwaitStream, self.poll())
            }
            Server::Down => {
                data.upstream = Some(source);
                if self.starts_as_it_is(m, source) {
                    return Flow::Again(Phase::Launch, 1);
                }
                acting.rung = "rewind";
                self.begin_rewind(m)
            }
        }
    }

    /// The first rung: `first_rung` of `src/database/local/rejoin.rs`.
    fn starts_as_it_is(&self, m: usize, source: usize) -> bool {
        let (Some(own), Some(theirs)) = (&self.machines[m].db.data, &self.machines[source].db.data)
        else {
            return false;
        };
        let number = |place: Place| self.branches.get(place.branch).number;
        if number(own.place) == number(theirs.place) {
            return true;
        }
        let chain = self.branches.chain(theirs.place);
        let Some(left) = chain.iter().find(|of| number(**of) == number(own.place)) else {
            return false;
        };
        match (own.recovery, own.clean) {
            (true, _) => own.place.lsn <= left.lsn,
            (false, clean) => clean && own.place.lsn <= left.lsn,
        }
    }

    /// The data directory goes under another name while it is rewound.
    fn begin_rewind(&mut self, m: usize) -> Flow {
        let db = &mut self.machines[m].db;
        db.rewinding = db.data.take();
        let took = self.some(200, 4_000);
        Flow::Again(Phase::Work, took)
    }

    fn rejoin_works(&mut self, m: usize, source: usize, acting: &mut Acting) -> Flow {
        if acting.rung == "clone" {
            if !self.copy(m, source) {
                return refused("the copy failed");
            }
            return Flow::Again(Phase::Launch, self.poll());
        }
        let theirs = self.machines[source].db.data.as_ref().map(|data| data.place);
        let Some(theirs) = theirs.filter(|_| self.is_source(m, source)) else {
            // Half rewound: set aside, and copied instead.
            let db = &mut self.machines[m].db;
            db.beside = true;
            db.rewinding = None;
            return self.next_rung(m, source, acting);
        };
        let Some(mut data) = self.machines[m].db.rewinding.take() else {
            return refused("there is no data directory");
        };
        let same =
            self.branches.get(data.place.branch).number == self.branches.get(theirs.branch).number;
        // pg_rewind looks at numbers: within one it finds nothing to do.
        if !same && self.branches.common(data.place, theirs).lsn > 0 {
            data.place = theirs;
        }
        data.recovery = true;
        data.standby_signal = true;
        data.upstream = Some(source);
        self.machines[m].db.data = Some(data);
        Flow::Again(Phase::Launch, self.poll())
    }

    fn next_rung(&mut self, m: usize, source: usize, acting: &mut Acting) -> Flow {
        acting.rung = match acting.rung {
            "" => "rewind",
            "rewind" => "clone",
            _ => return refused("it came up, but does not stream from its upstream"),
        };
        if self.machines[m].db.is_running() {
            // Its own fence in between: allowed to start again unless there was another one.
            let db = &mut self.machines[m].db;
            db.fences += 1;
            acting.permit += 1;
            db.server = Server::Down;
            db.streaming = None;
        }
        if !self.is_source(m, source) {
            return refused("the upstream does not answer");
        }
        if acting.rung == "rewind" {
            return self.begin_rewind(m);
        }
        let took = self.some(500, 6_000);
        Flow::Again(Phase::Work, took)
    }
}
