//! What is asked of the API server besides where every instance is a member: who is to act, and the lease that the
//! instances' managers have among themselves.

use axum::http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{Api, GET_LEASE, decode, not_changed};
use super::cluster::Cluster;
use super::trouble::{Call, Trouble};
use crate::database::server::outcome::Step;
use crate::database::server::wait::pause;

pub(super) const PATCH_STATUS: Call =
    Call { verb: "patch", resource: "clusters.postgresql.cnpg.io/status" };
pub(super) const PATCH_LEASE: Call = Call { verb: "patch", resource: "leases.coordination.k8s.io" };

impl Api {
    /// Has CloudNativePG make another instance the primary, as its own command does: `decide` says whether
    /// that is still wanted of the Cluster as it is.
    pub(super) async fn appoint(
        &self,
        instance: &str,
        mut decide: impl FnMut(&Cluster) -> Step<bool>,
        cancel: &CancellationToken,
    ) -> Step<Cluster> {
        let mut may_have_landed = false;
        let mut tries = 0;
        loop {
            let sent = match self.read().await {
                Ok(_) if cancel.is_cancelled() => {
                    return Err(not_changed(may_have_landed, "cancelled".to_owned()));
                }
                Ok(cluster) if !decide(&cluster)? => return Ok(cluster),
                Ok(cluster) => {
                    let sent = self.try_appoint(instance, &cluster).await;
                    may_have_landed |= sent.as_ref().is_err_and(Trouble::may_have_landed);
                    sent
                }
                Err(trouble) => Err(trouble),
            };
            let trouble = match sent {
                Ok(cluster) => return Ok(cluster),
                Err(trouble) => trouble,
            };
            let Some(wait) = trouble.pause(tries) else {
                return Err(not_changed(may_have_landed, trouble.to_string()));
            };
            tries += 1;
            if pause(wait, cancel).await.is_err() {
                return Err(not_changed(may_have_landed, format!("given up: {trouble}")));
            }
        }
    }

    async fn try_appoint(&self, instance: &str, cluster: &Cluster) -> Result<Cluster, Trouble> {
        // As CloudNativePG writes it: microseconds, also where they are zeroes.
        let now = format!("{:.6}", jiff::Timestamp::now());
        let body = json!({
            "metadata": { "resourceVersion": cluster.metadata.resource_version },
            "status": {
                "targetPrimary": instance,
                "targetPrimaryTimestamp": now,
                "phase": "Switchover in progress",
                "phaseReason": format!("Switching over to {instance}"),
            },
        });
        let path = format!("{}/status", self.path());
        let bytes = self.call(PATCH_STATUS, Method::PATCH, &path, Some(&body), None).await?;
        decode(&bytes)
    }

    /// Whether an instance could be appointed: the permission.
    pub(super) async fn rehearse_appointment(&self, cluster: &Cluster) -> Result<(), Trouble> {
        let path = format!("{}/status?dryRun=All", self.path());
        let body = json!({ "metadata": { "resourceVersion": cluster.metadata.resource_version } });
        self.call(PATCH_STATUS, Method::PATCH, &path, Some(&body), None).await.map(|_| ())
    }

    /// Passes the instances' lease on from `instance`, if that holds it, to the one that is to act; whether it did.
    ///
    /// Only for an instance that cannot become the primary: its PostgreSQL is proven down and kept so, or it is a
    /// standby that is barred from promotion.
    pub(super) async fn pass_lease(&self, instance: &str, to: &str) -> Result<bool, Trouble> {
        let path = self.lease();
        let bytes = match self.call(GET_LEASE, Method::GET, &path, None, None).await {
            Ok(bytes) => bytes,
            Err(Trouble::Absent(_)) => return Ok(false),
            Err(trouble) => return Err(trouble),
        };
        let lease: Value = decode(&bytes)?;
        if lease["spec"]["holderIdentity"] != instance {
            return Ok(false);
        }
        // One that has nobody's name is taken again by the manager that wanted it before, when it looks first.
        let body = json!({
            "metadata": { "resourceVersion": lease["metadata"]["resourceVersion"] },
            "spec": { "holderIdentity": to, "leaseDurationSeconds": 1 },
        });
        self.call(PATCH_LEASE, Method::PATCH, &path, Some(&body), None).await.map(|_| true)
    }

    /// Whether that lease could be passed on: the permission. There may be none yet.
    pub(super) async fn rehearse_release(&self) -> Result<(), Trouble> {
        let path = format!("{}?dryRun=All", self.lease());
        self.call(PATCH_LEASE, Method::PATCH, &path, Some(&json!({})), None).await.map(|_| ())
    }
}
