//! Real agents, each beside the pod of a site: two doubles of Kubernetes with CloudNativePG, a real
//! PostgreSQL in each, one store.

mod failover;
mod founding;
mod site;
