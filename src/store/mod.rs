//! The coordination state: one trait, one conformance suite (`tests/conformance`), and a factory
//! that picks the backend by configuration.
//!
//! ```text
//!            records (core::records)  ⇄  codec  ⇄  bytes
//!                                                   │
//!                        ┌──────────────── Store ───┴────────────────┐
//!                     memory            sqlite (default)           nats (production)
//! ```
//!
//! A store keeps bytes under keys, gives every write a revision, and accepts a write only on the
//! revision its writer decided on. It knows nothing of leases or roles. The rules a backend has to
//! keep are on [`Store`]; each has a test in the conformance suite.

pub mod codec;
pub mod memory;
pub mod nats;
mod pulse;
pub mod sqlite;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, mpsc, watch};

use crate::core::ids::{ClusterId, Incarnation, MemberId, Revision};
use crate::core::time::{Instant, StoreTime};

pub use crate::core::records::Key;

/// Longest value a store accepts, in bytes; a record of ours is a few hundred.
pub const LONGEST_VALUE: usize = 32 * 1024;

/// Revisions of each key that a store keeps, so that the last moves can be read afterwards.
pub const HISTORY_DEPTH: u8 = 8;

/// Which backend, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// In memory of this process, empty at every start.
    Memory,
    /// One file, shared by the agents of one machine.
    Sqlite(sqlite::Settings),
    /// NATS JetStream.
    Nats(nats::Settings),
}

/// Why a store could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No answer in time, or no connection: trying again is sensible.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// Only an operator can mend it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Opens the store of `cluster` for `member`. The bucket is created, with a new incarnation, when
/// there is none.
///
/// # Errors
/// [`OpenError::Unavailable`] when no usable answer came within `timeout`, [`OpenError::Rejected`]
/// when trying again changes nothing: access denied, a server too old, a bucket with other settings
/// than ours, a damaged or foreign file.
pub async fn open(
    cluster: &ClusterId,
    member: &MemberId,
    settings: &Settings,
    timeout: Duration,
) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match settings {
        Settings::Memory => Arc::new(memory::Memory::new()),
        Settings::Sqlite(settings) => {
            Arc::new(sqlite::Sqlite::open(cluster, settings, timeout).await?)
        }
        Settings::Nats(settings) => {
            Arc::new(nats::Nats::open(cluster, member, settings, timeout).await?)
        }
    })
}

fn new_incarnation() -> Incarnation {
    let text = uuid::Uuid::new_v4().to_string();
    text.parse().unwrap_or_else(|error| unreachable!("a UUID is a valid name: {error}"))
}

/// One revision of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The key.
    pub key: Key,
    /// What was written.
    pub value: Vec<u8>,
    /// The revision to compare against when replacing it.
    pub revision: Revision,
    /// When it was written, by the store's clock.
    pub created: StoreTime,
}

/// The revision a writer decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The key has never been written.
    Absent,
    /// The key is at this revision.
    Revision(Revision),
}

/// A compare-and-set. Sent again after an unknown outcome it must be identical, operation id included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key to write.
    pub key: Key,
    /// The revision it must be at.
    pub expected: Expected,
    /// The new value.
    pub value: Vec<u8>,
    /// Unique per operation, and also contained in `value` (see [`codec`]), so that a later read can
    /// tell whether this very write landed.
    pub operation: String,
}

/// What became of a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is in the store under this revision; also the answer to a repeated operation that had
    /// landed before, with the revision of then.
    Applied {
        /// The revision this write made.
        revision: Revision,
    },
    /// The key was at another revision: this write did not and will not land.
    Refused {
        /// The revision found, where the backend says.
        current: Option<Revision>,
    },
    /// Nobody can say: it may land later, even tens of seconds later.
    Unknown {
        /// What was seen, for logs.
        cause: String,
    },
    /// The store could not be asked; this write did not and will not land.
    NotSent {
        /// What was seen, for logs.
        cause: String,
    },
    /// It did not land, and trying again changes nothing until somebody mends the cause.
    Rejected(Rejection),
}

/// A cause that only an operator can mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The store refused our name or password, or lets us in but not do this.
    #[error(
        "the store denies access: {0}; check the credentials and the permissions of this agent"
    )]
    Permission(String),
    /// The bucket is another one than the one opened: lost, replaced or restored.
    #[error(
        "the bucket's incarnation is {found}, expected {expected}: the store was lost or replaced; nothing is obeyed until an operator restores the state"
    )]
    Incarnation {
        /// As opened.
        expected: Incarnation,
        /// As found; "none" when the bucket is gone.
        found: String,
    },
    /// The value is longer than [`LONGEST_VALUE`] or than the store takes.
    #[error("the value of {bytes} bytes is longer than the store takes ({limit})")]
    TooLong {
        /// Length of the value.
        bytes: usize,
        /// Longest length accepted.
        limit: usize,
    },
    /// No room is left.
    #[error("the store is full: {0}; free space or raise its limit")]
    Full(String),
    /// Anything else that stays wrong until mended.
    #[error("{0}")]
    Other(String),
}

/// Why a read gave nothing. A failed read says nothing about the state of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No answer in time, or no connection.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// Only an operator can mend it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Something may have changed: read again. Lossy, repeated, late, and never the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// This key was written.
    Changed(Key),
    /// Changes may have been missed, or the connection changed.
    Resync,
}

/// How the connection to the store does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// An operation would be tried now.
    pub connected: bool,
    /// When an operation last succeeded.
    pub last_success: Option<Instant>,
    /// The latest trouble, for people.
    pub trouble: Option<String>,
}

/// What a backend can promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// "memory", "sqlite" or "nats".
    pub backend: &'static str,
    /// Acknowledged writes survive a crash of the store's processes.
    pub durable: bool,
    /// Acknowledged writes survive the loss of one machine.
    pub replicated: bool,
    /// Version of the server or library.
    pub version: String,
}

/// Counters since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Reads answered.
    pub reads: u64,
    /// Writes applied.
    pub writes: u64,
    /// Writes refused by the comparison.
    pub conflicts: u64,
    /// Writes with an unknown outcome.
    pub unknown: u64,
    /// Reads and writes that failed otherwise.
    pub failures: u64,
    /// Times the connection was made anew.
    pub reconnects: u64,
}

/// Coordination state, shared by all agents of one cluster.
///
/// What every backend keeps (names of the conformance tests in `tests/conformance`):
/// 1. Of concurrent writes with the same expectation exactly one is Applied.
/// 2. Revisions of a key only grow, across writers and restarts.
/// 3. An operation sent again is never applied twice: it answers with its first revision, or Refused
///    (superseded operations included: never re-applied over a newer write).
/// 4. Every call ends within its timeout. A write that timed out after it may have been sent is
///    `Unknown`, never `Refused`; one never sent is `NotSent` and never lands later.
/// 5. Reads are the freshest the backend can give (a leader read), and never proof of anything.
/// 6. A bucket deleted, re-created or restored answers `Rejected(Incarnation)`, not data.
/// 7. Hints may be lost, late or repeated; nothing waits for one. There are none for the journal.
pub trait Store: Send + Sync + fmt::Debug {
    /// What this backend promises.
    fn capabilities(&self) -> Capabilities;

    /// Incarnation of the bucket as opened.
    fn incarnation(&self) -> Incarnation;

    /// The newest revision of `key`, freshly read, or `None` when it was never written.
    fn read<'a>(
        &'a self,
        key: &'a Key,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Option<Versioned>, ReadError>>;

    /// The newest revision of every key that agents decide by, in order of keys. Those of the journal
    /// are read one by one, by whoever wants to know.
    fn list(&self, timeout: Duration) -> BoxFuture<'_, Result<Vec<Versioned>, ReadError>>;

    /// Writes when the key is at the expected revision. Resolves unknown outcomes by itself within
    /// `timeout`: sends the identical operation again, then reads and compares the operation id.
    fn compare_and_set<'a>(
        &'a self,
        write: &'a Write,
        timeout: Duration,
    ) -> BoxFuture<'a, WriteOutcome>;

    /// The last revisions of `key`, oldest first, at most [`HISTORY_DEPTH`].
    fn history<'a>(
        &'a self,
        key: &'a Key,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<Versioned>, ReadError>>;

    /// Hints from now on. A receiver that lags has missed some: treat it as [`Hint::Resync`].
    fn changes(&self) -> broadcast::Receiver<Hint>;

    /// How the connection does, watched.
    fn health(&self) -> watch::Receiver<Health>;

    /// Counters since start.
    fn statistics(&self) -> Statistics;

    /// Messages between the agents that need no bucket, when this backend carries any.
    fn mail(&self) -> Option<Arc<dyn Mail>> {
        None
    }
}

/// Messages from agent to agent over the store's connections. Any may be lost, late or repeated.
pub trait Mail: Send + Sync + fmt::Debug {
    /// Sends `payload` to the agent of `to` and gives its answer, or why there is none.
    fn request<'a>(
        &'a self,
        to: &'a MemberId,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>>;

    /// What others send to `me`, until the receiver is dropped; it ends when the connection is given
    /// up, and says why when there can be none.
    fn letters<'a>(
        &'a self,
        me: &'a MemberId,
    ) -> BoxFuture<'a, Result<mpsc::Receiver<Letter>, String>>;

    /// Answers a letter, if that is possible now.
    fn reply(&self, to: Letter, payload: Vec<u8>) -> BoxFuture<'_, ()>;
}

/// A message that wants an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// What was sent.
    pub payload: Vec<u8>,
    /// Where the answer goes, in the backend's words.
    pub reply: String,
}
