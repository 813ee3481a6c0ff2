//! Reads `CLOCK_BOOTTIME`; nothing else in the agent reads a clock to decide by.

use rustix::time::{ClockId, clock_gettime};

use crate::core::time::Instant;

/// Now, by the clock that goes on while the machine is suspended and never steps.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds * 1_000_000_000 + nanoseconds)
}
