//! The watchdog and the killer beneath it, against a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "test support")]

mod agent;
mod guard;
mod kill;
mod postgres;
mod wire;

use std::time::Duration;

use harmony_agent::postmaster::now;

/// Longer than anything here takes on a machine that is not on fire.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; fails, with what was waited for, when it does not.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = now() + PATIENCE;
    while !condition() {
        assert!(now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
