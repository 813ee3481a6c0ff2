//! Real agents, real PostgreSQL, real time.

mod bad_input;
mod cluster;
mod demo;
mod promises;
mod nats_trouble;
