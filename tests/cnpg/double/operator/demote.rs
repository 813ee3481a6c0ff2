//! A demotion, the operator's part.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::super::api::failure::Failure;
use super::super::api::resource::CLUSTERS;
use super::super::cluster::{FENCE, FENCING, SWITCH, TRANSITION, remove_condition, set_condition};
use super::super::token;
use super::{Look, Operator};

impl Operator {
    /// Begins a demotion, or brings it to its end; when it is to be looked at again, if it is under way.
    pub(super) async fn switch(&self, look: &mut Look) -> Result<Option<Duration>, Failure> {
        if !look.cluster().is_replica() {
            return Ok(None);
        }
        match look.cluster().condition(TRANSITION) {
            Some("True") => self.finish(look).await.map(Some),
            // The manager's turn.
            Some(_) => Ok(None),
            None if look.reports.values().any(|report| report.is_primary) => {
                self.begin(look).await?;
                Ok(Some(self.world.times.seconds(1)))
            }
            None => Ok(None),
        }
    }

    /// Fences everything, whoever was fenced before by whomever.
    async fn begin(&self, look: &mut Look) -> Result<(), Failure> {
        let all = BTreeSet::from(["*".to_owned()]);
        if look.cluster().fenced() != Some(all) {
            self.fence(look, json!("[\"*\"]")).await?;
        }
        let mut status = look.object["status"].clone();
        let (reason, text) =
            ("ReplicaClusterAfterCreation", "Enabled external cluster after a node was generated");
        set_condition(&mut status, TRANSITION, "False", reason, text);
        set_condition(&mut status, FENCING, "True", reason, text);
        let text = "Starting the Replica cluster transition";
        set_condition(&mut status, SWITCH, "False", "ReplicaEnabledSetTrue", text);
        status["switchReplicaClusterStatus"] = json!({ "inProgress": true });
        self.update_status(look, status).await
    }

    async fn finish(&self, look: &mut Look) -> Result<Duration, Failure> {
        let pod = self.world.pod(look.cluster().current());
        let control = if self.world.operator.is_blind() || !pod.is_reachable() {
            return Ok(self.world.times.seconds(10));
        } else {
            pod.postgres.control().await.map_err(Failure::internal)?
        };
        // Of what ended by an immediate stop there never is a token.
        if !token::line(&control, "Database cluster state").starts_with("shut down") {
            return Ok(self.world.times.seconds(10));
        }
        let token = token::write(&control, self.world.version.0);
        if look.cluster().text("/status/demotionToken") != token {
            self.patch_status(look, json!({ "demotionToken": token })).await?;
        }
        if look.cluster().condition(FENCING) == Some("True") && look.cluster().is_fenced("*") {
            self.fence(look, serde_json::Value::Null).await?;
        }
        let mut status = look.object["status"].clone();
        remove_condition(&mut status, TRANSITION);
        remove_condition(&mut status, FENCING);
        let text = "Completed the Replica cluster transition";
        set_condition(&mut status, SWITCH, "True", "ReplicaEnabledSetTrue", text);
        status["switchReplicaClusterStatus"] = json!({ "inProgress": false });
        self.update_status(look, status).await?;
        Ok(self.world.times.seconds(1))
    }

    async fn fence(&self, look: &mut Look, value: serde_json::Value) -> Result<(), Failure> {
        let name = look.cluster().name().to_owned();
        let body = json!({ "metadata": { "annotations": { FENCE: value } } });
        look.object = self.client.patch(&CLUSTERS, &name, body).await?;
        Ok(())
    }
}
