//! What the fields of an object may be. Kubernetes' own kinds are read into their types and written again:
//! a field that is lost on the way does not exist. Other kinds have a small schema in `schemas/`.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::text;

/// What is wrong with an object, in words; nothing when it is what it says.
pub(super) fn problems(object: &Value) -> Vec<String> {
    let kind = |key: &str| object[key].as_str().unwrap_or_default();
    match (kind("apiVersion"), kind("kind")) {
        ("v1", "ConfigMap") => typed::<ConfigMap>(object),
        ("v1", "Namespace") => typed::<Namespace>(object),
        ("v1", "Pod") => typed::<Pod>(object),
        ("v1", "Service") => typed::<Service>(object),
        ("apps/v1", "StatefulSet") => typed::<StatefulSet>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => typed::<NetworkPolicy>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => typed::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => typed::<RoleBinding>(object),
        ("postgresql.cnpg.io/v1", "Cluster") => described("cluster", object),
        ("monitoring.coreos.com/v1", "PodMonitor") => described("pod-monitor", object),
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy") => {
            described("mutating-admission-policy", object)
        }
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding") => {
            described("mutating-admission-policy-binding", object)
        }
        (version, kind) => vec![format!("{version} {kind} has no schema in tests/deploy")],
    }
}

fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    let read: T = match serde_json::from_value(object.clone()) {
        Ok(read) => read,
        Err(error) => return vec![error.to_string()],
    };
    let mut found = Vec::new();
    lost(object, &serde_json::to_value(read).unwrap(), "", &mut found);
    words(object, "", &mut found);
    found
}

fn lost(given: &Value, kept: &Value, path: &str, found: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given {
                let path = format!("{path}/{key}");
                match kept.get(key) {
                    Some(kept) => lost(value, kept, &path, found),
                    None => found.push(format!("{path} is no such field")),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            for (at, (given, kept)) in given.iter().zip(kept).enumerate() {
                lost(given, kept, &format!("{path}/{at}"), found);
            }
        }
        (given, kept) if given == kept => {}
        (given, kept) => found.push(format!("{path} is {given} and was read as {kept}")),
    }
}

/// Texts of which only some mean something; their types take any.
const WORDS: [(&str, &[&str]); 8] = [
    ("protocol", &["TCP", "UDP"]),
    ("restartPolicy", &["Always"]),
    ("policyTypes", &["Ingress", "Egress"]),
    ("accessModes", &["ReadWriteOnce"]),
    ("verbs", &["get", "list", "watch", "create", "update", "patch", "delete"]),
    ("drop", &["ALL"]),
    ("scheme", &["HTTP", "HTTPS"]),
    ("apiGroup", &["rbac.authorization.k8s.io"]),
];

fn words(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = format!("{path}/{key}");
                if let Some((_, known)) = WORDS.iter().find(|(name, _)| name == key) {
                    let said = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                    for word in said.iter().filter_map(Value::as_str) {
                        if !known.contains(&word) {
                            found.push(format!("{path}: {word} means nothing"));
                        }
                    }
                }
                words(value, &path, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| words(item, path, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn described(schema: &str, object: &Value) -> Vec<String> {
    let path = format!("tests/deploy/schemas/{schema}.json");
    let schema: Value = serde_json::from_str(&text(&path)).unwrap();
    let mut found = Vec::new();
    check(object, &schema, "", &mut found);
    found
}

/// As much of JSON Schema as those files use. A field that is not described does not exist.
fn check(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let rules = schema.as_object().unwrap();
    for (rule, wanted) in rules {
        let holds = match rule.as_str() {
            "type" => wanted == kind(value),
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => value.as_f64() >= wanted.as_f64(),
            "maximum" => value.as_f64() <= wanted.as_f64(),
            "minItems" => value.as_array().map(Vec::len) >= wanted.as_u64().map(|n| n as usize),
            "required" => wanted
                .as_array()
                .unwrap()
                .iter()
                .all(|key| value.get(key.as_str().unwrap()).is_some()),
            "description" => true,
            // Below.
            "properties" | "items" | "additionalProperties" => true,
            unknown => panic!("{path}: {unknown} is not known to tests/deploy/schema.rs"),
        };
        if !holds {
            found.push(format!("{path} is {value}, and its {rule} is to be {wanted}"));
        }
    }
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = format!("{path}/{key}");
                match schema["properties"].get(key).or_else(|| schema.get("additionalProperties")) {
                    Some(schema) => check(value, schema, &path, found),
                    None => found.push(format!("{path} is no such field")),
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                check(item, &schema["items"], &format!("{path}/{at}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[test]
fn what_is_no_field_or_no_value_is_found() {
    use serde_json::json;
    let role = |rule: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "a"}, "rules": [rule]})
    };
    assert_eq!(problems(&role(json!({"verbs": ["get"]}))), Vec::<String>::new());
    let cluster = |spec: Value| {
        json!({"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster",
            "metadata": {"name": "a", "namespace": "b"}, "spec": spec})
    };
    let spec = json!({"instances": 1, "storage": {"size": "1Gi"}});
    assert_eq!(problems(&cluster(spec.clone())), Vec::<String>::new());
    let with = |key: &str, value: Value| {
        let mut spec = spec.clone();
        spec[key] = value;
        cluster(spec)
    };
    for (object, says) in [
        (
            role(json!({"verbs": ["get"], "resourceName": ["a"]})),
            "/rules/0/resourceName is no such",
        ),
        (role(json!({"verbs": ["fetch"]})), "fetch means nothing"),
        (role(json!({"verbs": "get"})), "invalid type"),
        (with("smartShutdownTimout", json!(0)), "/spec/smartShutdownTimout is no such field"),
        (with("instances", json!("1")), "its type is to be"),
        (with("instances", json!(0)), "its minimum is to be"),
        (with("primaryUpdateMethod", json!("reboot")), "its enum is to be"),
        (with("replica", json!({"primary": "a"})), "its required is to be"),
        (json!({"apiVersion": "v1", "kind": "Secret"}), "has no schema"),
    ] {
        let found = problems(&object);
        assert!(found.iter().any(|problem| problem.contains(says)), "{says}: {found:?}");
    }
}
