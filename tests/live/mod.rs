//! Real agents, real PostgreSQL, real time.

mod bad_input;
mod cluster;
mod demo;
mod nats_trouble;
