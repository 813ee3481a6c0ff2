//! One suite for every backend.

mod local;
mod on_nats;
mod suite;
