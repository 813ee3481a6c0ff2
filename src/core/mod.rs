//! Decides. No clock, no I/O, no randomness, no tracing, no async; `std` and `serde` only.

pub mod event;
pub mod ids;
pub mod policy;
pub mod reason;
pub mod records;
pub mod time;
