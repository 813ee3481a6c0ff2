//! The embedded default: one SQLite file shared by the agents of one machine.

use std::path::PathBuf;

/// Where the file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The database file; its directory must exist and be on a local file system.
    pub path: PathBuf,
}
