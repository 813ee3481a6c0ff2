//! Real agents beside the instances of Clusters: doubles of Kubernetes with CloudNativePG, a real PostgreSQL
//! in each pod, one store.

mod away;
mod cluster;
mod failover;
mod instance;
mod operator;
mod permissions;
mod rounds;
mod settle;
mod sites;
mod switchover;
