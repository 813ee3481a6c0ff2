//! Every integration test is one binary: it links once.

mod cli;
mod config;
mod conformance;
mod support;
mod watchdog;
