//! The double itself.

mod api;
