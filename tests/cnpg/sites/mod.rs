//! Real agents, each beside the pod of a site: two doubles of Kubernetes with CloudNativePG, a real
//! PostgreSQL in each, one store.

mod api;
mod failover;
mod fences;
mod founding;
mod frozen;
mod hibernated;
mod kills;
mod manifests;
mod measure;
pub(super) mod oracle;
mod oracle_tests;
mod over_nats;
mod permissions;
mod refusals;
mod rounds;
pub(super) mod settle;
pub(super) mod site;
mod slow;
pub(super) mod switchover;
mod tokens;
