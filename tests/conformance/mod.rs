//! One suite for every backend.

mod local;
mod suite;
