//! The example in which every instance of a Cluster is a member: what is different from a site with one.

use std::collections::BTreeSet;

use harmony_agent::config::{Config, Database, Loaded, Sources, load};
use serde_json::{Value, json};

use super::pods::{MADE, containers, made};
use super::{OF_INSTANCES, cel, documents, example, kustomize, object, patch, project, text};

/// A pod, and its address.
const POD: &str = "pg-1";
const ADDRESS: &str = "198.51.100.7";

/// The operations of the annotation in a component.
fn pod_patch(component: &str) -> Value {
    let path = format!("deploy/kubernetes/components/{component}/pod-patch.yaml");
    let cluster = documents(&project(&path)).remove(0);
    let text = cluster["metadata"]["annotations"]["cnpg.io/podPatch"].as_str().unwrap();
    serde_json::from_str(text).unwrap()
}

fn patched(component: &str, version: &str) -> Value {
    patch::apply(&made(version), &pod_patch(component)).unwrap()
}

/// The agent's container of a pod.
fn agent(pod: &mut Value) -> &mut Value {
    let containers = pod["spec"]["initContainers"].as_array_mut().unwrap();
    containers.iter_mut().find(|container| container["name"] == "harmony-agent").unwrap()
}

/// What the environment is made of, by the fields of the pod.
fn environment(pod: &Value) -> Vec<(String, String)> {
    let agent = containers(pod).iter().find(|it| it["name"] == "harmony-agent").unwrap();
    let variables = agent["env"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    variables
        .map(|it| (text(&it["name"]), text(&it["valueFrom"]["fieldRef"]["fieldPath"])))
        .collect()
}

#[test]
fn the_pod_is_that_of_a_site_and_says_who_it_is() {
    for version in MADE {
        let (one, mut of_several) =
            (patched("pod-patch", version), patched("pod-patch-of-instances", version));
        let said = environment(&of_several);
        let wanted = [
            ("HARMONY_MEMBER", "metadata.name"),
            ("HARMONY_DATABASE__CNPG__INSTANCE", "metadata.name"),
            ("HARMONY_DATABASE__CNPG__HOST", "status.podIP"),
        ];
        let said: Vec<_> = said.iter().map(|(name, field)| (&name[..], &field[..])).collect();
        assert_eq!(said, wanted);
        agent(&mut of_several).as_object_mut().unwrap().remove("env");
        assert_eq!(of_several, one, "{version}");
    }
}

/// The policy adds the same to the pod that the other policy makes: its second mutation sees what the first did.
#[test]
fn the_admission_policy_does_the_same() {
    let place = tempfile::tempdir().unwrap();
    let component = project("deploy/kubernetes/components/admission-policy-of-instances");
    let kustomization = format!("kind: Kustomization\ncomponents: [{}]\n", component.display());
    std::fs::write(place.path().join("kustomization.yaml"), kustomization).unwrap();
    let objects = kustomize::build(place.path()).unwrap();
    let mutations = object(&objects, "MutatingAdmissionPolicy")["spec"]["mutations"].clone();
    let [first, second] = &mutations.as_array().unwrap()[..] else { panic!("{mutations}") };
    let expression = |of: &Value| of["expression"].as_str().unwrap().to_owned();
    let operations = cel::operations(&expression(&first["jsonPatch"])).unwrap();
    assert_eq!(second["patchType"], "ApplyConfiguration");
    let applied = cel::object(&expression(&second["applyConfiguration"])).unwrap();
    for version in MADE {
        let mut pod = patch::apply(&made(version), &operations).unwrap();
        // What is applied names its container, and has nothing that is there already.
        let [only] = &applied["spec"]["initContainers"].as_array().unwrap()[..] else {
            panic!("{applied}")
        };
        assert_eq!(only["name"], "harmony-agent");
        assert_eq!(applied["spec"].as_object().unwrap().len(), 1);
        assert_eq!(only.as_object().unwrap().len(), 2);
        agent(&mut pod)["env"] = only["env"].clone();
        assert_eq!(pod, patched("pod-patch-of-instances", version), "{version}");
    }
}

/// The configuration as the agent in the first pod loads it.
fn loaded(objects: &[Value]) -> Loaded {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(place.path().join(name), text).unwrap();
        place.path().join(name)
    };
    let text = object(objects, "ConfigMap")["data"]["harmony-agent.toml"].as_str().unwrap();
    let secret = write("secret", "not a secret").display().to_string();
    let flags = [
        ("store.nats.nkey_file", secret.clone()),
        ("store.nats.tls_ca_file", secret),
        // In the image it is found.
        ("database.cnpg.bin_dir", place.path().display().to_string()),
    ];
    let fields = environment(&patched("pod-patch-of-instances", "1.30.0"));
    let of_pod = |field: String| match field.as_str() {
        "metadata.name" => POD.to_owned(),
        "status.podIP" => ADDRESS.to_owned(),
        other => panic!("{other} is no field that the environment is made of"),
    };
    let sources = Sources {
        file: Some(write("harmony-agent.toml", text)),
        environment: fields.into_iter().map(|(name, field)| (name, of_pod(field))).collect(),
        flags: flags.map(|(key, value)| (key.to_owned(), value)).to_vec(),
    };
    load(&sources).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_agent_takes_its_configuration() {
    for name in OF_INSTANCES {
        let objects = example(name);
        let cluster = object(&objects, "Cluster");
        let Config { member, database, address, policy, .. } = loaded(&objects).config;
        let Database::Cnpg(cnpg) = database else { panic!("{database:?}") };
        assert_eq!((member.as_str(), cnpg.instance.as_deref()), (POD, Some(POD)));
        assert_eq!(json!(cnpg.access.cluster), cluster["metadata"]["name"]);
        let own = cluster["spec"].pointer("/replica/self").unwrap_or(&cluster["metadata"]["name"]);
        assert_eq!(json!(policy.site.unwrap().to_string()), *own, "{name}");
        assert_eq!(address.host, ADDRESS, "each instance is told from the others by it");
        let stop = cluster["spec"]["stopDelay"].as_u64().unwrap();
        assert!(std::time::Duration::from_secs(stop) > policy.shutdown_timeout, "{name}");
    }
}

#[test]
fn the_cluster_leaves_the_choice_to_the_agents() {
    for name in OF_INSTANCES {
        let objects = example(name);
        let spec = &object(&objects, "Cluster")["spec"];
        assert!(spec["instances"].as_u64().unwrap() >= 2, "{name}");
        assert!(spec["failoverDelay"].as_u64().unwrap() >= 3600, "{name}");
        assert_eq!(spec["smartShutdownTimeout"], json!(0), "{name}");
        assert_eq!(spec["primaryUpdateMethod"], json!("restart"), "{name}");
        assert_eq!(spec["primaryUpdateStrategy"], json!("supervised"), "{name}");
        if let Some(fresh) = spec["bootstrap"].get("initdb") {
            assert_eq!(fresh["dataChecksums"], json!(true), "{name}: for pg_rewind");
        }
    }
}

/// Pods are called after their Cluster, and members after their pods: all are different. What speaks of a Cluster
/// means that of its site.
#[test]
fn the_sites_of_two_by_two_are_called_differently() {
    let sites = OF_INSTANCES[1..].iter().map(|name| example(name));
    let names = sites.map(|objects| {
        let cluster = object(&objects, "Cluster");
        let name = cluster["metadata"]["name"].clone();
        assert_eq!(cluster["spec"]["replica"]["self"], name, "one name for all");
        let labels = json!({"cnpg.io/cluster": name, "cnpg.io/podRole": "instance"});
        let policy = &object(&objects, "NetworkPolicy")["spec"];
        assert_eq!(policy["podSelector"]["matchLabels"], labels);
        assert_eq!(object(&objects, "PodMonitor")["spec"]["selector"]["matchLabels"], labels);
        // Nothing is left of the name in the example with one instance.
        let old = json!("pg").to_string();
        for object in objects.iter().filter(|object| object["kind"] != "ConfigMap") {
            assert!(!object.to_string().contains(&old), "{}", kustomize::name(object));
        }
        name
    });
    let names: Vec<_> = names.collect();
    assert_ne!(names[0], names[1]);
}

/// What the page lets a site's NATS user do is what each agent may, for each of its instances.
#[test]
fn the_subjects_of_a_site_are_those_of_its_instances() {
    let quoted = |part: &str| -> Vec<String> {
        part.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    };
    // Of the first user that has permissions, and of the page: what it may publish, and subscribe to.
    let parts = |text: &str, end: &str| -> [Vec<String>; 2] {
        let (_, user) = text.split_once("publish: {").unwrap();
        let (publish, rest) = user.split_once("subscribe: {").unwrap();
        [quoted(publish), quoted(rest.split_once(end).unwrap().0)]
    };
    let agent = parts(&text("deploy/kubernetes/nats/base/nats.conf"), "}");
    let site = parts(&text("docs/cnpg/instances.md"), "}");
    for (one, all) in agent.iter().zip(site) {
        let of = |number: usize| {
            one.iter().map(move |subject| subject.replace("pg-a", &format!("pg-{number}")))
        };
        let wanted: BTreeSet<_> = (1..=6).flat_map(of).collect();
        assert!(wanted.len() > one.len(), "{wanted:?}");
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), wanted);
    }
}
