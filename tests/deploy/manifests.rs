//! Every manifest is read, every kustomization builds, and every object is what its kind allows.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{SITES, documents, files, kustomize, object, project, schema, site, text};

/// Directories with a kustomization that is applied as it is: components are parts of others.
pub(super) fn kustomizations() -> Vec<PathBuf> {
    let all = files(&project("deploy/kubernetes"), &|path| path.ends_with("kustomization.yaml"));
    let applied = all.into_iter().filter(|path| documents(path)[0]["kind"] == "Kustomization");
    applied.map(|path| path.parent().unwrap().to_owned()).collect()
}

#[test]
fn every_manifest_is_used_and_valid() {
    let directory = project("deploy/kubernetes");
    let is_yaml = |path: &std::path::Path| path.extension().is_some_and(|end| end == "yaml");
    let manifests = files(&directory, &is_yaml);
    assert!(manifests.len() > 20, "{manifests:?}");
    for path in &manifests {
        if path.ends_with("kustomization.yaml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let beside = super::read(&path.with_file_name("kustomization.yaml"));
        assert!(beside.contains(name), "{} is in no kustomization", path.display());
    }
    assert!(kustomizations().len() >= 8);
    for directory in kustomizations() {
        let objects = kustomize::build(&directory).unwrap();
        assert!(!objects.is_empty());
        for object in objects {
            let found = schema::problems(&object);
            let name = kustomize::name(&object);
            assert!(found.is_empty(), "{}: {name}: {found:#?}", directory.display());
        }
    }
    for name in ["policy.yaml", "binding.yaml"] {
        let path = directory.join("components/admission-policy").join(name);
        assert_eq!(schema::problems(&documents(&path)[0]), Vec::<String>::new(), "{name}");
    }
}

/// Private addresses, and names of machines that could be somebody's.
#[test]
fn nothing_is_named_that_could_be_somebody_s() {
    let allowed =
        ["example.com", "cnpg.io", "k8s.io", "kubernetes.io", "coreos.com", "ghcr.io", "docker.io"];
    for path in files(&project("deploy"), &|path| !path.ends_with("demo")) {
        for word in
            super::read(&path).split(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c)))
        {
            if let Ok(ip) = word.parse::<std::net::Ipv4Addr>() {
                let nobodys = ip.is_documentation() || ip.is_unspecified();
                assert!(nobodys, "{}: {word}", path.display());
            }
            let host =
                [".com", ".io", ".net", ".org", ".local"].iter().any(|end| word.ends_with(end));
            let known = allowed.iter().any(|end| word.ends_with(end));
            assert!(!host || known, "{}: {word}", path.display());
        }
    }
}

/// The two sites differ in what they are called and in how they begin, and are alike in all else.
#[test]
fn the_sites_are_symmetric() {
    let mut specs = Vec::new();
    for name in SITES {
        let objects = site(name);
        let spec = &object(&objects, "Cluster")["spec"];
        let own = format!("pg-{name}");
        let replica = &spec["replica"];
        assert_eq!(replica["self"], json!(own));
        // By `enabled` a site would be a replica by its own word, whatever `primary` says.
        assert!(replica.get("enabled").is_none() && replica.get("minApplyDelay").is_none());
        let known: BTreeSet<_> = spec["externalClusters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                let (name, from) = (&entry["name"], &entry["connectionParameters"]);
                // Who connects is the other one of the two.
                assert_ne!(&from["application_name"], name);
                let host = format!("{}.example.com", name.as_str().unwrap());
                assert_eq!(from["host"], json!(host));
                assert_eq!(
                    entry["sslRootCert"]["name"],
                    json!(format!("{}-ca", name.as_str().unwrap()))
                );
                name.as_str().unwrap().to_owned()
            })
            .collect();
        for key in ["self", "primary", "source"] {
            assert!(known.contains(replica[key].as_str().unwrap()), "{name}: {key}");
        }
        assert_ne!(replica["self"], replica["source"]);
        let mut rest = spec.clone();
        rest["replica"] = Value::Null;
        rest["bootstrap"] = Value::Null;
        specs.push((rest, replica["primary"].clone()));
    }
    assert_eq!(specs[0], specs[1]);
}

/// What the safety or the time of a failover depends on.
#[test]
fn the_cluster_has_the_settings_that_are_required() {
    let objects = site("a");
    let spec = &object(&objects, "Cluster")["spec"];
    assert_eq!(spec["instances"], json!(1));
    assert_eq!(spec["smartShutdownTimeout"], json!(0));
    assert_eq!(spec["primaryUpdateMethod"], json!("restart"));
    let delay = |key: &str| spec[key].as_u64().unwrap();
    assert!((10..=30).contains(&delay("switchoverDelay")));
    assert!(delay("failoverDelay") >= 10);
    assert!(delay("stopDelay") > delay("switchoverDelay"));
}

/// The objects of one site speak of the same Cluster, service account and namespace.
#[test]
fn the_objects_speak_of_the_same_cluster() {
    for name in SITES {
        let objects = site(name);
        let cluster = &object(&objects, "Cluster")["metadata"];
        let labels = json!({"cnpg.io/cluster": cluster["name"], "cnpg.io/podRole": "instance"});
        let policy = &object(&objects, "NetworkPolicy")["spec"];
        assert_eq!(policy["podSelector"]["matchLabels"], labels);
        assert_eq!(object(&objects, "PodMonitor")["spec"]["selector"]["matchLabels"], labels);
        let admission =
            documents(&project("deploy/kubernetes/components/admission-policy/policy.yaml"));
        let constraints = &admission[0]["spec"]["matchConstraints"];
        assert_eq!(constraints["objectSelector"]["matchLabels"], labels);
        let binding = object(&objects, "RoleBinding");
        assert_eq!(binding["subjects"][0]["name"], cluster["name"]);
        assert_eq!(binding["roleRef"]["name"], object(&objects, "Role")["metadata"]["name"]);
        for object in &objects {
            let at = &object["metadata"]["namespace"];
            let own =
                object["kind"] == "Namespace" && object["metadata"]["name"] == cluster["namespace"];
            assert!(own || at == &cluster["namespace"], "{}", kustomize::name(object));
        }
    }
}

/// One way to inject is chosen; the other has to be one line away.
#[test]
fn a_site_has_one_way_of_injection() {
    for name in SITES {
        let chosen = text(&format!("deploy/kubernetes/sites/{name}/kustomization.yaml"));
        let listed = |component: &str| chosen.contains(&format!("- ../../components/{component}"));
        assert!(listed("pod-patch") != listed("admission-policy"), "{chosen}");
        let objects = site(name);
        let annotations = &object(&objects, "Cluster")["metadata"]["annotations"];
        assert_eq!(annotations.get("cnpg.io/podPatch").is_some(), listed("pod-patch"));
    }
}
