//! One PostgreSQL instance on this machine.
//!
//! The server is no child of the agent in any way that matters: it has a session of its own and goes
//! on when the agent is killed. Everything the agent knows about it can be found out again.
//!
//! A data directory is never deleted. One that cannot be used any more is renamed to
//! `<data_dir>.aside-<time>`; new ones are made beside it and renamed into place when complete.

mod bootstrap;
mod clone;
mod conf;
#[doc(hidden)]
pub mod decoders;
mod follow;
mod keep;
mod promote;
mod rejoin;
mod require;
mod source;
mod start;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use super::SetupError;
use super::acting::Acting;
use super::server::fence::fence;
use super::server::outcome::{Failure, Step};
use super::server::{self, At, Server, observe, timeline, tool};
use super::{Database, Progress};
use crate::core::event::{Action, ActionOutcome, Done, Observation};
use crate::core::ids::MemberId;

/// Programs of PostgreSQL the adapter uses.
const PROGRAMS: [&str; 5] = ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"];

/// What the instance is and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This member; also the standby's `application_name`.
    pub member: MemberId,
    /// PostgreSQL's data directory.
    pub data_dir: PathBuf,
    /// Directory of `postgres`, `initdb`, `pg_basebackup`, `pg_rewind`, `pg_controldata`.
    pub bin_dir: PathBuf,
    /// Port of PostgreSQL.
    pub port: u16,
    /// `listen_addresses`.
    pub listen: String,
    /// Directory of the Unix socket.
    pub socket_dir: PathBuf,
    /// Operating system user PostgreSQL runs as; must be set when the agent runs as root.
    pub os_user: Option<String>,
    /// Database superuser, used over the Unix socket.
    pub superuser: String,
    /// Database to connect to.
    pub database: String,
    /// User for replication and rewinding, used over TCP between members.
    pub replication_user: String,
    /// File with that user's password; none means the servers trust it (pg_hba.conf is the users').
    pub replication_password_file: Option<PathBuf>,
    /// `wal_keep_size`: WAL kept for members that were away, in MiB.
    pub wal_keep_mib: u32,
    /// Further settings of postgresql.conf that the agent enforces.
    pub parameters: BTreeMap<String, String>,
    /// Time without an answer (or finished write probe) after which a living database counts as hung.
    pub hung_after: Duration,
    /// Time between write probes on a primary; zero switches them off.
    pub write_probe_interval: Duration,
}

/// A PostgreSQL instance on this machine.
#[derive(Debug)]
pub struct Local {
    shared: Arc<Shared>,
    acting: Acting,
}

/// What actions and looks share.
#[derive(Debug)]
struct Shared {
    server: Arc<Server>,
    place: Place,
    /// The postmaster whose commits are known to wait for standbys.
    waits: Mutex<Option<i32>>,
    /// How far a long action is.
    progress: watch::Sender<Option<Progress>>,
}

impl Deref for Shared {
    type Target = Arc<Server>;

    fn deref(&self) -> &Arc<Server> {
        &self.server
    }
}

/// The instance's files, and the settings of what the agent writes into them.
#[derive(Clone, Debug)]
struct Place {
    base: server::place::Place,
    settings: Settings,
}

impl Deref for Place {
    type Target = server::place::Place;

    fn deref(&self) -> &server::place::Place {
        &self.base
    }
}

impl Local {
    /// Checks what can be checked without touching the data: programs, version, user, settings.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        conf::check(&settings)?;
        let server = Server::new(
            At {
                data_dir: settings.data_dir.clone(),
                bin_dir: settings.bin_dir.clone(),
                port: settings.port,
                socket_dir: settings.socket_dir.clone(),
                superuser: settings.superuser.clone(),
                database: settings.database.clone(),
                hung_after: settings.hung_after,
                write_probe_interval: settings.write_probe_interval,
            },
            settings.os_user.as_deref(),
            &PROGRAMS,
        )?;
        let shared = Shared {
            place: Place { base: server.place.clone(), settings },
            server: Arc::new(server),
            waits: Mutex::new(None),
            progress: watch::Sender::new(None),
        };
        // What cannot be read says nothing; it is read again when it matters.
        let left = require::value(&shared.place).ok().flatten().is_some();
        shared.required.store(left, Ordering::Relaxed);
        Ok(Self { shared: Arc::new(shared), acting: Acting::default() })
    }

    async fn run(&self, action: &Action, cancel: CancellationToken) -> ActionOutcome {
        let (shared, doing) = (Arc::clone(&self.shared), action.clone());
        let work = |inner: CancellationToken| async move {
            let ended = perform(&shared, &doing, &inner).await;
            shared.progress.send_replace(None);
            ended
        };
        self.acting.run(action, cancel, work).await
    }
}

impl Shared {
    /// A long action is at this step, which is about so many bytes.
    fn at(&self, step: &str, total: Option<u64>) {
        self.progress.send_replace(Some(Progress { step: step.to_owned(), done: None, total }));
    }

    /// A program of PostgreSQL said how far it is, if that is what it said.
    fn said(&self, words: &str) {
        let Some((done, total)) = tool::progress(words) else { return };
        self.progress.send_modify(|progress| {
            if let Some(progress) = progress {
                (progress.done, progress.total) = (Some(done), Some(total));
            }
        });
    }
}

async fn perform(shared: &Arc<Shared>, action: &Action, cancel: &CancellationToken) -> Step<Done> {
    match action {
        Action::Bootstrap => bootstrap::bootstrap(shared, cancel).await,
        Action::Clone { upstream } => clone::clone(shared, upstream, cancel).await,
        Action::Follow { upstream } => follow::follow(shared, upstream.as_ref(), cancel).await,
        Action::Rejoin { upstream } => rejoin::rejoin(shared, upstream, cancel).await,
        Action::StartPrimary => start::start_primary(shared, cancel).await,
        Action::Promote => promote::promote(shared, cancel).await,
        // `Policy.demotes` is false for this kind of database, so the core asks for neither.
        Action::Demote { .. } | Action::PromoteWith { .. } => Err(Failure::Refused(
            "tokens and demotions are CloudNativePG's; a local database is fenced and promoted without".to_owned(),
        )),
        Action::Require { requirement } => require::require(shared, requirement, cancel).await,
        Action::Checkpoint => timeline::checkpoint(shared, cancel).await,
        Action::Fence { ladder } => fence(shared, *ladder, cancel).await,
    }
}

impl Database for Local {
    fn observe(&self, timeout: Duration) -> BoxFuture<'_, Observation> {
        Box::pin(observe::observe(&self.shared.server, timeout))
    }

    fn died(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.died())
    }

    fn act<'a>(
        &'a self,
        action: &'a Action,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, ActionOutcome> {
        Box::pin(self.run(action, cancel))
    }

    fn progress(&self) -> watch::Receiver<Option<Progress>> {
        self.shared.progress.subscribe()
    }
}
