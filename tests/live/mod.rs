//! Real agents, real PostgreSQL, real time.

mod account;
mod adopt;
mod bad_input;
mod bad_place;
mod bench;
pub(crate) mod checks;
pub(crate) mod client;
pub(crate) mod cluster;
mod conditions;
mod demo;
mod demo_operating;
mod explain;
mod hooks;
mod members;
mod nats_trouble;
pub(crate) mod orders;
mod pauses;
mod promises;
mod recording;
mod refusals;
mod set;
mod settings;
mod soak;
mod switchovers;
mod synchronous;
mod writers;
