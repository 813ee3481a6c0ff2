//! One binary with all integration tests.

mod watchdog;
