//! What the schema of a `Cluster` says: types, bounds, and fields that nobody knows.
//! Only of the fields the double uses; what else is in `spec` is kept as it is.

use serde_json::Value;

use super::failure::Failure;
use super::resource::CLUSTERS;

enum Is {
    Text,
    Bool,
    Whole(i64),
    OneOf(&'static [&'static str]),
    Object,
}

const FIELDS: [(&str, Is); 24] = [
    ("spec.instances", Is::Whole(1)),
    ("spec.bootstrap", Is::Object),
    ("spec.replica", Is::Object),
    ("spec.replica.self", Is::Text),
    ("spec.replica.primary", Is::Text),
    ("spec.replica.source", Is::Text),
    ("spec.replica.enabled", Is::Bool),
    ("spec.replica.promotionToken", Is::Text),
    ("spec.replica.minApplyDelay", Is::Text),
    ("spec.failoverDelay", Is::Whole(0)),
    ("spec.switchoverDelay", Is::Whole(0)),
    ("spec.stopDelay", Is::Whole(0)),
    ("spec.startDelay", Is::Whole(0)),
    ("spec.smartShutdownTimeout", Is::Whole(0)),
    ("spec.primaryLease", Is::Object),
    ("spec.primaryLease.leaseDurationSeconds", Is::Whole(1)),
    ("spec.primaryLease.renewDeadlineSeconds", Is::Whole(1)),
    ("spec.primaryLease.retryPeriodSeconds", Is::Whole(1)),
    ("spec.primaryLease.releasedLeaseDurationSeconds", Is::Whole(1)),
    ("spec.primaryUpdateMethod", Is::OneOf(&["switchover", "restart"])),
    ("spec.primaryUpdateStrategy", Is::OneOf(&["unsupervised", "supervised"])),
    ("status.targetPrimary", Is::Text),
    ("status.phase", Is::Text),
    ("status.switchReplicaClusterStatus", Is::Object),
];

const REPLICA: [&str; 6] =
    ["self", "primary", "source", "enabled", "promotionToken", "minApplyDelay"];

const STATUS: [&str; 30] = [
    "instances",
    "readyInstances",
    "instanceNames",
    "instancesStatus",
    "instancesReportedState",
    "timelineID",
    "currentPrimary",
    "targetPrimary",
    "currentPrimaryTimestamp",
    "targetPrimaryTimestamp",
    "currentPrimaryFailingSinceTimestamp",
    "phase",
    "phaseReason",
    "conditions",
    "demotionToken",
    "lastPromotionToken",
    "switchReplicaClusterStatus",
    "systemID",
    "operatorCertificateFingerprint",
    "pluginStatus",
    "writeService",
    "readService",
    "topology",
    "latestGeneratedNode",
    "certificates",
    "image",
    "healthyPVC",
    "cloudNativePGCommitHash",
    "cloudNativePGOperatorHash",
    "jobCount",
];

/// Takes out what nobody knows, and says what breaks the schema.
pub(crate) fn check(object: &mut Value) -> Result<(), Failure> {
    if let Some(replica) = object.pointer_mut("/spec/replica") {
        prune(replica, &REPLICA);
    }
    prune(&mut object["status"], &STATUS);
    for (name, value) in object["metadata"]["annotations"].as_object().into_iter().flatten() {
        if !value.is_string() {
            return Err(Failure::bad_request(format!(
                "unable to decode: metadata.annotations.{name}: not a string"
            )));
        }
    }
    let mut faults: Vec<(String, String)> = FIELDS
        .iter()
        .filter_map(|(path, is)| Some(((*path).to_owned(), fault(object, path, is)?)))
        .collect();
    if object["spec"]["replica"].is_object() {
        match object["spec"]["replica"]["source"].as_str() {
            None => faults.push(("spec.replica.source".to_owned(), "Required value".to_owned())),
            Some("") => faults.push((
                "spec.replica.source".to_owned(),
                "Invalid value: \"\": spec.replica.source in body should be at least 1 chars long"
                    .to_owned(),
            )),
            Some(_) => {}
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Failure::invalid(&CLUSTERS, CLUSTERS.group, name, &faults))
}

fn prune(object: &mut Value, known: &[&str]) {
    if let Value::Object(fields) = object {
        fields.retain(|name, _| known.contains(&name.as_str()));
    }
}

fn fault(object: &Value, path: &str, is: &Is) -> Option<String> {
    let value = object.pointer(&format!("/{}", path.replace('.', "/")))?;
    let wrong = |kind: &str| {
        let seen = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        Some(format!("Invalid value: {seen:?}: {path} in body must be of type {kind}: {seen:?}"))
    };
    match is {
        Is::Text if !value.is_string() => wrong("string"),
        Is::Bool if !value.is_boolean() => wrong("boolean"),
        Is::Object if !value.is_object() => wrong("object"),
        Is::Whole(_) if !value.is_i64() => wrong("integer"),
        Is::Whole(least) if value.as_i64() < Some(*least) => Some(format!(
            "Invalid value: {value}: {path} in body should be greater than or equal to {least}"
        )),
        Is::OneOf(known) if !value.as_str().is_some_and(|text| known.contains(&text)) => {
            let known: Vec<String> = known.iter().map(|text| format!("{text:?}")).collect();
            Some(format!("Unsupported value: {value}: supported values: {}", known.join(", ")))
        }
        Is::Text | Is::Bool | Is::Object | Is::Whole(_) | Is::OneOf(_) => None,
    }
}
