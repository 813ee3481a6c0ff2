//! The fence annotation, and the mark beside it that says which fence is ours.
//!
//! CloudNativePG does not know who fenced. A fence that a person set is never lifted by the agent, so it
//! notes its own, and what was there before.
//!
//! Where every instance is a member, one annotation and one mark serve all of them. What an agent beside us set is
//! lifted by us only when we have the lease and open (ADR 25): then that one has nothing to hand over any more. The
//! keeper of a standby leaves it alone: it may be the `*` that holds the acting instance down between its clean end
//! and the operator's first look at the demotion, and nothing in the Cluster tells that apart from one that was left
//! behind. A demotion sets the mark anew in its own name, so that the former owner, back as a standby, does not lift
//! what it set once.

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
    /// The only one that was named; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl Mark {
    /// What was put into the list.
    fn set(&self) -> &str {
        self.instance.as_deref().unwrap_or(ALL)
    }
}

/// The fence as the Cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// All that is ours of it is named.
    pub(super) covers: bool,
    /// It is in force without us: not ours to lift.
    pub(super) is_foreign: bool,
    /// An agent set it: we, or one beside us; and whoever was named before that, or since.
    before: Option<Vec<String>>,
    /// It was one beside us.
    pub(super) is_of_another: bool,
    /// Names in the list; none when it is no list.
    names: Vec<String>,
    /// What stands there, when CloudNativePG takes it for no fence because it is no list of names.
    pub(super) unreadable: bool,
    /// There is a mark for a fence that is gone.
    is_left_over: bool,
}

impl Fence {
    /// Reads it off our Cluster.
    pub(super) fn of(cluster: &Cluster, us: &Us) -> Self {
        let text = cluster.annotation(FENCED);
        let list = text.map(serde_json::from_str::<Vec<String>>);
        let unreadable = matches!(list, Some(Err(_)));
        let names = list.and_then(Result::ok).unwrap_or_default();
        let covers = us.is_named(cluster, &names);
        let text = cluster.annotation(MARK);
        let mark = text.and_then(|text| serde_json::from_str::<Mark>(text).ok());
        let is_there =
            covers || mark.as_ref().is_some_and(|mark| names.iter().any(|it| it == mark.set()));
        let is_left_over = text.is_some() && !is_there;
        let mark = mark.filter(|mark| is_there && us.is_agent(cluster, &mark.member));
        let is_of_another = mark.as_ref().is_some_and(|mark| mark.member != us.member.as_str());
        let before = mark.map(|mark| others(&mark, &names));
        let is_foreign =
            covers && before.as_ref().is_none_or(|before| us.is_named(cluster, before));
        Self { covers, is_foreign, before, is_of_another, names, unreadable, is_left_over }
    }

    /// Somebody else has named an instance, ours or another one.
    pub(super) fn is_shared(&self) -> bool {
        let before = self.before.as_ref().unwrap_or(&self.names);
        !before.is_empty()
    }

    /// The annotations that set it in our name, unless it is in force so.
    pub(super) fn set(&self, us: &Us) -> Option<Value> {
        if self.covers && !self.is_of_another {
            return None;
        }
        let before = self.before.as_ref().unwrap_or(&self.names).clone();
        let mark = Mark { member: us.member.to_string(), before, instance: None };
        Some(json!({ FENCED: list(&[ALL.to_owned()]), MARK: json!(mark).to_string() }))
    }

    /// The same for what is ours alone: the others run on.
    pub(super) fn set_own(&self, us: &Us) -> Option<Value> {
        let Some(own) = &us.instance else { return self.set(us) };
        // There is one mark, and somebody needs it.
        if self.covers || self.before.is_some() {
            return None;
        }
        let (member, before) = (us.member.to_string(), self.names.clone());
        let named = [&before[..], std::slice::from_ref(own)].concat();
        let mark = Mark { member, before, instance: Some(own.clone()) };
        Some(json!({ FENCED: list(&named), MARK: json!(mark).to_string() }))
    }

    /// The annotations that lift what is ours of it; whoever else is named stays so.
    pub(super) fn lift(&self) -> Option<Value> {
        if self.is_of_another { None } else { self.lift_for_opening() }
    }

    /// The same, also of what an agent beside us set: only for whoever has the lease.
    pub(super) fn lift_for_opening(&self) -> Option<Value> {
        let before = self.before.as_ref().filter(|_| self.covers || !self.is_of_another)?;
        let left = if before.is_empty() { Value::Null } else { json!(list(before)) };
        Some(json!({ FENCED: left, MARK: null }))
    }

    /// The annotations without a mark for a fence that is gone, if there is such a mark.
    pub(super) fn forget(&self) -> Option<Value> {
        self.is_left_over.then(|| json!({ MARK: null }))
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

/// Whoever is named besides: before, or since. No agent writes another name than what its mark says.
fn others(mark: &Mark, names: &[String]) -> Vec<String> {
    let mut others = mark.before.clone();
    for name in names.iter().filter(|name| *name != ALL && *name != mark.set()) {
        if !others.contains(name) {
            others.push(name.clone());
        }
    }
    others
}

fn list(names: &[String]) -> String {
    json!(names).to_string()
}
