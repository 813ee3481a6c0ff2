//! Real agents beside the instances of one Cluster: a double of Kubernetes with CloudNativePG, a real PostgreSQL
//! in each pod, one store.

mod cluster;
mod failover;
mod switchover;
