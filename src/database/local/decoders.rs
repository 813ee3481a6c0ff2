//! Doors to what reads texts of PostgreSQL and its programs, for the fuzzing in `tests/fuzz`.

use crate::core::ids::{Lsn, SystemId, TimelineId};
use crate::database::server::control::{ClusterState, Control};

/// What `pg_controldata` printed: system, timeline, end of the log, in recovery, clean.
///
/// # Errors
/// What is missing or damaged.
pub fn control(
    text: &str,
    errors: &str,
) -> Result<(SystemId, TimelineId, Lsn, bool, bool), String> {
    let control = Control::parse(text, errors)?;
    Ok((control.system, control.timeline, control.end(), control.in_recovery(), control.is_clean()))
}

/// `pg_controldata`'s words for each state, as far as they are told apart.
pub const STATES: [(&str, bool, bool); 4] = [
    ("shut down", false, true),
    ("shut down in recovery", true, true),
    ("in archive recovery", true, false),
    ("in production", false, false),
];

/// The same as a state, to see that no two are taken for one another.
pub fn is_primary_shut_down(text: &str) -> Option<bool> {
    Control::parse(text, "").ok().map(|control| control.state == ClusterState::ShutDown)
}

/// A timeline history file.
pub fn history(text: &str) -> Vec<(TimelineId, Lsn)> {
    crate::database::server::timeline::history(text)
}

/// Host and port in a `primary_conninfo`.
pub fn conninfo(text: &str) -> Option<(String, u16)> {
    crate::database::server::conninfo::parse_conninfo(text)
}

/// A connection string as we write it.
pub fn written_conninfo(host: &str, port: u16) -> String {
    format!("host={} port={port} user={}", super::conf::quote(host), super::conf::quote("user"))
}

/// `postgresql.conf` lines as we write them.
pub fn rendered(settings: &std::collections::BTreeMap<String, String>) -> String {
    super::conf::render(settings)
}

/// Name and position of an attached standby, as the query gives them.
pub fn standby(line: &str) -> Option<(String, Lsn)> {
    crate::database::server::look::standby(line)
}

/// The timeline in the name of a WAL file.
pub fn timeline(digits: &str) -> Option<u32> {
    crate::database::server::look::timeline(digits)
}

/// The kind of a server process by its title.
pub fn role(title: &str) -> Option<&str> {
    crate::database::server::progress::role(title)
}

/// State and processor time in `/proc/<pid>/stat`.
pub fn stat(text: &str) -> Option<(char, u64)> {
    crate::database::server::progress::read_stat(text)
}

/// The major version that `postgres --version` printed.
pub fn major(printed: &str) -> Option<u32> {
    crate::database::server::major(printed)
}

/// The last lines of what a program said.
pub fn last_lines(text: &str, count: usize) -> String {
    crate::database::server::tool::last_lines(text, count)
}
