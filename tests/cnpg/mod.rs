//! CloudNativePG: a double of it, and the agent in front of that.

mod double;
mod instances;
mod manifest;
mod sites;
