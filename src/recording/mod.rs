//! Recordings: what the core was told, when, and what it asked for, so that it can be asked again.
//!
//! ```text
//!   driver ─► (time, event, effects) ─► runtime::recording ─► lines in a file
//!                                                               │
//!   first difference ◄─ replay: the same core, the same events ◄┘
//! ```
//!
//! A recording is a sequence of lines of JSON. A `start` carries the whole core, from which the steps
//! after it can be computed again; a `step` carries a time, an event and the effects. Why so:
//! `adr/0015`.

pub mod difference;
pub mod line;
pub mod replay;

use std::path::PathBuf;

pub use line::{LONGEST_LINE, SCHEMA, Start, Step};
pub use replay::{Replay, ReplayError, Taken};

/// Where the recording lies, and how long it may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file; the older half is beside it, with `.1` added.
    pub file: PathBuf,
    /// Bytes that both may take.
    pub max_size: u64,
}
