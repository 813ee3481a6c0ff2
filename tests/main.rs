//! Tests of the whole, in one binary.

mod local;
mod support;
