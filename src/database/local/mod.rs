//! One PostgreSQL instance on this machine.
//!
//! The server is no child of the agent in any way that matters: it has a session of its own and goes
//! on when the agent is killed. Everything the agent knows about it can be found out again.
//!
//! A data directory is never deleted. One that cannot be used any more is renamed to
//! `<data_dir>.aside-<time>`; new ones are made beside it and renamed into place when complete.

mod account;
mod bootstrap;
mod clone;
mod conf;
mod control;
#[doc(hidden)]
pub mod decoders;
mod fence;
mod files;
mod follow;
mod keep;
mod look;
mod observe;
mod outcome;
mod place;
mod probe;
mod process;
mod progress;
mod promote;
mod rejoin;
mod require;
mod source;
mod sql;
mod start;
mod tool;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Database, Progress};
use crate::core::event::{Action, ActionOutcome, Done, Observation};
use crate::core::ids::MemberId;
use crate::postmaster::Instance;
use account::Account;
use look::Asker;
use outcome::{Failure, Step, outcome};
use place::Place;

/// Programs of PostgreSQL the adapter uses.
const PROGRAMS: [&str; 5] = ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"];

/// The oldest major version that takes a new upstream by reload.
const OLDEST: u32 = 13;

/// How long after a cancel an action may take to come to a safe place.
const GRACE: Duration = Duration::from_secs(2);

/// How often a server that nobody knows yet is looked for.
const LOOK_FOR_SERVER: Duration = Duration::from_millis(100);

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

/// Why the adapter cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// PostgreSQL refuses to run as root.
    #[error("the agent runs as root, but PostgreSQL must not: set `os_user`")]
    RootNeedsUser,
    /// The named user is root.
    #[error("os_user {name:?} is root: PostgreSQL refuses to run as root, name another user")]
    UserIsRoot {
        /// The setting.
        name: String,
    },
    /// Only root can run PostgreSQL as somebody else.
    #[error(
        "os_user {name:?} has user id {uid}, the agent runs as {me}: run the agent as that user or as root"
    )]
    OtherUser {
        /// The setting.
        name: String,
        /// Its user id.
        uid: u32,
        /// The agent's.
        me: u32,
    },
    /// The system does not know the user.
    #[error("cannot resolve os_user {name:?}: {detail}")]
    NoUser {
        /// The setting.
        name: String,
        /// What was seen.
        detail: String,
    },
    /// A program is not there.
    #[error("{} does not exist: set `bin_dir` to the directory of PostgreSQL's programs", path.display())]
    NoProgram {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The version is too old, or unreadable.
    #[error("`postgres --version` printed {printed:?}: version 13 or later is needed")]
    Version {
        /// What it printed.
        printed: String,
    },
    /// A path that must be absolute.
    #[error("{what} is {}: it must be an absolute path with a parent directory", path.display())]
    Path {
        /// The setting.
        what: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A parameter that cannot be enforced.
    #[error("parameter {name:?}: {rule}")]
    Parameter {
        /// Its name.
        name: String,
        /// What it breaks.
        rule: &'static str,
    },
    /// The process table is not readable.
    #[error("cannot read the process table: {0}")]
    Processes(String),
}

/// A PostgreSQL instance on this machine.
#[derive(Debug)]
pub struct Local {
    shared: Arc<Shared>,
    /// Held by the action under way, also after its caller has given up on it.
    acting: Arc<tokio::sync::Mutex<()>>,
}

/// What actions and looks share.
#[derive(Debug)]
struct Shared {
    place: Place,
    launcher: process::Launcher,
    control: control::ControlReader,
    instance: Mutex<Instance>,
    /// The postmaster last seen, for [`Local::died`].
    postmaster: Mutex<Option<Arc<files::Known>>>,
    watcher: tokio::sync::Mutex<observe::Watcher>,
    /// An open connection for the next action: a promotion must not wait for one.
    action: Mutex<Option<Arc<Asker>>>,
    /// The server was told to wait for standbys, and not yet to wait no more.
    required: AtomicBool,
    /// The postmaster whose commits are known to wait for standbys.
    waits: Mutex<Option<i32>>,
    /// What the server said about its role does not hold any more.
    role_changed: AtomicBool,
    /// How far a long action is.
    progress: watch::Sender<Option<Progress>>,
}

impl Local {
    /// Checks what can be checked without touching the data: programs, version, user, settings.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        for (what, path) in [("data_dir", &settings.data_dir), ("socket_dir", &settings.socket_dir)]
        {
            if !path.is_absolute() || path.parent().is_none() {
                return Err(SetupError::Path { what, path: path.clone() });
            }
        }
        conf::check(&settings)?;
        if let Some(path) = tool::missing(&settings.bin_dir, &PROGRAMS) {
            return Err(SetupError::NoProgram { path });
        }
        let account = Account::resolve(settings.os_user.as_deref())?;
        let major = major_version(&settings)?;
        let instance = Instance::new(&settings.data_dir)
            .map_err(|error| SetupError::Processes(error.to_string()))?;
        let shared = Shared {
            place: Place { settings, account, major },
            launcher: process::Launcher::default(),
            control: control::ControlReader::default(),
            instance: Mutex::new(instance),
            postmaster: Mutex::new(None),
            watcher: tokio::sync::Mutex::default(),
            action: Mutex::new(None),
            required: AtomicBool::new(false),
            waits: Mutex::new(None),
            role_changed: AtomicBool::new(false),
            progress: watch::Sender::new(None),
        };
        // What cannot be read says nothing; it is read again when it matters.
        let left = require::value(&shared.place).ok().flatten().is_some();
        shared.required.store(left, Ordering::Relaxed);
        Ok(Self { shared: Arc::new(shared), acting: Arc::default() })
    }

    /// Runs `action` in a task of its own, so that a step that blocks can be left behind: it keeps
    /// the next action out until it has ended.
    async fn run(&self, action: &Action, cancel: CancellationToken) -> ActionOutcome {
        let name = action.name();
        let guard = match Arc::clone(&self.acting).try_lock_owned() {
            Ok(guard) => Some(guard),
            Err(_) if matches!(action, Action::Fence { .. }) => None,
            Err(_) => {
                return ActionOutcome::Refused("an earlier action has not ended yet".to_owned());
            }
        };
        let inner = cancel.child_token();
        // Whoever drops this future wants the action to end, too.
        let _ends_with_us = inner.clone().drop_guard();
        let (shared, action) = (Arc::clone(&self.shared), action.clone());
        let mut task = tokio::spawn(async move {
            let _guard = guard;
            let ended = perform(&shared, &action, &inner).await;
            shared.progress.send_replace(None);
            ended
        });
        let ended = tokio::select! {
            ended = &mut task => Some(ended),
            () = async { cancel.cancelled().await; tokio::time::sleep(GRACE).await } => None,
        };
        match ended {
            Some(Ok(result)) => outcome(name, result),
            Some(Err(error)) => ActionOutcome::Unknown(format!("{name} ended early: {error}")),
            None => ActionOutcome::Unknown(format!("{name} was cancelled, but has not ended yet")),
        }
    }

    async fn wait_for_death(&self) {
        loop {
            let known = self.shared.known_postmaster();
            let Some(known) = known else {
                tokio::time::sleep(LOOK_FOR_SERVER).await;
                continue;
            };
            let Ok(pidfd) = known.pidfd.try_clone() else { return };
            process::ended(pidfd).await;
            let mut last = self.shared.postmaster.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_some_and(|last| last.pid == known.pid) {
                *last = None;
            }
            return;
        }
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

    /// The postmaster that runs, or ran until now; looked for when none is known.
    fn known_postmaster(&self) -> Option<Arc<files::Known>> {
        let known = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_some() {
            return known;
        }
        // Whoever holds the instance finds the postmaster for us.
        let mut instance = self.instance.try_lock().ok()?;
        files::find(&self.postmaster, &mut instance).ok()??;
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Process id of the postmaster that runs now, when it can be told at once.
    fn running_postmaster(&self) -> Option<i32> {
        let mut instance = self.instance.try_lock().ok()?;
        files::find(&self.postmaster, &mut instance).ok()?.map(|server| server.pid)
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
        Action::Checkpoint => promote::checkpoint(shared, cancel).await,
        Action::Fence { ladder } => fence::fence(shared, *ladder, cancel).await,
    }
}

impl Database for Local {
    fn observe(&self, timeout: Duration) -> BoxFuture<'_, Observation> {
        Box::pin(observe::observe(&self.shared, timeout))
    }

    fn died(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.wait_for_death())
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

fn major_version(settings: &Settings) -> Result<u32, SetupError> {
    let program = settings.bin_dir.join("postgres");
    let mut command = Command::new(&program);
    tool::clean_environment(&mut command);
    let output = command.arg("--version").current_dir("/").output();
    let printed = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    major(&printed).ok_or(SetupError::Version { printed })
}

/// From "postgres (PostgreSQL) 15.18 (Debian …)", "postgres (PostgreSQL) 19beta1".
fn major(printed: &str) -> Option<u32> {
    let number = printed.split_whitespace().nth(2).unwrap_or_default();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|&major| major >= OLDEST)
}
