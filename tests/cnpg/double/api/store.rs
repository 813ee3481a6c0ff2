//! The objects, every version of them, and the rules by which they are written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::failure::Failure;
use super::resource::{Place, Resource};

/// Whose object: kind, namespace, name.
pub(crate) type Key = (String, String, String);

/// One change.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// Version it made.
    pub(crate) version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) kind: &'static str,
    /// Of what.
    pub(crate) key: Key,
    /// The object after it; as it last was when it was deleted.
    pub(crate) object: Value,
    /// When.
    pub(crate) at: Instant,
    /// By whom; nobody knows of what the server does by itself.
    pub(crate) by: String,
}

/// All objects and their history.
#[derive(Debug, Default)]
pub(crate) struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    changes: Vec<Change>,
    oldest: u64,
    uids: u64,
}

/// Where an object is kept.
pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    (resource.full(), namespace.to_owned(), name.to_owned())
}

/// The wall clock as objects have it.
pub(crate) fn timestamp() -> String {
    jiff::Timestamp::now()
        .round(jiff::Unit::Second)
        .map_or_else(|_| String::new(), |now| now.to_string())
}

/// The same with microseconds.
pub(crate) fn micro_timestamp() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// RFC 7386: what is null goes, objects are merged, everything else is replaced.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

impl Store {
    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Versions before this one are forgotten.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Forgets every version but the newest, as a compaction does.
    pub(crate) fn forget(&mut self) {
        self.version += 1;
        self.oldest = self.version;
    }

    /// One object.
    pub(crate) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<&Value, Failure> {
        self.objects
            .get(&key(resource, namespace, name))
            .ok_or_else(|| Failure::not_found(resource, name))
    }

    /// All of a kind, in one namespace or in all.
    pub(crate) fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<&Value> {
        self.objects
            .iter()
            .filter(|(key, _)| {
                key.0 == resource.full() && namespace.is_none_or(|namespace| namespace == key.1)
            })
            .map(|(_, object)| object)
            .collect()
    }

    /// Changes after `version`.
    pub(crate) fn after(&self, version: u64) -> &[Change] {
        let first = self.changes.partition_point(|change| change.version <= version);
        &self.changes[first..]
    }

    /// Whose the changes after `version` are.
    pub(crate) fn sign(&mut self, version: u64, who: &str) {
        let first = self.changes.partition_point(|change| change.version <= version);
        self.changes[first..].iter_mut().for_each(|change| change.by = who.to_owned());
    }

    /// The object as it was at `when`: what a cache that lags behind has.
    pub(crate) fn as_of(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        when: Instant,
    ) -> Option<Value> {
        let key = key(resource, namespace, name);
        let last =
            self.changes.iter().rev().find(|change| change.key == key && change.at <= when)?;
        (last.kind != "DELETED").then(|| last.object.clone())
    }

    fn record(&mut self, kind: &'static str, key: Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let change = Change {
            version: self.version,
            kind,
            key: key.clone(),
            object: object.clone(),
            at: Instant::now(),
            by: String::new(),
        };
        self.changes.push(change);
        if kind == "DELETED" {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, object.clone());
        }
        object
    }

    /// A new object.
    pub(crate) fn create(&mut self, place: &Place, mut object: Value) -> Result<Value, Failure> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let namespace = place.namespace.clone().unwrap_or_default();
        let key = key(place.resource, &namespace, &name);
        if self.objects.contains_key(&key) {
            return Err(Failure::exists(place.resource, &name));
        }
        self.uids += 1;
        let metadata = &mut object["metadata"];
        metadata["namespace"] = namespace.into();
        metadata["uid"] = format!("00000000-0000-4000-8000-{:012x}", self.uids).into();
        metadata["creationTimestamp"] = timestamp().into();
        metadata["generation"] = 1.into();
        if place.resource.has_status
            && let Value::Object(fields) = &mut object
        {
            fields.remove("status");
        }
        Ok(self.record("ADDED", key, object))
    }

    /// What `body` would make of the object: a patch is merged in, else it is a replacement. Main and
    /// status are kept apart.
    pub(crate) fn proposed(
        &self,
        place: &Place,
        name: &str,
        body: &Value,
        patch: bool,
    ) -> Result<Value, Failure> {
        let namespace = place.namespace.as_deref().unwrap_or_default();
        let current = self.get(place.resource, namespace, name)?;
        let wanted = &body["metadata"]["resourceVersion"];
        if wanted.as_str().is_some_and(|wanted| !wanted.is_empty()) {
            if *wanted != current["metadata"]["resourceVersion"] {
                return Err(Failure::conflict(place.resource, name));
            }
        } else if !patch && !place.resource.unconditional {
            let fault =
                ("metadata.resourceVersion", "Invalid value: 0: must be specified for an update");
            let fault = [(fault.0.to_owned(), fault.1.to_owned())];
            return Err(Failure::invalid(place.resource, place.resource.group, name, &fault));
        }
        let uid = &body["metadata"]["uid"];
        if !uid.is_null() && *uid != current["metadata"]["uid"] {
            return Err(Failure::conflict(place.resource, name));
        }
        let mut next = body.clone();
        if patch {
            next = current.clone();
            merge(&mut next, body);
        }
        let mut result = if place.status { current.clone() } else { next.clone() };
        if place.resource.has_status {
            let status = if place.status { &next["status"] } else { &current["status"] };
            set_or_remove(&mut result, "status", status);
        }
        for field in
            ["uid", "creationTimestamp", "generation", "resourceVersion", "name", "namespace"]
        {
            let kept = current["metadata"][field].clone();
            result["metadata"][field] = kept;
        }
        let deleted = current["metadata"]["deletionTimestamp"].clone();
        set_or_remove(&mut result["metadata"], "deletionTimestamp", &deleted);
        result["apiVersion"] = current["apiVersion"].clone();
        result["kind"] = current["kind"].clone();
        Ok(result)
    }

    /// Stores what [`Self::proposed`] said; what changes nothing makes no version.
    pub(crate) fn replace(
        &mut self,
        place: &Place,
        name: &str,
        mut object: Value,
    ) -> Result<Value, Failure> {
        let namespace = place.namespace.as_deref().unwrap_or_default();
        let current = self.get(place.resource, namespace, name)?;
        if *current == object {
            return Ok(object);
        }
        if current["spec"] != object["spec"] {
            let generation = current["metadata"]["generation"].as_u64().unwrap_or(0);
            object["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(self.record("MODIFIED", key(place.resource, namespace, name), object))
    }

    /// Deletes; a pod only once whoever runs it has ended it, unless `now`.
    pub(crate) fn delete(
        &mut self,
        place: &Place,
        name: &str,
        options: &Value,
        now: bool,
    ) -> Result<Value, Failure> {
        let namespace = place.namespace.as_deref().unwrap_or_default();
        let mut object = self.get(place.resource, namespace, name)?.clone();
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return Err(Failure::conflict(place.resource, name));
            }
        }
        let key = key(place.resource, namespace, name);
        if place.resource.kind == "Pod" && !now {
            if object["metadata"]["deletionTimestamp"].is_null() {
                object["metadata"]["deletionTimestamp"] = timestamp().into();
                return Ok(self.record("MODIFIED", key, object));
            }
            return Ok(object);
        }
        self.record("DELETED", key, object.clone());
        Ok(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {
                "name": name, "group": place.resource.group, "kind": place.resource.plural,
                "uid": object["metadata"]["uid"],
            },
        }))
    }
}

fn set_or_remove(object: &mut Value, field: &str, value: &Value) {
    if !value.is_null() {
        object[field] = value.clone();
    } else if let Value::Object(fields) = object {
        fields.remove(field);
    }
}
