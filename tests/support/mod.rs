//! Helpers shared by the integration tests.

pub(crate) mod nats;
pub(crate) mod proxy;
