//! One PostgreSQL server on this machine, as every kind of member sees it: looked at, asked, stopped.
//!
//! The server is no child of the agent in any way that matters: it has a session of its own and goes
//! on when the agent is killed. Everything the agent knows about it can be found out again.

pub(in crate::database) mod account;
pub(in crate::database) mod conninfo;
pub(in crate::database) mod control;
pub(in crate::database) mod fence;
pub(in crate::database) mod files;
pub(in crate::database) mod look;
pub(in crate::database) mod observe;
pub(in crate::database) mod outcome;
pub(in crate::database) mod place;
pub(in crate::database) mod probe;
pub(in crate::database) mod process;
pub(in crate::database) mod progress;
pub(in crate::database) mod sql;
pub(in crate::database) mod timeline;
pub(in crate::database) mod tool;
pub(in crate::database) mod wait;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::postmaster::Instance;
use account::Account;
use look::Asker;
use place::Place;

/// The oldest major version that takes a new upstream by reload.
const OLDEST: u32 = 13;

/// How often a server that nobody knows yet is looked for.
const LOOK_FOR_SERVER: Duration = Duration::from_millis(100);

/// Where the server is and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::database) struct At {
    /// PostgreSQL's data directory.
    pub(in crate::database) data_dir: PathBuf,
    /// Directory of PostgreSQL's programs.
    pub(in crate::database) bin_dir: PathBuf,
    /// Port of PostgreSQL.
    pub(in crate::database) port: u16,
    /// Directory of the Unix socket.
    pub(in crate::database) socket_dir: PathBuf,
    /// Database superuser, used over the Unix socket.
    pub(in crate::database) superuser: String,
    /// Database to connect to.
    pub(in crate::database) database: String,
    /// Time without an answer (or finished write probe) after which a living database counts as hung.
    pub(in crate::database) hung_after: Duration,
    /// Time between write probes on a primary; zero switches them off.
    pub(in crate::database) write_probe_interval: Duration,
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
    #[error(
        "`--version` of PostgreSQL's programs printed {printed:?}: version 13 or later is needed"
    )]
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
    /// The way to the API server.
    #[error("{0}")]
    Api(String),
    /// The Cluster of CloudNativePG cannot be led.
    #[error("about the Cluster: {0}")]
    Cluster(String),
    /// The process table is not readable.
    #[error("cannot read the process table: {0}")]
    Processes(String),
}

/// A server on this machine.
#[derive(Debug)]
pub(in crate::database) struct Server {
    pub(in crate::database) place: Place,
    /// What has to be in its `bin_dir`; the first one tells the version.
    pub(in crate::database) programs: &'static [&'static str],
    pub(in crate::database) launcher: process::Launcher,
    pub(in crate::database) control: control::ControlReader,
    pub(in crate::database) instance: Mutex<Instance>,
    /// The postmaster last seen, for [`Server::died`].
    pub(in crate::database) postmaster: Mutex<Option<Arc<files::Known>>>,
    pub(in crate::database) watcher: tokio::sync::Mutex<observe::Watcher>,
    /// An open connection for the next action: a promotion must not wait for one.
    pub(in crate::database) action: Mutex<Option<Arc<Asker>>>,
    /// The server was told to wait for standbys, and not yet to wait no more.
    pub(in crate::database) required: AtomicBool,
    /// What the server said about its role does not hold any more.
    pub(in crate::database) role_changed: AtomicBool,
}

impl Server {
    /// Checks what can be checked without touching the data: programs, version, user, paths.
    pub(in crate::database) fn new(
        at: At,
        os_user: Option<&str>,
        programs: &'static [&'static str],
    ) -> Result<Self, SetupError> {
        for (what, path) in [("data_dir", &at.data_dir), ("socket_dir", &at.socket_dir)] {
            if !path.is_absolute() || path.parent().is_none() {
                return Err(SetupError::Path { what, path: path.clone() });
            }
        }
        if let Some(path) = tool::missing(&at.bin_dir, programs) {
            return Err(SetupError::NoProgram { path });
        }
        let account = Account::resolve(os_user)?;
        let asked = programs.first().copied().unwrap_or("postgres");
        let major = major_version(&at.bin_dir.join(asked))?;
        let instance = Instance::new(&at.data_dir)
            .map_err(|error| SetupError::Processes(error.to_string()))?;
        Ok(Self {
            place: Place { at, account, major },
            programs,
            launcher: process::Launcher::default(),
            control: control::ControlReader::default(),
            instance: Mutex::new(instance),
            postmaster: Mutex::new(None),
            watcher: tokio::sync::Mutex::default(),
            action: Mutex::new(None),
            required: AtomicBool::new(false),
            role_changed: AtomicBool::new(false),
        })
    }

    /// Resolves when the postmaster that runs, or the next one, ends.
    pub(in crate::database) async fn died(&self) {
        loop {
            let known = self.known_postmaster();
            let Some(known) = known else {
                tokio::time::sleep(LOOK_FOR_SERVER).await;
                continue;
            };
            let Ok(pidfd) = known.pidfd.try_clone() else { return };
            process::ended(pidfd).await;
            let mut last = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_some_and(|last| last.pid == known.pid) {
                *last = None;
            }
            return;
        }
    }

    /// The postmaster that runs, or ran until now; looked for when none is known.
    pub(in crate::database) fn known_postmaster(&self) -> Option<Arc<files::Known>> {
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
    pub(in crate::database) fn running_postmaster(&self) -> Option<i32> {
        let mut instance = self.instance.try_lock().ok()?;
        files::find(&self.postmaster, &mut instance).ok()?.map(|server| server.pid)
    }
}

fn major_version(program: &Path) -> Result<u32, SetupError> {
    let mut command = Command::new(program);
    tool::clean_environment(&mut command);
    let output = command.arg("--version").current_dir("/").output();
    let printed = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    major(&printed).ok_or(SetupError::Version { printed })
}

/// From "postgres (PostgreSQL) 15.18 (Debian …)", "postgres (PostgreSQL) 19beta1".
pub(in crate::database) fn major(printed: &str) -> Option<u32> {
    let number = printed.split_whitespace().nth(2).unwrap_or_default();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|&major| major >= OLDEST)
}
