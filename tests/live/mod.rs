//! Real agents, real PostgreSQL, real time.

mod demo;
