//! Every kind of fault by itself, and what has to come of it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::clients::Clients;
use super::history;
use super::inject::{Done, Injector};
use super::plan::{Fault, Kind, Plan, Which, Who};
use super::restore;
use super::world::World;

/// A cluster, its clients, and what is done to it.
struct Field {
    clients: Clients,
    injector: Injector,
    world: World,
}

/// What came of a fault.
#[derive(Debug)]
struct Seen {
    kind: Kind,
    /// Who acknowledged before, and who in the end.
    members: (usize, usize),
    /// Raised by anybody meanwhile.
    alarms: BTreeSet<String>,
    /// Longest time without an acknowledgement.
    pause: Duration,
}

impl Seen {
    /// The same primary, the whole time.
    fn stays(self) -> Self {
        assert_eq!(self.members.0, self.members.1, "{}: {self:?}", self.kind);
        self
    }

    /// Somebody else takes over.
    fn moves(self) -> Self {
        assert_ne!(self.members.0, self.members.1, "{}: {self:?}", self.kind);
        self
    }

    fn alarm(self, alarm: &str) -> Self {
        assert!(self.alarms.contains(alarm), "{alarm} in {self:?}");
        self
    }

    /// Clients notice next to nothing: the limit is far below a lease.
    fn unnoticed(self) -> Self {
        assert!(self.pause < Duration::from_millis(1500), "{self:?}");
        self
    }
}

/// Runs a test in a thread of its own, for it moves to another network.
fn aside(test: impl FnOnce() + Send + 'static) {
    crate::support::postgres::need_root();
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

impl Field {
    fn new() -> Self {
        let mut plan = Plan::single(Kind::ClockAhead, Who::Primary, Duration::ZERO);
        plan.calm = true;
        let world = World::start(&plan, true).unwrap();
        let clients = Clients::start(&world.doors(), Duration::from_secs(3));
        let mut field = Self { clients, injector: Injector::new(), world };
        field.until_written();
        field
    }

    fn primary(&self) -> usize {
        self.clients.last().unwrap().member
    }

    fn until_written(&mut self) {
        let begin = Instant::now();
        while self.clients.last().is_none_or(|commit| commit.sent < begin) {
            assert!(begin.elapsed() < Duration::from_secs(40), "nobody can write");
            self.world.supervise();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The fault, on its own, until all is in order again.
    fn suffers(&mut self, kind: Kind, who: Who, seconds: u64) -> Seen {
        let seen = self.during(kind, who, seconds);
        self.world.converge(Duration::from_secs(90)).unwrap_or_else(|why| panic!("{kind}: {why}"));
        self.until_written();
        let seen = Seen { members: (seen.members.0, self.primary()), ..seen };
        println!("{seen:?}");
        seen
    }

    /// Somebody raises this alarm: servers that elect a leader meanwhile do not answer at once.
    fn until_alarm(&mut self, alarm: &str) {
        let begin = Instant::now();
        let raised = |said: &serde_json::Value| {
            said["alarms"].as_array().is_some_and(|alarms| alarms.iter().any(|it| it == alarm))
        };
        while !self.world.watch.seen().iter().any(raised) {
            let late = begin.elapsed() >= Duration::from_secs(30);
            assert!(!late, "nobody raises {alarm}: {:#?}", self.world.watch.seen());
            self.world.supervise();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn during(&mut self, kind: Kind, who: Who, seconds: u64) -> Seen {
        let (lasting, before) = (Duration::from_secs(seconds), self.primary());
        let from = self.clients.commits().len().saturating_sub(1);
        let fault = Fault { at: Duration::ZERO, lasting, kind, who, which: Which::Leader };
        if let Done::Skipped(why) = self.injector.inject(&mut self.world, &fault, before) {
            panic!("{kind}: {why}");
        }
        let (begin, mut alarms) = (Instant::now(), BTreeSet::new());
        while begin.elapsed() < lasting {
            self.injector.expire(&mut self.world).unwrap();
            self.world.supervise();
            for said in self.world.watch.seen() {
                let raised = said["alarms"].as_array().cloned().unwrap_or_default();
                alarms.extend(raised.iter().filter_map(|alarm| Some(alarm.as_str()?.to_owned())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.injector.heal(&mut self.world).unwrap();
        let commits = self.clients.commits();
        let pause = history::pauses(&commits[from..]).into_iter().max().unwrap_or_default();
        Seen { kind, members: (before, self.primary()), alarms, pause }
    }

    /// Nobody wrote beside anybody else.
    fn end(self) {
        let commits = self.clients.stop();
        assert!(commits.len() > 100, "{}", commits.len());
        assert_eq!(history::alternations(&commits), Vec::<String>::new());
    }
}

#[test]
fn processes_killed_and_frozen() {
    aside(|| {
        let mut field = Field::new();
        let (primary, other) = (Who::Primary, Who::Other(1));
        let watchdogs = field.world.slots[field.primary()].member.watchdogs();
        field.suffers(Kind::KillWatchdog, primary, 2).stays().unnoticed();
        assert_ne!(field.world.slots[field.primary()].member.watchdogs(), watchdogs);
        field.suffers(Kind::KillReceiver, other, 1).stays().unnoticed();
        field.suffers(Kind::KillMember, other, 2).stays().unnoticed();
        field.suffers(Kind::FreezePostgres, other, 2).stays().unnoticed();
        field.suffers(Kind::KillAgent, primary, 5).moves();
        field.suffers(Kind::FreezeAgent, primary, 5).moves();
        field.suffers(Kind::KillMember, primary, 5).moves();
        field.suffers(Kind::KillPostmaster, primary, 2).moves();
        field.suffers(Kind::KillBackend, primary, 2).moves();
        for kind in [Kind::FreezePostgres, Kind::FreezePostmaster] {
            let frozen = field.suffers(kind, primary, 7).moves().members.0;
            let log = field.world.slots[frozen].log();
            assert!(log.contains("\"reason\":\"database_hung\""), "{log}");
        }
        field.suffers(Kind::Terminate, primary, 2).moves();
        field.end();
    });
}

#[test]
fn links_cut_in_one_direction_and_both() {
    aside(|| {
        let mut field = Field::new();
        let (primary, other) = (Who::Primary, Who::Other(1));
        for kind in [Kind::CutMemberFromStore, Kind::CutMemberToStore, Kind::CutStoreToMember] {
            field.suffers(kind, primary, 4).stays().unnoticed().alarm("held_by_promises");
        }
        field.suffers(Kind::CutMemberToServer, primary, 2).stays().unnoticed();
        field.suffers(Kind::CutServerToMember, primary, 2).stays().unnoticed();
        field.suffers(Kind::CutMemberToMember, primary, 2).stays().unnoticed();
        field.suffers(Kind::CutMemberOff, other, 2).stays().unnoticed();
        field.suffers(Kind::CutServerToServer, primary, 2).stays().unnoticed();
        field.suffers(Kind::CutServerOff, primary, 2).stays().unnoticed();
        field.suffers(Kind::CutMemberOff, primary, 6).moves();
        // These decide nothing by themselves: what matters is that nobody writes beside anybody.
        field.suffers(Kind::Lossy, primary, 2);
        field.suffers(Kind::Slow, primary, 2);
        field.end();
    });
}

#[test]
fn servers_of_the_store_disks_processors_and_clocks() {
    aside(|| {
        let mut field = Field::new();
        let primary = Who::Primary;
        for kind in [Kind::KillServers, Kind::FreezeServers] {
            field.suffers(kind, primary, 4).stays().unnoticed().alarm("held_by_promises");
        }
        for kind in [Kind::KillServer, Kind::FreezeServer, Kind::LoseServerData] {
            field.suffers(kind, primary, 2).stays().unnoticed();
        }
        clock_off(&mut field, Kind::ClockAhead, 3600.0);
        clock_off(&mut field, Kind::ClockBehind, -3600.0);
        field.suffers(Kind::Starve, primary, 2);
        field.suffers(Kind::FillDisk, primary, 5).moves();
        // Whether somebody takes over depends on how long the store elects a leader meanwhile.
        field.suffers(Kind::KillMemberAndServer, primary, 3);
        field.during(Kind::WipeStore, primary, 2).stays();
        restore::surely_wiped(&field.world).unwrap();
        field.until_alarm("store_rejects");
        restore::not_obeyed(&mut field.world).unwrap();
        let mut story = String::new();
        restore::by_the_runbook(&mut field.world, &mut story).unwrap();
        field.world.converge(Duration::from_secs(90)).unwrap();
        field.until_written();
        field.end();
    });
}

/// The wall clock of the first member's agent is off, as its log shows, while it leads.
fn clock_off(field: &mut Field, kind: Kind, seconds: f64) {
    assert_eq!(field.primary(), 0, "the member with the false clock leads");
    let lasting = Duration::from_secs(30);
    let fault =
        Fault { at: Duration::ZERO, lasting, kind, who: Who::Primary, which: Which::Leader };
    assert!(matches!(field.injector.inject(&mut field.world, &fault, 0), Done::Injected(_)));
    until_told_at(field, seconds);
    field.suffers(Kind::KillWatchdog, Who::Primary, 3).stays().unnoticed();
}

/// Has the agent say something, until it does so at the false time: it looks for its clock's file every
/// other second.
fn until_told_at(field: &Field, seconds: f64) {
    let slot = &field.world.slots[0];
    let (begin, before) = (Instant::now(), slot.log().len());
    let off = |line: &str| {
        let said: serde_json::Value = serde_json::from_str(line).ok()?;
        let at: jiff::Timestamp = said["timestamp"].as_str()?.parse().ok()?;
        Some(at.duration_since(jiff::Timestamp::now()).as_secs_f64())
    };
    loop {
        let agent = slot.member.agent_pid().expect("an agent");
        rustix::process::kill_process(agent, rustix::process::Signal::HUP).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let log = slot.log();
        let new = &log[before..];
        if new.lines().filter_map(off).any(|off| (off - seconds).abs() < 60.0) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(15), "{new}");
    }
}

/// With its guard off the cluster does have two writers, and that is seen. With it on, the same fault
/// is one of `processes_killed_and_frozen`.
#[test]
fn without_the_watchdog_the_checker_sees_two_writers() {
    aside(|| {
        let plan = Plan::single(Kind::FreezeAgent, Who::Primary, Duration::from_secs(5));
        let outcome = super::round::run(&plan, false);
        assert!(outcome.alternations > 0, "{outcome:?}");
        println!("{}: {}", outcome.alternations, outcome.violations[0]);
    });
}
