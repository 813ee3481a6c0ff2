//! The embedded default: one SQLite file shared by the agents of one machine.
//!
//! ```text
//! Sqlite ── jobs ──▶ worker (one thread) ──▶ database (the file)
//!    ▲                     ▲      │ rings after each commit
//!    └──── hints ──────────┘◀── bell (a file beside it, watched with inotify)
//! ```

mod bell;
mod database;
mod trouble;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, watch};
use tokio_util::task::AbortOnDropHandle;

use super::pulse::Pulse;
use super::{
    Capabilities, Health, Hint, Key, OpenError, ReadError, Statistics, Store, Versioned, Write,
    WriteOutcome,
};
use crate::core::ids::{ClusterId, Incarnation};
use worker::Worker;

/// Where the file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The database file; its directory must exist and be on a local file system.
    pub path: PathBuf,
}

/// One agent's handle on the file.
#[derive(Debug)]
pub struct Sqlite {
    incarnation: Incarnation,
    worker: Worker,
    pulse: Arc<Pulse>,
    _listener: AbortOnDropHandle<()>,
}

impl Sqlite {
    /// Opens the file, creating it when there is none.
    ///
    /// # Errors
    /// [`OpenError::Unavailable`] when it stayed locked for `timeout`, [`OpenError::Rejected`] when
    /// it cannot be used: no such directory, no permission, damaged, another program's, another
    /// cluster's, or on a network file system.
    pub async fn open(
        cluster: &ClusterId,
        settings: &Settings,
        timeout: Duration,
    ) -> Result<Self, OpenError> {
        let pulse = Arc::new(Pulse::new(true));
        let (worker, incarnation) =
            Worker::start(settings.path.clone(), cluster.clone(), Arc::clone(&pulse), timeout)
                .await?;
        let listener = bell::listen(&settings.path, worker.announcer(), Arc::clone(&pulse));
        Ok(Self { incarnation, worker, pulse, _listener: listener })
    }
}

impl Store for Sqlite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "sqlite",
            durable: true,
            replicated: false,
            version: rusqlite::version().to_owned(),
        }
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation.clone()
    }

    fn read<'a>(
        &'a self,
        key: &'a Key,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Option<Versioned>, ReadError>> {
        let key = key.clone();
        self.worker.ask(timeout, move |database| database.read(&key)).boxed()
    }

    fn list(&self, timeout: Duration) -> BoxFuture<'_, Result<Vec<Versioned>, ReadError>> {
        self.worker.ask(timeout, database::Database::list).boxed()
    }

    fn compare_and_set<'a>(
        &'a self,
        write: &'a Write,
        timeout: Duration,
    ) -> BoxFuture<'a, WriteOutcome> {
        self.worker.write(write.clone(), timeout).boxed()
    }

    fn history<'a>(
        &'a self,
        key: &'a Key,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<Versioned>, ReadError>> {
        let key = key.clone();
        self.worker.ask(timeout, move |database| database.history(&key)).boxed()
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
