//! A double of CloudNativePG and of the Kubernetes it runs in. **It is none of both.** It imitates what
//! an agent beside an instance meets: an API server over real HTTP, the operator and the instance
//! managers as actors of their own, each with its cache and its own way to the server, and below every
//! pod a real PostgreSQL.
//!
//! ```text
//!  kube's client ──HTTP──► api ◄── operator   (switch, link, lag)
//!                           ▲  ◄── kubelet    (one task per pod)
//!                           └───── manager    (one per container) ──► PostgreSQL
//! ```
//!
//! One [`Double`] is one Kubernetes cluster with one namespace, so a site. Several run beside each other;
//! what they know of each other is in `externalClusters`. In a test:
//!
//! ```text
//! let site = Double::start(&Options::default());
//! let port = site.pod("pg-a-1").postgres.port;        // known before the Cluster is there
//! site.apply(MANIFEST).await;                         // YAML or JSON of a Cluster
//! site.until("pg-a", |cluster| cluster.text("/status/phase") == HEALTHY).await;
//! site.server().set_account("agent", "token", rules(ROLE)?); // who may come, and what he may do
//! let client = site.kube("token");                    // kube's client; or Double::url()
//! site.server().set_webhook_down(true);               // faults: set_network, set_faults, forget, …
//! site.world().operator.set_off(true);                // the operator; its link: set_cut, set_lag
//! site.pod("pg-a-1").knobs().node_down = true;        // a pod; its link too
//! site.server().calls();                              // every call, for tests of roles
//! ```
//!
//! All times of CloudNativePG and Kubernetes are shortened by [`Options::factor`]. As a program of its own
//! it is `cargo run --example cnpg-double` (see `main.rs` here), to be broken by [`admin`]; it is no part of what
//! is shipped.
//!
//! What it leaves out: certificates (`pg_hba.conf` trusts 127.0.0.1), services (a pod is reached by its
//! port), replication slots, backups, plugins, rolling updates, `pods/proxy`, quorum failover, other patches
//! than merge patches, and every part of a `Cluster` nothing here reads.

mod admin;
pub(crate) mod api;
pub(crate) mod cluster;
pub(crate) mod instance;
mod operator;
mod site;
#[cfg(test)]
mod tests;
mod times;
pub(crate) mod token;
mod world;

pub(crate) use site::{Double, Options};
