//! Configuration: a TOML file, the environment and flags become one checked [`Config`].
//!
//! ```text
//! file ─► environment ─► flags      the later wins; unknown keys are refused everywhere
//!    └────────┴────────────┴─► values of the kinds in the table of keys ─► Config ─► rules
//!                                      (every problem, not the first)
//! ```
//!
//! Every key can be set in all three ways: `[timing] lease_duration = "1s"` in the file,
//! `HARMONY_TIMING__LEASE_DURATION=1s` in the environment (upper case, `__` between section and
//! name), `--set timing.lease_duration=1s` on the command line. Secrets come from files only.

pub mod budget;
mod build;
mod check;
mod cluster;
mod keys;
mod show;
mod source;
mod table;
mod template;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::core::event::ShutdownMode;
use crate::core::ids::{ClusterId, MemberId};
use crate::core::policy::Policy;
use crate::core::records::Address;
use crate::{database, hooks, recording, store};

pub use check::{TimingRule, policy_problems};
pub use cluster::{CLUSTER_KEYS, Changes, effective, unset_for_cluster};
pub use keys::{Default, Key, Kind};
pub use source::{FILE_VARIABLE, Origin, Sources};
pub use table::KEYS;
pub use template::template;
pub use value::show_duration;

/// Where the configuration lies when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/harmony-agent/harmony-agent.toml";

/// A checked configuration: every rule between its values holds.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster this agent belongs to.
    pub cluster_id: ClusterId,
    /// The member it speaks for.
    pub member: MemberId,
    /// Directory for what no restart may forget.
    pub state_dir: PathBuf,
    /// Where the timings started from.
    pub profile: Profile,
    /// Timings and rules for the core.
    pub policy: Policy,
    /// The store of the cluster.
    pub store: Store,
    /// The database of the member.
    pub database: Database,
    /// Where other members and clients reach this one.
    pub address: Address,
    /// File with the secret that agents sign their messages with.
    pub peers_secret_file: Option<PathBuf>,
    /// Programs that run on transitions.
    pub hooks: hooks::Settings,
    /// What happens to PostgreSQL when the agent is told to stop.
    pub on_sigterm: ShutdownMode,
    /// Address and port of the HTTP listener.
    pub http_listen: SocketAddr,
    /// Where what the core is told and asks for is recorded, unless it is not.
    pub recording: Option<recording::Settings>,
    /// How logs look.
    pub log_format: LogFormat,
    /// What is logged, in the words of `tracing_subscriber::EnvFilter`.
    pub log_level: String,
}

/// A starting point of the timings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// A lease of 1 s.
    Fast,
    /// A lease of 15 s: rides out the election of a NATS leader.
    Standard,
    /// A lease of 25 s: for sites that are cut off and come back.
    Wan,
}

impl Profile {
    /// All of them, in the order of [`Default::ByProfile`].
    pub const ALL: [Self; 3] = [Self::Fast, Self::Standard, Self::Wan];

    /// The word for it in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Standard => "standard",
            Self::Wan => "wan",
        }
    }
}

/// The store of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// A file shared by the agents of one machine.
    Sqlite(store::sqlite::Settings),
    /// NATS JetStream.
    Nats(store::nats::Settings),
}

impl Store {
    /// The word for it in the configuration.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Nats(_) => "nats",
        }
    }
}

/// The database of the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// A PostgreSQL instance on this machine.
    Local(database::local::Settings),
    /// A site of CloudNativePG.
    Cnpg(database::cnpg::Settings),
}

impl Database {
    /// PostgreSQL's data directory.
    pub fn data_dir(&self) -> &std::path::Path {
        match self {
            Self::Local(local) => &local.data_dir,
            Self::Cnpg(cnpg) => &cnpg.pgdata,
        }
    }

    /// PostgreSQL's port, where something else than the agent starts it.
    pub fn port_to_hold(&self) -> Option<u16> {
        match self {
            Self::Local(_) => None,
            Self::Cnpg(cnpg) => Some(cnpg.port),
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Something wrong, or questionable, in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was said; `None` for a rule between several values.
    pub origin: Option<Origin>,
    /// Key, value, the rule broken and what to do.
    pub what: String,
}

impl Problem {
    fn new(origin: Option<Origin>, what: String) -> Self {
        Self { origin, what }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file itself could not be read.
    #[error(
        "configuration file {} cannot be read: {error}; name another with --config or {FILE_VARIABLE}",
        path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Values are wrong: every problem found, and warnings besides.
    #[error("the configuration has {} problem(s)", problems.len())]
    Invalid {
        /// What has to be mended.
        problems: Vec<Problem>,
        /// What should be looked at.
        warnings: Vec<Problem>,
    },
}

/// A configuration with what was noticed on the way.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What should be looked at.
    pub warnings: Vec<Problem>,
    /// Every key that has a value, as it was read, with where it came from.
    pub effective: Vec<Effective>,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// The key.
    pub key: &'static str,
    /// Its value, as the file would say it.
    pub value: String,
    /// Where it came from.
    pub origin: String,
}

/// Reads, completes and checks the configuration.
///
/// # Errors
/// [`LoadError::File`] when the file cannot be read, [`LoadError::Invalid`] with every problem
/// when values are wrong or break a rule.
pub fn load(sources: &Sources) -> Result<Loaded, LoadError> {
    build::load(sources)
}

/// What a file of this text, variables and flags amount to, without looking at any file they name;
/// for the fuzzing in `tests/fuzz`.
///
/// # Errors
/// As [`load`].
#[doc(hidden)]
pub fn decode(file: &str, sources: &Sources) -> Result<Loaded, LoadError> {
    build::decode(file, sources)
}

/// Address of the local agent's HTTP listener, without asking for a complete configuration.
///
/// # Errors
/// As [`load`], for the file and for this key.
pub fn http_listen(sources: &Sources) -> Result<SocketAddr, LoadError> {
    build::http_listen(sources)
}
