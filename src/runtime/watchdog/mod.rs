//! The watchdog: a small separate process that kills the instance when the agent does not move a
//! deadline forward, whether the agent is dead, frozen or slow (`docs/protocol.md`, section 11).
//!
//! ```text
//!   agent ── client ──── Unix socket, fixed frames ────► process ── warden (decides) ── postmaster (kills)
//!            starts it, arms it, notices its death       outlives the agent; one at a time per socket
//! ```
//!
//! Obligations of the agent: it is armed only when the status says so, so wait for that *before*
//! PostgreSQL may write; after the watchdog fired, release it or arm it for a newer epoch before
//! PostgreSQL is started again, as whatever comes up without that is killed again.

pub mod client;
pub mod frame;
pub mod process;
pub mod warden;
