//! Decides. No clock, no I/O, no randomness, no tracing, no async; `std` and `serde` only.
//!
//! ```text
//!                    (now, Event)                              Effects, deadline(), status()
//!   driver ───────────────────────────► agent ───────────────────────────────────────────► driver
//!                                         │
//!                     primary / replica: one enum each, a file per state
//!                                         │
//!               shared: operations under way, alarms, our heartbeat, the floor, promises
//!                    │             │              │
//!                   view         lease        candidate    records · promise · ids · time · policy
//! ```
//!
//! The contract:
//! 1. `now` never goes back. Same events at the same times give the same effects, byte for byte.
//! 2. "B after A has finished" is a state waiting for A's completion, never the order of effects.
//! 3. Every effect with an operation id is answered by exactly one completion, also on timeout,
//!    cancellation and panic. A completion nobody waits for any more is ignored and counted.
//! 4. Deadlines are pulled with `deadline()`; there are no timers to cancel.
//! 5. Transitions are reported by [`event::Effect::Became`] and by nothing else.
//! 6. An outcome is Applied, Refused or Unknown; a timeout is never a failure.
//! 7. [`agent::Agent`] is `Clone + Eq + Hash`, so that it can be searched exhaustively.

pub mod agent;
pub mod candidate;
pub mod event;
pub mod hook;
pub mod ids;
pub mod journal;
mod lease;
pub mod membership;
pub mod order;
mod plain;
pub mod policy;
mod primary;
pub mod promise;
pub mod reason;
pub mod records;
mod replica;
mod shared;
pub mod status;
pub mod synchronous;
pub mod time;
pub mod timing;
pub mod token;
mod view;

#[cfg(test)]
mod tests;

pub use agent::{Agent, Deadline};
pub use shared::{Identity, header, operation};
