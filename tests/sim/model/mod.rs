//! Exhaustive search of bounded worlds (`adr/0014`, `docs/proof.md`): the simulator's world and its real
//! cores without chance, and everything that may go wrong tried at every layer of time.
//!
//! ```text
//!   bounds ─► roots: worlds that work (or are empty), nothing drawn
//!                │
//!                ▼     a layer: part of a heartbeat interval
//!   state ──► which faults begin ──► fates of messages, orders of what waited ──► states of the next layer
//!     ▲       World::actions         fate.rs, chosen as they come up                    │
//!     └────────────── those not seen yet, by a hash of all that can matter ◄────────────┘
//!                                        canon.rs
//! ```
//!
//! All invariants of `sim::invariants` are checked after each thing that happens, and what they remember is
//! part of a state. What is not tried, and why that is harmless:
//!
//! - **Another first heartbeat.** The first fault begins within one interval: a cluster that works
//!   repeats itself (tested: one or five intervals later the same number of states is reached in each layer).
//! - **Orders of what concerns different machines only.** Steps of two machines commute unless they
//!   meet in the store, in a message, or in replication. Orders in the store are tried by the fates
//!   *overtaken* and *late*, by phases between members, and by paces; those of messages the same way.
//! - **Orders within one process** are the core's driver's: one event after the other, as they come.
//! - **Faults between two layers.** A finer search covers them with one fault; with two they begin at
//!   heartbeats (halves with `just model`), and fates of messages at any time.
//! - **What is spent**: timers that were moved, answers nobody waits for. They do nothing.
//! - **Paths with more faults used** to a state that another reaches with fewer: what follows is a part of
//!   what follows there.

pub(crate) mod bounds;
pub(crate) mod canon;
pub(crate) mod fate;
pub(crate) mod search;
pub(crate) mod terms;
mod tests;

pub(crate) use terms::Terms;
