//! Helpers shared by the integration tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails right there")]

pub(crate) mod disk;
pub(crate) mod identity;
pub(crate) mod nats;
pub(crate) mod netns;
pub(crate) mod postgres;
pub(crate) mod proxy;
