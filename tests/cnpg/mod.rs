//! CloudNativePG: a double of it, and the agent in front of that.

mod double;
mod manifest;
mod sites;
