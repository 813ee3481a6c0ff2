//! A failover inside of a Cluster.

use std::cmp::Reverse;
use std::time::Duration;

use serde_json::json;

use super::super::api::failure::Failure;
use super::super::api::store::micro_timestamp;
use super::{Look, Operator};

impl Look {
    /// Who would act: who says that it is the primary, else the most advanced, else the lowest name.
    pub(super) fn first(&self) -> Option<&str> {
        let all = self.reports.iter();
        all.min_by_key(|(pod, report)| {
            (!report.is_primary, Reverse(report.received), Reverse(report.replayed), *pod)
        })
        .map(|(pod, _)| pod.as_str())
    }

    /// Nobody but the primary of now still receives something.
    fn has_received_all(&self) -> bool {
        let current = self.cluster().current();
        self.reports.iter().all(|(pod, report)| pod == current || !report.receiver)
    }
}

impl Operator {
    /// Looks whether somebody else has to act; when it is to be looked at again, if so.
    pub(super) async fn fail_over(&self, look: &mut Look) -> Result<Option<Duration>, Failure> {
        let (current, target) =
            (look.cluster().current().to_owned(), look.cluster().target().to_owned());
        if look.cluster().is_fenced(&current) {
            return Ok(None);
        }
        let Some(first) = look.first().map(str::to_owned) else { return Ok(None) };
        // A replica cluster's designated primary is no primary: that its pod is there is all that counts.
        let is_replica = look.cluster().is_replica();
        let is_well = if is_replica { look.pod(&target).is_some() } else { first == target };
        if current.is_empty() || is_well {
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
        if !is_replica && target == current {
            self.event(look, "FailingOver", &format!("Current primary isn't healthy: {current}"))
                .await;
            let status =
                json!({ "targetPrimary": "pending", "targetPrimaryTimestamp": micro_timestamp() });
            self.patch_status(look, status).await?;
            self.phase(look, "Failing over", &format!("Failing over from {current}")).await?;
            self.label(&current, "unhealthy").await?;
        }
        // Whoever still receives may still get something.
        if !look.has_received_all() {
            return Ok(Some(wait));
        }
        self.event(look, "FailoverTarget", &format!("Failing over from {current} to {first}"))
            .await;
        let status = json!({ "targetPrimary": first, "targetPrimaryTimestamp": micro_timestamp() });
        self.patch_status(look, status).await?;
        Ok(Some(wait))
    }

    async fn has_failed_long_enough(&self, look: &mut Look) -> Result<bool, Failure> {
        let delay = look.cluster().seconds("failoverDelay", 0);
        if delay == 0 {
            return Ok(true);
        }
        let since = look.cluster().text("/status/currentPrimaryFailingSinceTimestamp");
        let Ok(since) = since.parse::<jiff::Timestamp>() else {
            let now = micro_timestamp();
            self.patch_status(look, json!({ "currentPrimaryFailingSinceTimestamp": now })).await?;
            return Ok(false);
        };
        let age = jiff::Timestamp::now().duration_since(since);
        Ok(age.as_secs_f64() >= self.world.times.seconds(delay).as_secs_f64())
    }
}
