//! A deterministic simulator of whole clusters around the real core (`adr/0001`, `docs/proof.md`).
//!
//! ```text
//!   seed ─► setup ─► world (real cores, everything else as data) ─► facts ─► invariants
//!             │        ▲                                                        │
//!             └► chaos ┘ faults                         violation ─► shrink ─► a short story
//! ```
//!
//! `SIM_SEED=n` replays one seed with its log; `SIM_SEEDS=n` runs that many, from `SIM_FROM` on.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a world is not the core: what it leaves out it leaves out"
)]

mod chaos;
mod invariants;
mod model;
mod mutant;
mod recorded;
mod rng;
mod run;
mod scenarios;
mod setup;
mod shrink;
mod tests;
mod times;
mod told;
mod world;

pub(crate) use rng::Rng;
