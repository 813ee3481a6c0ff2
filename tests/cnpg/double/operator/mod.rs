//! The operator: looks at every Cluster, in CloudNativePG's order.

mod demote;
mod failover;
mod pass;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::api::client::Client;
use super::api::failure::Failure;
use super::api::resource::{CLUSTERS, EVENTS, PODS};
use super::cluster::Cluster;
use super::instance::pod::Report;
use super::world::World;

/// How often it looks whether there is something to do.
const TICK: Duration = Duration::from_millis(20);
/// Its account.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:cnpg-system:cnpg-manager";

/// The operator of one Kubernetes cluster.
pub(crate) struct Operator {
    world: Arc<World>,
    client: Client,
}

/// What a pass works on.
pub(super) struct Look {
    /// The Cluster; after every write as it was answered.
    object: Value,
    /// Its pods.
    pods: Vec<Value>,
    /// What their managers say.
    reports: BTreeMap<String, Report>,
}

impl Look {
    fn cluster(&self) -> Cluster<'_> {
        Cluster(&self.object)
    }

    fn pod(&self, wanted: &str) -> Option<&Value> {
        self.pods.iter().find(|pod| name(pod) == wanted)
    }

    /// It may be down without that being a failure, as a fence leaves it.
    fn is_masked(&self, pod: &str) -> bool {
        self.reports.get(pod).is_some_and(|report| report.masked)
    }
}

/// Whether a pod is ready.
pub(super) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|list| {
        list.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
}

/// The name of an object.
pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

impl Operator {
    /// Of `world`.
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let client = world.client(ACCOUNT, &world.operator.link);
        Self { world: Arc::clone(world), client }
    }

    /// Works until it is told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut due: BTreeMap<String, Instant> = BTreeMap::new();
        let mut seen: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
        while !stop.is_cancelled() {
            sleep(TICK).await;
            if self.world.operator.is_off() || !self.client.reachable() {
                continue;
            }
            for cluster in self.client.names(&CLUSTERS) {
                let versions = self.versions(&cluster);
                let news = seen.get(&cluster) != Some(&versions);
                if !news && due.get(&cluster).is_some_and(|due| Instant::now() < *due) {
                    continue;
                }
                seen.insert(cluster.clone(), versions);
                // What fails, also by a conflict, is tried again soon.
                let wait =
                    self.pass(&cluster).await.unwrap_or_else(|_| self.world.times.seconds(1));
                due.insert(cluster, Instant::now() + wait);
            }
            self.collect_garbage().await;
        }
    }

    fn versions(&self, cluster: &str) -> Vec<Option<String>> {
        let mut versions = vec![self.client.cached_version(&CLUSTERS, cluster)];
        for pod in self.pods(cluster) {
            // A pod's report of being alive is no news.
            versions.push(Some(format!("{} {}", name(&pod), is_ready(&pod))));
        }
        versions
    }

    fn pods(&self, cluster: &str) -> Vec<Value> {
        let all = self.pods_also_going(cluster).into_iter();
        all.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
    }

    fn pods_also_going(&self, cluster: &str) -> Vec<Value> {
        let all = self.client.names(&PODS).into_iter();
        all.filter_map(|name| self.client.cached(&PODS, &name))
            .filter(|pod| pod["metadata"]["labels"]["cnpg.io/cluster"] == cluster)
            .collect()
    }

    /// Pods go with their Cluster.
    async fn collect_garbage(&self) {
        let clusters = self.client.names(&CLUSTERS);
        for name in self.client.names(&PODS) {
            let Some(pod) = self.client.cached(&PODS, &name) else { continue };
            let owner = pod["metadata"]["labels"]["cnpg.io/cluster"].as_str().unwrap_or_default();
            if !clusters.iter().any(|cluster| cluster == owner)
                && pod["metadata"]["deletionTimestamp"].is_null()
            {
                let _ = self.client.delete(&PODS, &name).await;
            }
        }
    }

    async fn patch_status(&self, look: &mut Look, status: Value) -> Result<(), Failure> {
        let name = name(&look.object).to_owned();
        look.object = self.client.patch_status(&CLUSTERS, &name, status).await?;
        Ok(())
    }

    /// Replaces the status of the version that was looked at.
    async fn update_status(&self, look: &mut Look, status: Value) -> Result<(), Failure> {
        if look.object["status"] == status {
            return Ok(());
        }
        let mut object = look.object.clone();
        object["status"] = status;
        look.object = self.client.update_status(&CLUSTERS, &object).await?;
        Ok(())
    }

    async fn event(&self, look: &Look, reason: &str, message: &str) {
        let body = json!({
            "apiVersion": "v1", "kind": "Event", "type": "Normal", "reason": reason, "message": message,
            "metadata": { "generateName": format!("{}.", name(&look.object)) },
            "involvedObject": {
                "kind": "Cluster", "name": name(&look.object), "namespace": self.world.namespace,
            },
        });
        let _ = self.client.create(&EVENTS, body).await;
    }
}
