//! Linear stories: what goes in, which effects come out, which state it leaves.

#![allow(clippy::wildcard_enum_match_arm, reason = "a story looks at one effect at a time")]

mod arithmetic;
mod bench;
mod candidate;
mod cluster;
mod failed;
mod healthy;
mod initializing;
mod membership;
mod names;
mod orders;
mod promised;
mod promises;
mod promoting;
mod reasons;
mod shutdown;
mod store;
mod watching;
mod yielding;
