//! Linear stories: what goes in, which effects come out, which state it leaves.

#![allow(clippy::wildcard_enum_match_arm, reason = "a story looks at one effect at a time")]

mod arithmetic;
mod bench;
mod candidate;
mod cluster;
mod demoting;
mod doubtful;
mod failback;
mod failed;
mod healthy;
mod hooks;
mod initializing;
mod journal;
mod judged;
mod membership;
mod names;
mod orders;
mod pauses;
mod promised;
mod promises;
mod promoting;
mod reasons;
mod rejoining;
mod settings;
mod shutdown;
mod store;
mod synchronous;
mod synchronous_takeover;
mod tokens;
mod watching;
mod yielding;
