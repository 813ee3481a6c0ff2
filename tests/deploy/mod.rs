//! What is shipped beside the binary: the image's recipe, the manifests for Kubernetes, the configuration of
//! the NATS servers, and what the documentation says of them. Nothing of it needs a Kubernetes.

mod cel;
mod documentation;
mod image;
mod instances;
mod kustomize;
mod manifests;
mod nats;
mod patch;
mod permissions;
mod pods;
mod schema;
mod settings;

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file or directory of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the project.
fn text(path: &str) -> String {
    read(&project(path))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a YAML file.
fn documents(path: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `directory` that satisfies `wanted`, in order.
fn files(directory: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The object of `kind` among those of a site.
fn object<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there are several of kind {kind}");
    first
}

/// What is applied at a site of the example.
fn site(name: &str) -> Vec<Value> {
    example(&format!("sites/{name}"))
}

/// Both sites of the example.
const SITES: [&str; 2] = ["a", "b"];

/// The examples in which every instance of a Cluster is a member.
const OF_INSTANCES: [&str; 3] = ["instances", "two-by-two/a", "two-by-two/b"];

/// What is applied of an example.
fn example(path: &str) -> Vec<Value> {
    let directory = project("deploy/kubernetes").join(path);
    kustomize::build(&directory).unwrap_or_else(|why| panic!("{path}: {why}"))
}
