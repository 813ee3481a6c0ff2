//! Time as the core sees it: readings handed in by the driver, never read here.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A reading of this machine's `CLOCK_BOOTTIME`, in nanoseconds since boot.
///
/// It goes on while the machine is suspended and never steps with the wall clock, which is why
/// every right to write is measured with it (`docs/protocol.md`, section 4). Readings of different
/// machines, or from before and after a reboot, must never be compared.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Instant(u64);

impl Instant {
    /// The moment the machine started.
    pub const ZERO: Self = Self(0);

    /// A reading of `nanoseconds` since boot.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// A reading of `milliseconds` since boot; for tests and worlds of their own.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds * 1_000_000)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to this reading; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        let nanoseconds = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        let nanoseconds = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanoseconds))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1_000)
    }
}

/// A reading of the *store's* clock, attached by the store to every revision, in nanoseconds.
///
/// Only differences between two readings of the same store mean anything, and even they are a
/// second witness that may delay a takeover, never allow one: a store's clock can run backwards
/// when its leader changes (`docs/protocol.md`, section 4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreTime(pub i64);

impl StoreTime {
    /// Time from `earlier` to this reading, or `None` when the store's clock ran backwards.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        let nanoseconds = self.0.checked_sub(earlier.0)?;
        u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
    }
}
