//! As much of kustomize as the manifests use, so that they can be looked at as they are applied. What it does not
//! know it refuses. Where there is a kubectl, it has to build the same.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::patch::apply as operations;
use super::{documents, read};

const KNOWN: [&str; 7] = [
    "apiVersion",
    "kind",
    "resources",
    "components",
    "patches",
    "configMapGenerator",
    "generatorOptions",
];

/// Lists of Kubernetes' own kinds that are merged by the names in them.
const BY_NAME: [&str; 5] = ["containers", "initContainers", "env", "volumes", "imagePullSecrets"];

/// The objects that the kustomization in `directory` stands for.
pub(super) fn build(directory: &Path) -> Result<Vec<Value>, String> {
    let mut objects = Vec::new();
    into(directory, "Kustomization", &mut objects)?;
    Ok(objects)
}

fn into(directory: &Path, kind: &str, objects: &mut Vec<Value>) -> Result<(), String> {
    let path = directory.join("kustomization.yaml");
    if !path.is_file() {
        return Err(format!("{} is missing", path.display()));
    }
    let kustomization = documents(&path).remove(0);
    let here = |why: String| format!("{}: {why}", path.display());
    let fields = kustomization.as_object().ok_or_else(|| here("no mapping".to_owned()))?;
    if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(here(format!("{unknown} is not known to tests/deploy/kustomize.rs")));
    }
    if kustomization["kind"] != kind {
        return Err(here(format!("is no {kind}")));
    }
    for resource in strings(&kustomization["resources"]).map_err(here)? {
        add(&directory.join(resource), objects).map_err(here)?;
    }
    for component in strings(&kustomization["components"]).map_err(here)? {
        into(&directory.join(component), "Component", objects)?;
    }
    generate(directory, &kustomization, objects).map_err(here)?;
    for patch in kustomization["patches"].as_array().into_iter().flatten() {
        apply(directory, patch, objects).map_err(here)?;
    }
    Ok(())
}

fn strings(list: &Value) -> Result<Vec<&str>, String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
    texts.ok_or_else(|| format!("{list} is no list of texts"))
}

fn add(path: &Path, objects: &mut Vec<Value>) -> Result<(), String> {
    if path.is_dir() {
        return into(path, "Kustomization", objects);
    }
    if !path.is_file() {
        return Err(format!("{} is missing", path.display()));
    }
    for object in documents(path) {
        if objects.iter().any(|other| name(other) == name(&object)) {
            return Err(format!("{} is there twice", name(&object)));
        }
        objects.push(object);
    }
    Ok(())
}

/// What tells objects apart.
pub(super) fn name(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!(
        "{} {} {}/{}",
        object["apiVersion"], object["kind"], metadata["namespace"], metadata["name"]
    )
    .replace('"', "")
}

fn generate(directory: &Path, from: &Value, objects: &mut Vec<Value>) -> Result<(), String> {
    let generators = from["configMapGenerator"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !generators.is_empty() && from["generatorOptions"] != json!({"disableNameSuffixHash": true})
    {
        return Err("generated names have hashes: pods name them without".to_owned());
    }
    for generator in generators {
        let mut data = Map::new();
        for file in strings(&generator["files"])? {
            data.insert(file.to_owned(), read(&directory.join(file)).into());
        }
        objects.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": { "name": generator["name"], "namespace": generator["namespace"] },
        }));
    }
    Ok(())
}

fn apply(directory: &Path, patch: &Value, objects: &mut [Value]) -> Result<(), String> {
    let file = patch["path"].as_str().ok_or("a patch without a path is not known")?;
    for content in documents(&directory.join(file)) {
        if content.is_array() && patch.get("target").is_none() {
            return Err(format!("{file} is a list of operations and has no target"));
        }
        let mut hit = false;
        for object in objects.iter_mut() {
            let meant = match patch["target"].as_object() {
                Some(target) => target.iter().all(|(key, wanted)| object.get(key) == Some(wanted)),
                None => name(object) == name(&content),
            };
            if meant && content.is_array() {
                *object = operations(object, &content).map_err(|why| format!("{file}: {why}"))?;
                hit = true;
            } else if meant {
                // Lists of kinds that kustomize has no schema of are replaced.
                let group = object["apiVersion"].as_str().unwrap_or_default();
                let own = !group.split('/').next().unwrap_or_default().contains('.');
                merge(object, &content, own);
                hit = true;
            }
        }
        if !hit {
            return Err(format!("{file} patches nothing that is there"));
        }
    }
    Ok(())
}

fn merge(into: &mut Value, patch: &Value, by_name: bool) {
    let (Value::Object(fields), Value::Object(changes)) = (&mut *into, patch) else {
        *into = patch.clone();
        return;
    };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
            continue;
        }
        match (fields.get_mut(key), change) {
            (Some(Value::Array(items)), Value::Array(more))
                if by_name && BY_NAME.contains(&key.as_str()) =>
            {
                for item in more {
                    match items.iter_mut().find(|one| one["name"] == item["name"]) {
                        Some(one) => merge(one, item, by_name),
                        None => items.push(item.clone()),
                    }
                }
            }
            (Some(field), change) => merge(field, change, by_name),
            (None, change) => {
                fields.insert(key.clone(), change.clone());
            }
        }
    }
}

#[test]
fn kubectl_builds_the_same() {
    let sorted = |mut objects: Vec<Value>| {
        objects.sort_by_key(name);
        objects
    };
    for directory in super::manifests::kustomizations() {
        let said = std::process::Command::new("timeout")
            .args(["60", "kubectl", "kustomize"])
            .arg(&directory)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "kubectl (leave it out with --skip kubectl): {errors}");
        let theirs = serde_saphyr::from_multiple(&String::from_utf8_lossy(&said.stdout)).unwrap();
        assert_eq!(sorted(theirs), sorted(build(&directory).unwrap()), "{}", directory.display());
    }
}

#[test]
fn what_it_does_not_know_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
    write("one.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {a: b}\n");
    write("patch.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: two}\ndata: {a: c}\n");
    write("list.yaml", "- {op: add, path: /nowhere/a, value: b}\n");
    let built = |text: &str| {
        write("kustomization.yaml", &format!("kind: Kustomization\n{text}\n"));
        build(place.path())
    };
    assert_eq!(built("resources: [one.yaml]").unwrap().len(), 1);
    for (text, says) in [
        ("namePrefix: a-", "namePrefix is not known"),
        ("resources: [two.yaml]", "two.yaml is missing"),
        ("resources: [one.yaml, one.yaml]", "there twice"),
        ("resources: [one.yaml]\npatches: [{path: patch.yaml}]", "patches nothing"),
        ("configMapGenerator: [{name: a, files: [one.yaml]}]", "have hashes"),
        ("components: [.]", "is no Component"),
        ("resources: [one.yaml]\npatches: [{path: list.yaml}]", "has no target"),
        (
            "resources: [one.yaml]\npatches: [{path: list.yaml, target: {kind: ConfigMap}}]",
            "/nowhere is not there",
        ),
    ] {
        let why = built(text).unwrap_err();
        assert!(why.contains(says), "{why}");
    }
}
