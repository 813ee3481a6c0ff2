//! One pass of the operator over one Cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::super::api::failure::Failure;
use super::super::api::resource::{CLUSTERS, LEASES, PODS};
use super::super::cluster::{HEALTHY, set_condition};
use super::super::instance::pass::{RESTART, UNRECOVERABLE};
use super::{Look, Operator, is_ready, name};

/// Phase of a Cluster that waits for its promotion with a token.
const PROMOTING: &str = "Promoting to primary cluster";

impl Operator {
    /// One pass; when the next one is due.
    pub(super) async fn pass(&self, cluster: &str) -> Result<Duration, Failure> {
        let seconds = |seconds| Ok(self.world.times.seconds(seconds));
        let Some(object) = self.client.cached(&CLUSTERS, cluster) else { return seconds(10) };
        let mut look = Look { object, pods: self.pods(cluster), reports: BTreeMap::new() };
        if look.cluster().annotation("cnpg.io/reconciliationLoop") == Some("disabled") {
            return seconds(10);
        }
        self.refresh(&mut look).await?;
        let (current, target) =
            (look.cluster().current().to_owned(), look.cluster().target().to_owned());
        if !current.is_empty() && current != target {
            self.label(&current, "unhealthy").await?;
            if target == "pending" {
                // Somebody has to be chosen.
                self.poll(&mut look).await;
                self.fail_over(&mut look).await?;
            }
            return seconds(1);
        }
        if look.cluster().token_is_pending() {
            let phase = look.cluster().text("/status/phase");
            if phase != PROMOTING && phase != UNRECOVERABLE {
                self.phase(&mut look, PROMOTING, "Replica cluster promotion in progress").await?;
            }
            return seconds(1);
        }
        self.poll(&mut look).await;
        self.report(&mut look).await?;
        if look.reports.values().filter(|report| report.is_primary).count() > 1 {
            return seconds(5);
        }
        self.labels(&look).await?;
        if let Some(wait) = self.switch(&mut look).await? {
            return Ok(wait);
        }
        // While its primary is fenced nobody is elected and nothing is made, but that pod itself.
        if look.cluster().is_fenced(&current) && look.pods.iter().any(|pod| name(pod) == current) {
            return seconds(10);
        }
        if self.hibernate(&look).await? {
            return seconds(5);
        }
        if let Some(wait) = self.fail_over(&mut look).await? {
            return Ok(wait);
        }
        self.make_pods(&mut look).await
    }

    async fn labels(&self, look: &Look) -> Result<(), Failure> {
        let current = look.cluster().current();
        if current.is_empty() {
            return Ok(());
        }
        for pod in &look.pods {
            let role = if name(pod) == current { "primary" } else { "replica" };
            self.label(name(pod), role).await?;
        }
        Ok(())
    }

    pub(super) async fn label(&self, pod: &str, role: &str) -> Result<(), Failure> {
        let labels = json!({ "cnpg.io/instanceRole": role, "role": role });
        match self.client.patch(&PODS, pod, json!({ "metadata": { "labels": labels } })).await {
            Err(failure) if failure.code != 404 => Err(failure),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(super) async fn phase(
        &self,
        look: &mut Look,
        phase: &str,
        reason: &str,
    ) -> Result<(), Failure> {
        if look.cluster().text("/status/phase") == phase {
            return Ok(());
        }
        let mut status = look.object["status"].clone();
        let (value, short, long) = if phase == HEALTHY {
            ("True", "ClusterIsReady", "Cluster is Ready")
        } else {
            ("False", "ClusterIsNotReady", "Cluster Is Not Ready")
        };
        set_condition(&mut status, "Ready", value, short, long);
        let status = json!({
            "phase": phase, "phaseReason": reason, "conditions": status["conditions"],
        });
        self.patch_status(look, status).await
    }

    /// Deletes the pods of a Cluster that is to sleep; whether it is.
    async fn hibernate(&self, look: &Look) -> Result<bool, Failure> {
        if look.cluster().annotation("cnpg.io/hibernation") != Some("on") {
            return Ok(false);
        }
        let current = look.cluster().current();
        let mut pods: Vec<&str> = look.pods.iter().map(name).collect();
        pods.sort_by_key(|pod| *pod != current);
        if let Some(pod) = pods.first() {
            self.client.delete(&PODS, pod).await?;
        }
        Ok(true)
    }

    async fn make_pods(&self, look: &mut Look) -> Result<Duration, Failure> {
        let wait = self.world.times.seconds(1);
        let cluster = look.cluster().name().to_owned();
        if look.cluster().current().is_empty() && look.cluster().target().is_empty() {
            let first = format!("{cluster}-1");
            self.patch_status(look, json!({ "targetPrimary": first, "latestGeneratedNode": 1 }))
                .await?;
            self.phase(look, "Setting up primary", "Creating primary instance").await?;
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": cluster }, "spec": { "holderIdentity": "" },
            });
            if let Err(failure) = self.client.create(&LEASES, lease).await
                && failure.reason != "AlreadyExists"
            {
                return Err(failure);
            }
        }
        let made = look.object["status"]["latestGeneratedNode"].as_u64().unwrap_or(1);
        for number in 1..=made {
            let pod = format!("{cluster}-{number}");
            if !look.pods.iter().any(|known| name(known) == pod) {
                self.make_pod(&cluster, &pod).await?;
                return Ok(wait);
            }
        }
        if look.pods.is_empty() || !look.pods.iter().all(is_ready) {
            return Ok(wait);
        }
        if made < look.cluster().instances() {
            self.patch_status(look, json!({ "latestGeneratedNode": made + 1 })).await?;
            let pod = format!("{cluster}-{}", made + 1);
            self.phase(look, "Creating a new replica", &format!("Creating replica {pod}")).await?;
            return Ok(wait);
        }
        let restarts =
            look.reports.get(look.cluster().current()).is_some_and(|report| report.pending_restart);
        if restarts && look.cluster().text("/spec/primaryUpdateMethod") != "switchover" {
            self.phase(look, RESTART, "Primary instance is being restarted").await?;
            return Ok(wait);
        }
        if look.cluster().text("/status/phase") != RESTART {
            self.phase(look, HEALTHY, "").await?;
        }
        Ok(self.world.times.seconds(10))
    }

    async fn make_pod(&self, cluster: &str, pod: &str) -> Result<(), Failure> {
        let port = self.world.pod(pod).postgres.port;
        let body = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod,
                "labels": {
                    "cnpg.io/cluster": cluster, "cnpg.io/instanceName": pod, "cnpg.io/podRole": "instance",
                },
            },
            "spec": { "containers": [{
                "name": "postgres", "image": "postgres", "ports": [{ "containerPort": port }],
            }] },
        });
        match self.client.create(&PODS, body).await {
            Err(failure) if failure.reason != "AlreadyExists" => Err(failure),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
