//! What one round is, drawn from its seed: the cluster, and which faults come when.

use std::fmt;
use std::time::Duration;

use crate::sim::Rng;

/// A kind of fault. Members and servers are chosen when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// -9 to the agent, which is started again afterwards; so with all the others.
    KillAgent,
    /// -9 to the watchdog; its agent starts another one.
    KillWatchdog,
    KillPostmaster,
    KillBackend,
    KillReceiver,
    /// Agent, watchdog and PostgreSQL at once.
    KillMember,
    /// The same, and the store's server beside it.
    KillMemberAndServer,
    KillServer,
    /// Two of three.
    KillServers,
    FreezeAgent,
    FreezePostgres,
    FreezePostmaster,
    FreezeServer,
    FreezeServers,
    /// SIGTERM to the agent: it hands over.
    Terminate,
    /// What a member sends to one server of the store is lost.
    CutMemberToServer,
    CutServerToMember,
    /// Between a member and all servers, both ways.
    CutMemberFromStore,
    /// From a member to all servers, one way.
    CutMemberToStore,
    CutStoreToMember,
    /// One way between two members.
    CutMemberToMember,
    /// A member from everybody, both ways.
    CutMemberOff,
    /// One way between two servers.
    CutServerToServer,
    /// A server from everybody, both ways.
    CutServerOff,
    /// Three of ten packets of a member are lost.
    Lossy,
    /// A member's packets come late.
    Slow,
    FillDisk,
    /// Busy processes take the processor from the agent.
    Starve,
    /// The wall clock of one agent an hour ahead.
    ClockAhead,
    ClockBehind,
    /// A server comes back without its data.
    LoseServerData,
    /// The bucket is deleted, and an operator brings the cluster back.
    WipeStore,
}

impl Kind {
    /// How often each comes, in parts of all: what is rare in the plan is rare because it takes long.
    const WEIGHTS: [(Self, u64); 32] = [
        (Self::KillAgent, 6),
        (Self::KillWatchdog, 4),
        (Self::KillPostmaster, 5),
        (Self::KillBackend, 3),
        (Self::KillReceiver, 3),
        (Self::KillMember, 5),
        (Self::KillMemberAndServer, 3),
        (Self::KillServer, 4),
        (Self::KillServers, 2),
        (Self::FreezeAgent, 6),
        (Self::FreezePostgres, 4),
        (Self::FreezePostmaster, 3),
        (Self::FreezeServer, 4),
        (Self::FreezeServers, 2),
        (Self::Terminate, 5),
        (Self::CutMemberToServer, 4),
        (Self::CutServerToMember, 4),
        (Self::CutMemberFromStore, 4),
        (Self::CutMemberToStore, 4),
        (Self::CutStoreToMember, 4),
        (Self::CutMemberToMember, 4),
        (Self::CutMemberOff, 5),
        (Self::CutServerToServer, 4),
        (Self::CutServerOff, 4),
        (Self::Lossy, 4),
        (Self::Slow, 3),
        (Self::FillDisk, 3),
        (Self::Starve, 3),
        (Self::ClockAhead, 3),
        (Self::ClockBehind, 3),
        // These two come by rounds of their own.
        (Self::LoseServerData, 0),
        (Self::WipeStore, 0),
    ];

    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::WEIGHTS.into_iter().map(|(kind, _)| kind)
    }

    fn draw(rng: &mut Rng) -> Self {
        let total = Self::WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut left = rng.below(total);
        for (kind, weight) in Self::WEIGHTS {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        Self::KillAgent
    }

    /// It takes a majority of servers, or keeps one from hearing the others: while a server comes back
    /// without its data such a one could make the store forget, which it must not (docs/proof.md).
    pub(super) fn hurts_servers(self) -> bool {
        matches!(
            self,
            Self::KillMemberAndServer
                | Self::KillServer
                | Self::KillServers
                | Self::FreezeServer
                | Self::FreezeServers
                | Self::CutServerToServer
                | Self::CutServerOff
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // KillAgent is told as "kill agent".
        for (at, letter) in format!("{self:?}").char_indices() {
            if letter.is_uppercase() && at > 0 {
                write!(f, " ")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// Whom a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Who acknowledged the last commit.
    Primary,
    /// The n-th after it.
    Other(usize),
}

/// Which server of the store a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The one that leads the bucket.
    Leader,
    Number(usize),
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// After the beginning of the round's faults.
    pub(super) at: Duration,
    pub(super) lasting: Duration,
    pub(super) kind: Kind,
    pub(super) who: Who,
    pub(super) which: Which,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasting) = (self.at.as_secs_f64(), self.lasting.as_secs_f64());
        write!(f, "t={at:.3} {} for {lasting:.3} s: ", self.kind)?;
        write!(f, "{:?}, {:?}", self.who, self.which)
    }
}

/// A round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Two or three.
    pub(super) members: usize,
    /// Commits wait for every standby.
    pub(super) synchronous: bool,
    /// A lease of 3 s instead of 1 s, and more patience with the store.
    pub(super) calm: bool,
    /// What a hung database and a full disk lead to.
    pub(super) fail_over: bool,
    /// The agent of this member has a wall clock that can be stepped.
    pub(super) clock: Option<usize>,
    /// From the first fault to when everything is mended.
    pub(super) lasting: Duration,
    /// In the order they come.
    pub(super) faults: Vec<Fault>,
}

impl Plan {
    /// The round of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let members = if rng.chance(25) { 2 } else { 3 };
        let mut plan = Self {
            seed,
            members,
            synchronous: rng.chance(35),
            calm: rng.chance(40),
            fail_over: rng.chance(50),
            clock: rng.chance(40).then(|| rng.index(members)),
            lasting: Duration::from_millis(rng.range(20_000, 40_000)),
            faults: Vec::new(),
        };
        let special = rng.below(12);
        let mut at = 0;
        loop {
            at += rng.range(200, 4_500);
            let mut fault = plan.draw(&mut rng, at);
            if fault.at + Duration::from_secs(1) > plan.lasting {
                break;
            }
            if special == 0 && fault.kind.hurts_servers() {
                // Once, and nothing else about servers: two without their data are a store that
                // forgot, and that is mended by hand only.
                if plan.faults.iter().any(|fault| fault.kind == Kind::LoseServerData) {
                    continue;
                }
                fault.kind = Kind::LoseServerData;
                fault.lasting = Duration::from_secs(2);
            }
            plan.faults.push(fault);
        }
        if special == 1 {
            let mut last = plan.draw(&mut rng, at);
            (last.kind, last.at) = (Kind::WipeStore, plan.lasting - Duration::from_secs(1));
            plan.faults.push(last);
        }
        plan
    }

    /// A round of one fault after some time, and some time more after it.
    pub(super) fn single(kind: Kind, who: Who, lasting: Duration) -> Self {
        let at = Duration::from_millis(500);
        let which = Which::Leader;
        let clock = matches!(kind, Kind::ClockAhead | Kind::ClockBehind).then_some(0);
        Self {
            seed: 0,
            members: 3,
            synchronous: false,
            calm: false,
            fail_over: true,
            clock,
            lasting: at + lasting + at,
            faults: vec![Fault { at, lasting, kind, who, which }],
        }
    }

    fn draw(&self, rng: &mut Rng, at: u64) -> Fault {
        let lasting = match rng.below(10) {
            0..3 => rng.range(50, 1_000),
            3..7 => rng.range(1_000, 5_000),
            _ => rng.range(5_000, 15_000),
        };
        let mut kind = Kind::draw(rng);
        if matches!(kind, Kind::ClockAhead | Kind::ClockBehind) && self.clock.is_none() {
            kind = Kind::FreezeAgent;
        }
        let who = if rng.chance(60) { Who::Primary } else { Who::Other(1 + rng.index(2)) };
        let which = if rng.chance(40) { Which::Leader } else { Which::Number(rng.index(3)) };
        let (at, lasting) = (Duration::from_millis(at), Duration::from_millis(lasting));
        Fault { at, lasting, kind, who, which }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, members, synchronous, calm, fail_over, clock, lasting, faults } = self;
        let mode = if *synchronous { "synchronous" } else { "asynchronous" };
        write!(f, "seed {seed}: {members} members, {mode}, ")?;
        write!(f, "lease of {} s, ", if *calm { 3 } else { 1 })?;
        write!(f, "{} when hung or full, ", if *fail_over { "fails over" } else { "alarm" })?;
        write!(f, "clock of {clock:?}, {} faults ", faults.len())?;
        writeln!(f, "in {:.3} s", lasting.as_secs_f64())?;
        faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))
    }
}
