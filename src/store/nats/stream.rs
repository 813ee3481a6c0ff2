//! The settings of the stream. The usual ones of a key-value bucket would let any agent that may
//! write its own heartbeat wipe the whole bucket, and would answer reads from any replica.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::core::ids::Incarnation;
use crate::store::{HISTORY_DEPTH, LONGEST_VALUE, Rejection};

/// Where the incarnation is kept.
pub(super) const INCARNATION: &str = "harmony.incarnation";

/// Where a server of 2.11 or later tells how new it is.
const LEVEL: &str = "_nats.level";

/// Room for every key we shall ever have, so that "full" means that something is wrong.
const MOST_BYTES: i64 = 8 << 20;

/// A stream as its servers describe it.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    /// When it was made.
    #[serde(default)]
    pub(super) created: String,
    config: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) state: State,
}

/// What is in a stream.
#[derive(Debug, Default, Deserialize)]
pub(super) struct State {
    /// The newest revision.
    #[serde(default)]
    pub(super) last_seq: u64,
    /// Subjects, and revisions kept of each; when asked for.
    pub(super) subjects: Option<BTreeMap<String, u64>>,
}

impl Info {
    /// An entry of the metadata, or nothing.
    pub(super) fn metadata(&self, name: &str) -> &str {
        let metadata = self.config.get("metadata");
        metadata.and_then(|all| all.get(name)).and_then(Value::as_str).unwrap_or("none")
    }

    /// How many copies there are.
    pub(super) fn replicas(&self) -> u8 {
        let found = self.config.get("num_replicas").and_then(Value::as_u64);
        found.and_then(|found| found.try_into().ok()).unwrap_or(1)
    }
}

/// The settings that a new stream gets.
pub(super) fn config(name: &str, stream: &str, replicas: u8, incarnation: &str) -> Value {
    let mut config = required(name);
    config.insert("name", json!(stream));
    config.insert("num_replicas", json!(replicas));
    config.insert("max_bytes", json!(MOST_BYTES));
    config.insert("metadata", json!({ INCARNATION: incarnation }));
    config.retain(|_, value| !value.is_null());
    json!(config)
}

/// Settings that have to be so; null stands for absent.
fn required(name: &str) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("subjects", json!([format!("$KV.{name}.>")])),
        ("storage", json!("file")),
        ("retention", json!("limits")),
        ("discard", json!("new")),
        ("max_msgs_per_subject", json!(HISTORY_DEPTH)),
        ("max_msg_size", json!(LONGEST_VALUE + 1024)),
        ("max_msgs", json!(-1)),
        ("max_age", json!(0)),
        ("duplicate_window", json!(120_000_000_000_u64)),
        ("deny_delete", json!(true)),
        ("deny_purge", json!(true)),
        ("allow_rollup_hdrs", json!(false)),
        ("allow_direct", json!(false)),
        ("mirror_direct", json!(false)),
        ("allow_msg_ttl", json!(false)),
        ("discard_new_per_subject", json!(false)),
        ("no_ack", json!(false)),
        ("sealed", json!(false)),
        ("republish", json!({ "src": format!("$KV.{name}.>"), "dest": format!("ev.{name}.>") })),
        ("compression", json!("none")),
        ("mirror", Value::Null),
        ("sources", Value::Null),
        ("subject_transform", Value::Null),
        ("persist_mode", Value::Null),
    ])
}

/// Whether a stream is one that we may count on; tells its incarnation.
pub(super) fn check(info: &Info, name: &str) -> Result<Incarnation, Rejection> {
    let mut wrong: Vec<String> = required(name)
        .into_iter()
        .filter_map(|(setting, expected)| {
            let found = info.config.get(setting).cloned().unwrap_or(Value::Null);
            (!same(&found, &expected)).then(|| format!("{setting} is {found}, expected {expected}"))
        })
        .collect();
    let room = info.config.get("max_bytes").and_then(Value::as_i64).unwrap_or(0);
    if (0..MOST_BYTES).contains(&room) {
        wrong.push(format!("max_bytes is {room}, expected {MOST_BYTES} or more"));
    }
    if info.metadata(LEVEL).parse::<u32>().is_err() {
        wrong.push("the servers tell no API level, expected 2.11 or later".to_owned());
    }
    let incarnation = info.metadata(INCARNATION);
    if incarnation == "none" {
        wrong.push(format!("metadata has no {INCARNATION}, expected one of ours"));
    }
    if !wrong.is_empty() {
        return Err(Rejection::Other(format!(
            "stream KV_{name} is not safe to use: {}; mend its settings, or remove it when nothing \
             uses it",
            wrong.join("; ")
        )));
    }
    incarnation.parse().map_err(|error| Rejection::Other(format!("stream KV_{name}: {error}")))
}

/// Servers leave out what is at its default.
fn same(found: &Value, expected: &Value) -> bool {
    found == expected
        || (found.is_null() && *expected == json!(false))
        || (expected.is_null() && *found == json!("default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(change: impl FnOnce(&mut Value)) -> Info {
        let mut config = config("harmony_pg", "KV_harmony_pg", 3, "inc-1");
        config["metadata"][LEVEL] = json!("2");
        change(&mut config);
        serde_json::from_value(json!({ "config": config, "created": "t" })).unwrap()
    }

    #[test]
    fn what_we_make_passes() {
        let info = info(|_| {});
        assert_eq!(check(&info, "harmony_pg").unwrap().as_str(), "inc-1");
        assert_eq!(info.replicas(), 3);
    }

    #[test]
    fn each_deviation_is_named() {
        let info = info(|config| {
            config["allow_rollup_hdrs"] = json!(true);
            config["allow_direct"] = json!(true);
            config["max_bytes"] = json!(4096);
            config["metadata"] = json!({});
        });
        let text = check(&info, "harmony_pg").unwrap_err().to_string();
        for part in [
            "allow_rollup_hdrs is true, expected false",
            "allow_direct is true",
            "max_bytes is 4096",
            "no API level",
            "no harmony.incarnation",
        ] {
            assert!(text.contains(part), "{text} should name {part}");
        }
    }
}
