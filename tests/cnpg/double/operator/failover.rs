//! A failover inside of a Cluster.

use std::time::Duration;

use serde_json::json;

use super::super::api::failure::Failure;
use super::super::api::store::{micro_timestamp, timestamp};
use super::{Look, Operator, is_ready, name};

impl Operator {
    /// Looks whether somebody else has to act; when it is to be looked at again, if so.
    pub(super) async fn fail_over(&self, look: &mut Look) -> Result<Option<Duration>, Failure> {
        let current = look.cluster().current().to_owned();
        let primary = look.pods.iter().find(|pod| name(pod) == current);
        let others = look.pods.iter().filter(|pod| name(pod) != current && is_ready(pod)).count();
        if current.is_empty() || others == 0 {
            return Ok(None);
        }
        if primary.is_some_and(is_ready) {
            if look.object["status"]["currentPrimaryFailingSinceTimestamp"].is_string() {
                self.patch_status(look, json!({ "currentPrimaryFailingSinceTimestamp": null }))
                    .await?;
            }
            return Ok(None);
        }
        let wait = self.world.times.seconds(1);
        if !self.has_failed_long_enough(look).await? {
            return Ok(Some(wait));
        }
        if look.cluster().target() == current {
            self.event(look, "FailingOver", &format!("Current primary isn't healthy: {current}"))
                .await;
            let status =
                json!({ "targetPrimary": "pending", "targetPrimaryTimestamp": micro_timestamp() });
            self.patch_status(look, status).await?;
            self.phase(look, "Failing over", &format!("Failing over from {current}")).await?;
            self.label(&current, "unhealthy").await?;
        }
        // Whoever still receives may still get something.
        let others = look.reports.iter().filter(|(pod, _)| **pod != current);
        if others.clone().any(|(_, report)| report.receiver) {
            return Ok(Some(wait));
        }
        // The most advanced; among equals the lowest name.
        let best = others
            .filter(|(_, report)| !report.is_primary && report.timeline.is_some())
            .max_by(|(left, one), (right, other)| {
                (one.received, one.replayed)
                    .cmp(&(other.received, other.replayed))
                    .then(right.cmp(left))
            })
            .map(|(pod, _)| pod.clone());
        if let Some(best) = best {
            self.event(look, "FailoverTarget", &format!("Failing over from {current} to {best}"))
                .await;
            let status =
                json!({ "targetPrimary": best, "targetPrimaryTimestamp": micro_timestamp() });
            self.patch_status(look, status).await?;
        }
        Ok(Some(wait))
    }

    async fn has_failed_long_enough(&self, look: &mut Look) -> Result<bool, Failure> {
        let delay = look.cluster().seconds("failoverDelay", 0);
        if delay == 0 {
            return Ok(true);
        }
        let since = look.cluster().text("/status/currentPrimaryFailingSinceTimestamp");
        let Ok(since) = since.parse::<jiff::Timestamp>() else {
            let now = timestamp();
            self.patch_status(look, json!({ "currentPrimaryFailingSinceTimestamp": now })).await?;
            return Ok(false);
        };
        let age = jiff::Timestamp::now().duration_since(since);
        Ok(age.as_secs_f64() >= self.world.times.seconds(delay).as_secs_f64())
    }
}
