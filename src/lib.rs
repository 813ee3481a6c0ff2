//! High-availability failover agent for PostgreSQL.
//!
//! ```text
//! main ─► cli ─► config
//!           └─► runtime::driver ─► store · database · hooks · http · watchdog     siblings never import each other
//!                  │   ▲
//!      (now, event)▼   │ effects, deadline, status                         adapters speak core's types only
//!                core::agent ─► primary / replica ─► lease, candidate, view ─► ids, time
//! ```

pub mod cli;
pub mod config;
pub mod core;
pub mod database;
pub mod hooks;
pub mod http;
pub mod metrics;
pub mod operator;
pub mod postmaster;
pub mod recording;
pub mod runtime;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod tls;
