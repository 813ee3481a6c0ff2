//! One PostgreSQL instance on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::ids::MemberId;

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
