//! The local adapter against real PostgreSQL.

mod fence;
mod rejoin;
mod start;
mod trouble;
