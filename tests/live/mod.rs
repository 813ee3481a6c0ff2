//! Real agents, real PostgreSQL, real time.

mod account;
mod adopt;
mod bad_input;
mod bad_place;
mod checks;
mod client;
mod cluster;
mod conditions;
mod demo;
mod members;
mod nats_trouble;
mod orders;
mod promises;
mod recording;
mod settings;
mod soak;
mod writers;
