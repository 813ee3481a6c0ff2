//! Linear stories: what goes in, which effects come out, which state it leaves.

mod arithmetic;
mod bench;
mod candidate;
mod cluster;
mod failed;
mod healthy;
mod initializing;
mod names;
mod promoting;
mod shutdown;
mod store;
mod watching;
mod yielding;
