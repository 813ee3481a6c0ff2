//! The local adapter against real PostgreSQL.

mod fence;
mod rejoin;
mod require;
mod start;
mod trouble;
