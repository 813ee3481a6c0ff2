//! One pass of the operator over one Cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::super::api::failure::Failure;
use super::super::api::resource::{CLUSTERS, LEASES, PODS};
use super::super::cluster::{HEALTHY, HIBERNATION, set_condition};
use super::super::instance::pass::{RESTART, UNRECOVERABLE};
use super::{Look, Operator, is_ready, name};

/// Phase of a Cluster whose operator reaches no instance.
const UNHEARD: &str = "Instance Status Extraction Error: HTTP communication issue";
/// Phase of a Cluster that waits for its promotion with a token.
const PROMOTING: &str = "Promoting to primary cluster";

/// There are instances that are ready, and none of them answers.
fn says_nothing(look: &Look) -> bool {
    let mut ready = look.pods.iter().filter(|pod| is_ready(pod)).peekable();
    ready.peek().is_some() && ready.all(|pod| !look.reports.contains_key(name(pod)))
}

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
        if says_nothing(&look) {
            self.phase(&mut look, UNHEARD, "no ready instance says how it is").await?;
            return seconds(10);
        }
        if let Some(wait) = self.switch(&mut look).await? {
            return Ok(wait);
        }
        // While its primary is fenced nobody is elected and nothing is made, but that pod itself.
        if (look.cluster().is_fenced(&current) || look.is_masked(&current))
            && look.pod(&current).is_some()
        {
            return seconds(10);
        }
        if let Some(wait) = self.is_not_to_be_judged(&look).await {
            return Ok(wait);
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

    /// Whether what the pods say and what the kubelet says of them do not go together: nobody is elected then.
    async fn is_not_to_be_judged(&self, look: &Look) -> Option<Duration> {
        let first = look.first()?;
        if !look.pod(first).is_some_and(is_ready) {
            // The kubelet has not asked again yet.
            return Some(self.world.times.seconds(1));
        }
        let current = look.cluster().current();
        let is_mute =
            look.pod(current).is_some_and(is_ready) && !look.reports.contains_key(current);
        if is_mute {
            let said = format!("{current} is ready and does not say how it is");
            self.event(look, "PrimaryStatusCheckFailed", &said).await;
        }
        is_mute.then(|| self.world.times.seconds(10))
    }

    /// Deletes the pods of a Cluster that is to sleep, the primary's first and one after the other; whether
    /// it is to.
    async fn hibernate(&self, look: &Look) -> Result<bool, Failure> {
        match look.cluster().reason(HIBERNATION) {
            None => return Ok(false),
            Some("DeletingPods") => {}
            Some(_) => return Ok(true),
        }
        let current = look.cluster().current();
        if let Some(pod) = look.pod(current).or(look.pods.first()) {
            self.client.delete(&PODS, name(pod)).await?;
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
            if self.world.version.has_leases()
                && let Err(failure) = self.client.create(&LEASES, lease).await
                && failure.reason != "AlreadyExists"
            {
                return Err(failure);
            }
        }
        let made = look.object["status"]["latestGeneratedNode"].as_u64().unwrap_or(1);
        let mut missing: Vec<String> =
            (1..=made).map(|number| format!("{cluster}-{number}")).collect();
        missing.retain(|pod| look.pod(pod).is_none());
        // The primary's first, and no other one before that says how it is.
        missing.sort_by_key(|pod| pod != look.cluster().current());
        if let Some(pod) = missing.first() {
            if look.pods.iter().all(|known| look.reports.contains_key(name(known))) {
                self.make_pod(&cluster, pod).await?;
            }
            return Ok(wait);
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
                "annotations": { "cnpg.io/operatorVersion": self.world.version.0 },
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
