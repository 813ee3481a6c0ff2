//! What the operator writes into the status: what it sees of pods, and what their managers say.

use serde_json::{Value, json};

use super::super::api::failure::Failure;
use super::super::cluster::{HEALTHY, HIBERNATION, remove_condition, set_condition};
use super::{Look, Operator, is_ready, name};

impl Operator {
    /// The status by what is known without asking a manager.
    pub(super) async fn refresh(&self, look: &mut Look) -> Result<(), Failure> {
        let cluster = look.cluster();
        let mut status = look.object["status"].clone();
        if !status.is_object() {
            status = json!({});
        }
        if cluster.token().is_empty() {
            remove(&mut status, "lastPromotionToken");
        }
        if !cluster.is_replica() {
            remove(&mut status, "demotionToken");
        }
        let names: Vec<&str> = look.pods.iter().map(name).collect();
        let ready: Vec<&str> = look.pods.iter().filter(|pod| is_ready(pod)).map(name).collect();
        let others: Vec<&str> =
            names.iter().copied().filter(|name| !ready.contains(name)).collect();
        let (current, target) = (cluster.current(), cluster.target());
        // A target that is no pod is taken back, and so is everyone's while nobody is ready. That also
        // takes back the mark of a failover whose heir is not chosen yet.
        if !current.is_empty()
            && target != current
            && (!names.contains(&target) || ready.is_empty())
        {
            status["targetPrimary"] = current.into();
        }
        status["instances"] = names.len().into();
        status["readyInstances"] = ready.len().into();
        status["instanceNames"] = json!(names);
        status["instancesStatus"] = json!({ "healthy": ready, "replicating": others });
        self.hibernation(look, &mut status);
        status["writeService"] = format!("{}-rw", cluster.name()).into();
        status["readService"] = format!("{}-r", cluster.name()).into();
        self.update_status(look, status).await
    }

    /// How far the Cluster's sleep is; it begins only in good health.
    fn hibernation(&self, look: &Look, status: &mut Value) {
        let cluster = look.cluster();
        if cluster.annotation(HIBERNATION) != Some("on") {
            remove_condition(status, HIBERNATION);
            return;
        }
        if cluster.text("/status/phase") != HEALTHY && cluster.condition(HIBERNATION).is_none() {
            return;
        }
        let all = self.pods_also_going(cluster.name());
        let (value, reason) = if all.is_empty() {
            ("True", "Hibernated")
        } else if all.len() > look.pods.len() {
            ("False", "WaitingPodsDeletion")
        } else {
            ("False", "DeletingPods")
        };
        set_condition(status, HIBERNATION, value, reason, "what became of its pods");
    }

    /// Asks every manager that is reached.
    pub(super) async fn poll(&self, look: &mut Look) {
        if self.world.operator.is_blind() {
            return;
        }
        for pod in look.pods.iter().map(|pod| name(pod).to_owned()).collect::<Vec<_>>() {
            if let Some(report) = self.world.pod(&pod).report().await {
                look.reports.insert(pod, report);
            }
        }
    }

    /// Writes what they said, without looking at versions.
    pub(super) async fn report(&self, look: &mut Look) -> Result<(), Failure> {
        if look.reports.is_empty() {
            return Ok(());
        }
        let mut states = json!({});
        for (pod, report) in &look.reports {
            states[pod] = json!({
                "isPrimary": report.is_primary, "timeLineID": report.timeline, "ip": "127.0.0.1",
            });
        }
        let systems: std::collections::BTreeSet<&String> =
            look.reports.values().filter_map(|report| report.system.as_ref()).collect();
        let mut status = look.object["status"].clone();
        let (system, value, reason) = match systems.len() {
            0 => ("", "False", "NotFound"),
            1 => (systems.first().map_or("", |system| system.as_str()), "True", "Unique"),
            _ => ("", "False", "Mismatch"),
        };
        set_condition(
            &mut status,
            "ConsistentSystemID",
            value,
            reason,
            "what the instances report",
        );
        let mut patch = json!({
            "instancesReportedState": states, "systemID": system, "conditions": status["conditions"],
        });
        let primary = look.reports.get(look.cluster().current());
        if let Some(timeline) = primary.and_then(|report| report.timeline) {
            patch["timelineID"] = timeline.into();
        }
        self.patch_status(look, patch).await
    }
}

fn remove(status: &mut Value, field: &str) {
    if let Value::Object(fields) = status {
        fields.remove(field);
    }
}
