//! What every backend tells about itself: counters, health and hints.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{broadcast, watch};

use super::{Health, Hint, ReadError, Statistics, WriteOutcome};
use crate::core::time::Instant;

/// Hints kept for a slow receiver; it is told when it missed some.
const HINTS_KEPT: usize = 64;

/// Now, by this machine's `CLOCK_BOOTTIME`.
pub(super) fn boot_time() -> Instant {
    let reading = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(reading.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(reading.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// One handle's counters, health and hints.
#[derive(Debug)]
pub(super) struct Pulse {
    reads: AtomicU64,
    writes: AtomicU64,
    conflicts: AtomicU64,
    unknown: AtomicU64,
    failures: AtomicU64,
    reconnects: AtomicU64,
    health: watch::Sender<Health>,
    hints: broadcast::Sender<Hint>,
}

impl Pulse {
    /// A fresh pulse with its own hints.
    pub(super) fn new(connected: bool) -> Self {
        Self::with_hints(connected, broadcast::Sender::new(HINTS_KEPT))
    }

    /// A fresh pulse that shares the hints of other handles.
    pub(super) fn with_hints(connected: bool, hints: broadcast::Sender<Hint>) -> Self {
        let health = Health { connected, ..Health::default() };
        Self {
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            health: watch::Sender::new(health),
            hints,
        }
    }

    /// Counts what became of a read.
    pub(super) fn read<T>(&self, result: &Result<T, ReadError>) {
        match result {
            Ok(_) => {
                self.reads.fetch_add(1, Ordering::Relaxed);
                self.succeeded();
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.trouble(&error.to_string());
            }
        }
    }

    /// Counts what became of a write.
    pub(super) fn written(&self, outcome: &WriteOutcome) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        match outcome {
            WriteOutcome::Applied { .. } => {
                count(&self.writes);
                self.succeeded();
            }
            WriteOutcome::Refused { .. } => {
                count(&self.conflicts);
                self.succeeded();
            }
            WriteOutcome::Unknown { cause } => {
                count(&self.unknown);
                self.trouble(cause);
            }
            WriteOutcome::NotSent { cause } => {
                count(&self.failures);
                self.trouble(cause);
            }
            WriteOutcome::Rejected(rejection) => {
                count(&self.failures);
                self.trouble(&rejection.to_string());
            }
        }
    }

    /// Passes a hint to whoever listens.
    pub(super) fn hint(&self, hint: Hint) {
        let _nobody_listens = self.hints.send(hint);
    }

    /// The connection was made or lost.
    pub(super) fn connected(&self, connected: bool) {
        if connected {
            self.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        self.health.send_if_modified(|health| {
            std::mem::replace(&mut health.connected, connected) != connected
        });
    }

    /// The latest trouble, for people.
    pub(super) fn trouble(&self, trouble: &str) {
        self.health.send_if_modified(|health| {
            let news = health.trouble.as_deref() != Some(trouble);
            if news {
                health.trouble = Some(trouble.to_owned());
            }
            news
        });
    }

    /// Hints from now on.
    pub(super) fn changes(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }

    /// Watches the health.
    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Counters since start.
    pub(super) fn statistics(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            reads: read(&self.reads),
            writes: read(&self.writes),
            conflicts: read(&self.conflicts),
            unknown: read(&self.unknown),
            failures: read(&self.failures),
            // The first connection is none made anew.
            reconnects: read(&self.reconnects).saturating_sub(1),
        }
    }

    /// Only the end of a trouble is news: a watcher is not woken at every heartbeat.
    fn succeeded(&self) {
        self.health.send_if_modified(|health| {
            health.last_success = Some(boot_time());
            health.trouble.take().is_some()
        });
    }
}
