//! High-availability failover agent for PostgreSQL.

pub mod config;
pub mod core;
pub mod database;
pub mod postmaster;
pub mod runtime;
pub mod store;
