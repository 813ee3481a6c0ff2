//! The times of CloudNativePG and Kubernetes, shortened by one factor.

use std::time::Duration;

/// Shortens times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// 1: as they are.
    pub(crate) factor: f64,
}

impl Times {
    /// So many seconds of theirs.
    pub(crate) fn seconds(self, seconds: u32) -> Duration {
        Duration::from_secs(seconds.into()).mul_f64(self.factor)
    }

    /// The same for programs that count whole seconds; at least one.
    pub(crate) fn whole(self, seconds: u32) -> u64 {
        self.seconds(seconds).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
    }
}
