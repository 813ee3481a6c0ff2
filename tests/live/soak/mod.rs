//! Real faults: real agents, PostgreSQL and three NATS servers, each on a machine of its own as far as
//! the network goes. Rounds are drawn from a seed; what clients were told is judged. How to run them,
//! and what each fault is: docs/battle-tests.md.

#![allow(clippy::wildcard_enum_match_arm, reason = "faults are sorted by what they are about")]

mod classes;
mod clients;
mod history;
mod inject;
mod leftovers;
mod links;
mod plan;
mod report;
mod restore;
mod round;
mod tests;
mod view;
mod world;
