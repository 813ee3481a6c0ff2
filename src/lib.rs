//! High-availability failover agent for PostgreSQL.

pub mod cli;
pub mod config;
pub mod core;
pub mod database;
pub mod http;
pub mod metrics;
pub mod store;
pub mod telemetry;
pub mod tls;
