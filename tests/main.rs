//! Every integration test is one binary: it links once.

mod conformance;
mod support;
mod watchdog;
