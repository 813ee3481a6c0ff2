//! Every integration test is one binary: it links once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod cli;
mod cnpg;
mod config;
mod conformance;
mod deploy;
mod fuzz;
mod live;
mod local;
mod sim;
mod support;
mod watchdog;
