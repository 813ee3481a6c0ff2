//! The fence annotation, and the mark beside it that says which fence is ours.
//!
//! CloudNativePG does not know who fenced. A fence that a person set is never lifted by the agent, so it
//! notes its own, and what was there before.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::us::{ALL, Us};

/// CloudNativePG's list of fenced instances.
pub(super) const FENCED: &str = "cnpg.io/fencedInstances";

/// Our mark.
pub(super) const MARK: &str = "harmony-agent.io/fence";

/// Who fenced, and what the list was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    member: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<String>,
}

/// The fence as the Cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// All that is ours of it is named.
    pub(super) covers: bool,
    /// It is in force without us: not ours to lift.
    pub(super) is_foreign: bool,
    /// We set it, and whoever was named before us, or since.
    before: Option<Vec<String>>,
    /// Names in the list; none when it is no list.
    names: Vec<String>,
    /// What stands there, when CloudNativePG takes it for no fence because it is no list of names.
    pub(super) unreadable: bool,
    marked: bool,
}

impl Fence {
    /// Reads it off our Cluster.
    pub(super) fn of(cluster: &Cluster, us: &Us) -> Self {
        let text = cluster.annotation(FENCED);
        let list = text.map(serde_json::from_str::<Vec<String>>);
        let unreadable = matches!(list, Some(Err(_)));
        let names = list.and_then(Result::ok).unwrap_or_default();
        let covers = us.is_named(cluster, &names);
        let mark = cluster.annotation(MARK);
        let mark = mark.map(serde_json::from_str::<Mark>);
        let marked = mark.is_some();
        let ours = mark.and_then(Result::ok).filter(|mark| mark.member == us.member.as_str());
        let before = ours.filter(|_| covers).map(|mark| others(mark.before, &names));
        let is_foreign =
            covers && before.as_ref().is_none_or(|before| us.is_named(cluster, before));
        Self { covers, is_foreign, before, names, unreadable, marked }
    }

    /// Somebody else has named an instance, ours or another one.
    pub(super) fn is_shared(&self) -> bool {
        let before = self.before.as_ref().unwrap_or(&self.names);
        !before.is_empty()
    }

    /// The annotations that set it, unless it is in force.
    pub(super) fn set(&self, us: &Us) -> Option<Value> {
        if self.covers {
            return None;
        }
        let mark = Mark { member: us.member.to_string(), before: self.names.clone() };
        Some(json!({ FENCED: list(&[ALL.to_owned()]), MARK: json!(mark).to_string() }))
    }

    /// The annotations that lift what is ours of it; whoever else is named stays so.
    pub(super) fn lift(&self) -> Option<Value> {
        let before = self.before.as_ref()?;
        let left = if before.is_empty() { Value::Null } else { json!(list(before)) };
        Some(json!({ FENCED: left, MARK: null }))
    }

    /// The annotations without a mark for a fence that is gone, if there is such a mark.
    pub(super) fn forget(&self) -> Option<Value> {
        (self.marked && !self.covers).then(|| json!({ MARK: null }))
    }
}

/// Whether this instance is fenced, by whomever.
pub(super) fn names(cluster: &Cluster, instance: &str) -> bool {
    let names = cluster.annotation(FENCED).map(serde_json::from_str::<Vec<String>>);
    matches!(names, Some(Ok(names)) if names.iter().any(|name| name == ALL || name == instance))
}

/// All that is ours of the Cluster is fenced.
pub(super) fn covers(cluster: &Cluster, us: &Us) -> bool {
    let names = cluster.annotation(FENCED).map(serde_json::from_str::<Vec<String>>);
    matches!(names, Some(Ok(names)) if us.is_named(cluster, &names))
}

/// Whoever is named besides us: before, or since. We never write a name.
fn others(mut before: Vec<String>, names: &[String]) -> Vec<String> {
    for name in names.iter().filter(|name| *name != ALL) {
        if !before.contains(name) {
            before.push(name.clone());
        }
    }
    before
}

fn list(names: &[String]) -> String {
    json!(names).to_string()
}
