//! The store in memory of one process: for tests and for trying things out.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, watch};

use super::pulse::{Pulse, boot_time};
use super::{
    Capabilities, Expected, HISTORY_DEPTH, Health, Hint, Key, LONGEST_VALUE, ReadError, Rejection,
    Statistics, Store, Versioned, Write, WriteOutcome, new_incarnation,
};
use crate::core::ids::{Incarnation, Revision};
use crate::core::time::StoreTime;

/// A reading of the store's clock.
pub type Clock = Arc<dyn Fn() -> StoreTime + Send + Sync>;

/// One agent's handle on a bucket in memory. A clone is another agent's handle on the same bucket,
/// with counters and health of its own.
pub struct Memory {
    shared: Arc<Shared>,
    incarnation: Incarnation,
    pulse: Pulse,
}

struct Shared {
    bucket: Mutex<Bucket>,
    clock: Clock,
    hints: broadcast::Sender<Hint>,
}

struct Bucket {
    incarnation: Incarnation,
    newest: u64,
    kept: BTreeMap<Key, VecDeque<Kept>>,
}

struct Kept {
    versioned: Versioned,
    operation: String,
}

impl Memory {
    /// An empty bucket on this machine's `CLOCK_BOOTTIME`.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(|| {
            StoreTime(i64::try_from(boot_time().as_nanos()).unwrap_or(i64::MAX))
        }))
    }

    /// An empty bucket with a clock of the caller's.
    pub fn with_clock(clock: Clock) -> Self {
        let incarnation = new_incarnation();
        let bucket =
            Bucket { incarnation: incarnation.clone(), newest: 0, kept: BTreeMap::default() };
        let hints = broadcast::Sender::new(64);
        let shared = Arc::new(Shared { bucket: Mutex::new(bucket), clock, hints: hints.clone() });
        Self { shared, incarnation, pulse: Pulse::with_hints(true, hints) }
    }

    /// Loses all data and begins a new life: every handle made before is rejected from now on.
    pub fn replace(&self) {
        let mut bucket = self.shared.bucket();
        bucket.incarnation = new_incarnation();
        bucket.newest = 0;
        bucket.kept.clear();
        drop(bucket);
        self.pulse.hint(Hint::Resync);
    }

    /// A handle on the bucket as it is now, in whatever life.
    pub fn reopen(&self) -> Self {
        let incarnation = self.shared.bucket().incarnation.clone();
        let pulse = Pulse::with_hints(true, self.shared.hints.clone());
        Self { shared: Arc::clone(&self.shared), incarnation, pulse }
    }

    fn bucket(&self) -> Result<MutexGuard<'_, Bucket>, Rejection> {
        let bucket = self.shared.bucket();
        if bucket.incarnation == self.incarnation {
            return Ok(bucket);
        }
        Err(Rejection::Incarnation {
            expected: self.incarnation.clone(),
            found: bucket.incarnation.to_string(),
        })
    }

    fn ask<T>(&self, question: impl FnOnce(&Bucket) -> T) -> Result<T, ReadError> {
        let answer = self.bucket().map(|bucket| question(&bucket)).map_err(ReadError::Rejected);
        self.pulse.read(&answer);
        answer
    }

    fn apply(&self, write: &Write) -> WriteOutcome {
        if write.value.len() > LONGEST_VALUE {
            return WriteOutcome::Rejected(Rejection::TooLong {
                bytes: write.value.len(),
                limit: LONGEST_VALUE,
            });
        }
        let applied = match self.bucket() {
            Ok(mut bucket) => bucket.apply(write, (self.shared.clock)()),
            Err(rejection) => return WriteOutcome::Rejected(rejection),
        };
        if matches!(applied, WriteOutcome::Applied { .. }) && !write.key.is_journal() {
            self.pulse.hint(Hint::Changed(write.key.clone()));
        }
        applied
    }
}

impl Shared {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn apply(&mut self, write: &Write, created: StoreTime) -> WriteOutcome {
        let kept = self.kept.entry(write.key.clone()).or_default();
        if let Some(found) = kept.iter().find(|kept| kept.operation == write.operation) {
            return WriteOutcome::Applied { revision: found.versioned.revision };
        }
        let current = kept.back().map(|kept| kept.versioned.revision);
        let expected = match write.expected {
            Expected::Absent => None,
            Expected::Revision(revision) => Some(revision),
        };
        if current != expected {
            return WriteOutcome::Refused { current };
        }
        self.newest += 1;
        let revision = Revision(self.newest);
        let versioned =
            Versioned { key: write.key.clone(), value: write.value.clone(), revision, created };
        kept.push_back(Kept { versioned, operation: write.operation.clone() });
        if kept.len() > usize::from(HISTORY_DEPTH) {
            kept.pop_front();
        }
        WriteOutcome::Applied { revision }
    }

    fn newest(&self, key: &Key) -> Option<Versioned> {
        self.kept.get(key)?.back().map(|kept| kept.versioned.clone())
    }

    fn history(&self, key: &Key) -> Vec<Versioned> {
        let kept = self.kept.get(key);
        kept.into_iter().flatten().map(|kept| kept.versioned.clone()).collect()
    }
}

impl Store for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "memory",
            durable: false,
            replicated: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation.clone()
    }

    fn read<'a>(
        &'a self,
        key: &'a Key,
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<Option<Versioned>, ReadError>> {
        async move { self.ask(|bucket| bucket.newest(key)) }.boxed()
    }

    fn list(&self, _timeout: Duration) -> BoxFuture<'_, Result<Vec<Versioned>, ReadError>> {
        let newest = |bucket: &Bucket| {
            let keys = bucket.kept.keys().filter(|key| !key.is_journal());
            keys.filter_map(|key| bucket.newest(key)).collect()
        };
        async move { self.ask(newest) }.boxed()
    }

    fn compare_and_set<'a>(
        &'a self,
        write: &'a Write,
        _timeout: Duration,
    ) -> BoxFuture<'a, WriteOutcome> {
        async move {
            let outcome = self.apply(write);
            self.pulse.written(&outcome);
            outcome
        }
        .boxed()
    }

    fn history<'a>(
        &'a self,
        key: &'a Key,
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<Versioned>, ReadError>> {
        async move { self.ask(|bucket| bucket.history(key)) }.boxed()
    }

    fn changes(&self) -> broadcast::Receiver<Hint> {
        self.pulse.changes()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.pulse.health()
    }

    fn statistics(&self) -> Statistics {
        self.pulse.statistics()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            incarnation: self.incarnation.clone(),
            pulse: Pulse::with_hints(true, self.shared.hints.clone()),
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}
