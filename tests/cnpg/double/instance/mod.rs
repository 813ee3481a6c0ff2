//! Pods: the kubelet that runs them, the instance manager in them, a real PostgreSQL below that.

mod bootstrap;
mod files;
pub(crate) mod kubelet;
mod lease;
mod manager;
pub(crate) mod pass;
pub(crate) mod pod;
pub(crate) mod postgres;
mod postmaster;
mod probes;
