//! A machine: its clock, its disk, and the processes on it.

use harmony_agent::core::event::Floor;
use harmony_agent::core::ids::{InstanceId, MemberId};
use harmony_agent::core::records::Address;
use harmony_agent::core::time::Instant;

use super::Item;
use super::agent::Process;
use super::database::Database;
use super::watchdog::Dog;
use crate::sim::rng::Rng;

/// `CLOCK_BOOTTIME` of a machine: it has an offset of its own and runs a little fast or slow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Clock {
    /// True time and reading when the machine was booted.
    booted: (u64, u64),
    /// Deviation, in parts per million.
    pub(crate) ppm: i64,
}

/// Two clocks drift apart by at most 10,000 ppm, so each is off by at most half of that.
pub(crate) const WORST_DRIFT: u64 = 4_900;

impl Clock {
    pub(crate) fn new(now: u64, reading: u64, ppm: i64) -> Self {
        Self { booted: (now, reading), ppm }
    }

    /// The true time at which it began.
    pub(crate) fn booted_at(&self) -> u64 {
        self.booted.0
    }

    /// The reading at a true time.
    pub(crate) fn at(&self, now: u64) -> Instant {
        let passed = i128::from(now - self.booted.0) * i128::from(1_000_000 + self.ppm) / 1_000_000;
        Instant::from_nanos(self.booted.1 + u64::try_from(passed).unwrap_or(0))
    }

    /// The true time of a reading, rounded up.
    pub(crate) fn when(&self, reading: Instant) -> u64 {
        let to_go = i128::from(reading.as_nanos()) - i128::from(self.booted.1);
        let passed = to_go.max(0) * 1_000_000 / i128::from(1_000_000 + self.ppm) + 1;
        self.booted.0 + u64::try_from(passed).unwrap_or(u64::MAX / 4)
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Its name in the network.
    pub(crate) host: String,
    /// The member its agent speaks for.
    pub(crate) member: MemberId,
    pub(crate) instance: InstanceId,
    pub(crate) clock: Clock,
    /// It is part of the cluster; one that is not is added later.
    pub(crate) joined: bool,
    /// It has power.
    pub(crate) on: bool,
    /// Everything on it stands still; its clock goes on.
    pub(crate) suspended: bool,
    pub(crate) deferred: Vec<Item>,
    /// When it came back from a suspension.
    pub(crate) resumed: u64,
    pub(crate) agent: Option<Process>,
    /// Agents started so far.
    pub(crate) lives: u32,
    /// `floor.json`.
    pub(crate) floor: Option<Floor>,
    /// Its agent is not started again by itself.
    pub(crate) held: bool,
    pub(crate) db: Database,
    pub(crate) dog: Option<Dog>,
    /// Watchdogs started so far.
    pub(crate) dogs: u32,
    /// When a client of it last got an answer, when there is a log to tell of it.
    pub(crate) committed: Option<u64>,
    /// Neither agent nor watchdog could have fenced this database at some time since its right to
    /// write was last proven: what it does is not held against the protocol.
    pub(crate) excused: bool,
}

impl Machine {
    pub(crate) fn new(at: usize, members: usize, rng: &mut Rng) -> Self {
        let letter = |n: usize| char::from(b'a' + u8::try_from(n).unwrap_or(25));
        let (host, member) = match at < members {
            true => (letter(at).to_string(), letter(at)),
            // A machine beyond the members has the name of the first.
            false => ("twin".to_owned(), letter(0)),
        };
        Self {
            member: member.to_string().parse().unwrap(),
            instance: format!("instance-{host}").parse().unwrap(),
            clock: new_clock(0, rng),
            joined: true,
            on: true,
            suspended: false,
            deferred: Vec::new(),
            resumed: 0,
            agent: None,
            lives: 0,
            floor: None,
            held: false,
            db: Database::default(),
            dog: None,
            dogs: 0,
            committed: None,
            excused: false,
            host,
        }
    }

    pub(crate) fn address(&self) -> Address {
        Address { host: self.host.clone(), port: 5432, http: None }
    }

    /// A new boot: the clock begins somewhere else.
    pub(crate) fn reboot(&mut self, now: u64, rng: &mut Rng) {
        self.clock = match rng.is_calm() {
            true => Clock::new(now, 5_000_000_000, self.clock.ppm),
            false => new_clock(now, rng),
        };
    }
}

fn new_clock(now: u64, rng: &mut Rng) -> Clock {
    let ppm = i64::try_from(rng.below(2 * WORST_DRIFT)).unwrap_or(0);
    let ppm = ppm - i64::try_from(WORST_DRIFT).unwrap_or(0);
    // Long after boot or shortly after it.
    let uptime = if rng.chance(50) { rng.range(5, 60) } else { rng.range(3_600, 90_000_000) };
    Clock::new(now, uptime * 1_000_000_000, ppm)
}
