//! Real agents, real PostgreSQL, real time.

mod bad_input;
mod bad_place;
mod checks;
mod client;
mod cluster;
mod demo;
mod settings;
mod writers;
