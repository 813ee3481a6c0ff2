//! A `Cluster` as operator, instance manager and webhook read it.

use std::collections::BTreeSet;

use serde_json::Value;

/// Annotation with the fenced instances.
pub(crate) const FENCE: &str = "cnpg.io/fencedInstances";
/// Phase of a Cluster with nothing to do.
pub(crate) const HEALTHY: &str = "Cluster in healthy state";
/// Condition of a Cluster that sleeps, or is on the way there.
pub(crate) const HIBERNATION: &str = "cnpg.io/hibernation";
/// Condition that says the designated primary's transition is asked for (False) or done (True).
pub(crate) const TRANSITION: &str = "ReplicaClusterDesignatedPrimaryTransition";
/// Condition that says a demotion's fence is there.
pub(crate) const FENCING: &str = "ReplicaClusterFencing";
/// Condition of a demotion.
pub(crate) const SWITCH: &str = "ReplicaClusterSwitch";

/// Reads one Cluster.
#[derive(Clone, Copy)]
pub(crate) struct Cluster<'a>(pub(crate) &'a Value);

impl<'a> Cluster<'a> {
    /// A text, empty when it is not there.
    pub(crate) fn text(self, pointer: &str) -> &'a str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// `metadata.name`.
    pub(crate) fn name(self) -> &'a str {
        self.text("/metadata/name")
    }

    /// One annotation.
    pub(crate) fn annotation(self, name: &str) -> Option<&'a str> {
        self.0["metadata"]["annotations"][name].as_str()
    }

    /// `spec.instances`.
    pub(crate) fn instances(self) -> u64 {
        self.0["spec"]["instances"].as_u64().unwrap_or(1)
    }

    /// Seconds of the specification, or what CloudNativePG takes without.
    pub(crate) fn seconds(self, field: &str, otherwise: u32) -> u32 {
        let seconds = self.0["spec"][field].as_u64();
        seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(otherwise)
    }

    /// Whether it follows another Cluster.
    pub(crate) fn is_replica(self) -> bool {
        let replica = &self.0["spec"]["replica"];
        if !replica.is_object() {
            return false;
        }
        if let Some(enabled) = replica["enabled"].as_bool() {
            return enabled;
        }
        let own = match self.text("/spec/replica/self") {
            "" => self.name(),
            own => own,
        };
        own != self.text("/spec/replica/primary")
    }

    /// The entry of `externalClusters` with this name.
    pub(crate) fn external(self, name: &str) -> Option<&'a Value> {
        self.0["spec"]["externalClusters"].as_array()?.iter().find(|entry| entry["name"] == name)
    }

    /// Whether the instance (or `*`) is fenced. What cannot be read fences nobody.
    pub(crate) fn is_fenced(self, instance: &str) -> bool {
        let fenced = self.fenced().unwrap_or_default();
        fenced.contains("*") || fenced.contains(instance)
    }

    /// The names in the annotation; none when it cannot be read.
    pub(crate) fn fenced(self) -> Option<BTreeSet<String>> {
        let text = self.annotation(FENCE)?;
        serde_json::from_str(text).ok()
    }

    /// Who acts.
    pub(crate) fn current(self) -> &'a str {
        self.text("/status/currentPrimary")
    }

    /// Who shall act.
    pub(crate) fn target(self) -> &'a str {
        self.text("/status/targetPrimary")
    }

    /// The token it is to be promoted with.
    pub(crate) fn token(self) -> &'a str {
        self.text("/spec/replica/promotionToken")
    }

    /// Whether there is a token that was not used yet.
    pub(crate) fn token_is_pending(self) -> bool {
        !self.is_replica()
            && !self.token().is_empty()
            && self.token() != self.text("/status/lastPromotionToken")
    }

    /// The status of a condition.
    pub(crate) fn condition(self, kind: &str) -> Option<&'a str> {
        self.condition_field(kind, "status")
    }

    /// Why a condition is so.
    pub(crate) fn reason(self, kind: &str) -> Option<&'a str> {
        self.condition_field(kind, "reason")
    }

    fn condition_field(self, kind: &str, field: &str) -> Option<&'a str> {
        let conditions = self.0["status"]["conditions"].as_array()?;
        conditions.iter().find(|condition| condition["type"] == kind)?[field].as_str()
    }

    /// Whether a demotion is under way.
    pub(crate) fn in_transition(self) -> bool {
        self.0["status"]["switchReplicaClusterStatus"]["inProgress"] == true
    }
}

/// Sets a condition in a status; the time of its last change stays when it says the same.
pub(crate) fn set_condition(
    status: &mut Value,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
) {
    let conditions = &mut status["conditions"];
    if !conditions.is_array() {
        *conditions = Value::Array(Vec::new());
    }
    let Value::Array(list) = conditions else { return };
    let since = list
        .iter()
        .find(|condition| condition["type"] == kind && condition["status"] == value)
        .map_or_else(
            || super::api::store::timestamp().into(),
            |old| old["lastTransitionTime"].clone(),
        );
    let condition = serde_json::json!({
        "type": kind, "status": value, "reason": reason, "message": message,
        "lastTransitionTime": since,
    });
    match list.iter_mut().find(|condition| condition["type"] == kind) {
        Some(old) => *old = condition,
        None => list.push(condition),
    }
}

/// Takes a condition out of a status.
pub(crate) fn remove_condition(status: &mut Value, kind: &str) {
    if let Some(list) = status["conditions"].as_array_mut() {
        list.retain(|condition| condition["type"] != kind);
    }
}
