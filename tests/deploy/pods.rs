//! The pod of an instance after the agent was put into it, in both ways.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{SITES, cel, documents, object, patch, project, schema, site};

/// Pods as CloudNativePG makes them.
pub(super) const MADE: [&str; 2] = ["1.30.0", "later"];

pub(super) fn made(name: &str) -> Value {
    documents(&project("tests/deploy/pods").join(format!("{name}.yaml"))).remove(0)
}

fn pod_patch() -> Value {
    let objects = site("a");
    let annotations = &object(&objects, "Cluster")["metadata"]["annotations"];
    serde_json::from_str(annotations["cnpg.io/podPatch"].as_str().unwrap()).unwrap()
}

fn patched(name: &str) -> Value {
    patch::apply(&made(name), &pod_patch()).unwrap()
}

pub(super) fn containers(pod: &Value) -> &[Value] {
    pod["spec"]["initContainers"].as_array().unwrap()
}

/// The agent's container and the watchdog's.
fn ours(pod: &Value) -> [&Value; 2] {
    ["harmony-agent", "harmony-watchdog"]
        .map(|name| containers(pod).iter().find(|container| container["name"] == name).unwrap())
}

#[test]
fn the_pods_are_pods() {
    for name in MADE {
        assert_eq!(schema::problems(&made(name)), Vec::<String>::new(), "{name}");
        assert_eq!(schema::problems(&patched(name)), Vec::<String>::new(), "{name}");
    }
}

/// PostgreSQL's container, and whatever else the operator made, is what it was.
#[test]
fn nothing_is_changed_that_was_there() {
    for name in MADE {
        let (before, mut after) = (made(name), patched(name));
        let spec = after["spec"].as_object_mut().unwrap();
        assert_eq!(spec.remove("shareProcessNamespace"), Some(json!(true)));
        for (list, added) in [("initContainers", 2), ("volumes", 3)] {
            let items = spec[list].as_array_mut().unwrap();
            items.truncate(items.len() - added);
        }
        assert_eq!(before, after, "{name}");
    }
}

/// The watchdog is there before the agent, and both before PostgreSQL.
#[test]
fn they_come_in_this_order() {
    for name in MADE {
        let pod = patched(name);
        let names: Vec<_> =
            containers(&pod).iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["bootstrap-controller", "harmony-watchdog", "harmony-agent"]);
        for container in ours(&pod) {
            // What makes an init container a sidecar; PostgreSQL waits for its startup probe and not for its end.
            assert_eq!(container["restartPolicy"], "Always");
        }
        assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn they_may_do_little() {
    let pod = patched("1.30.0");
    for container in ours(&pod) {
        let wanted = json!({
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        assert_eq!(container["securityContext"], wanted);
        for (kind, resource) in
            [("requests", "cpu"), ("requests", "memory"), ("limits", "cpu"), ("limits", "memory")]
        {
            assert!(container["resources"][kind][resource].is_string(), "{kind} {resource}");
        }
        assert_eq!(container["image"], ours(&pod)[0]["image"]);
    }
}

/// The boot gate. It holds for as long as it takes, and a pod is never unready for the agent's sake.
#[test]
fn the_startup_probe_is_the_gate() {
    let pod = patched("1.30.0");
    let [agent, watchdog] = ours(&pod);
    let probe = &agent["startupProbe"];
    assert_eq!(probe["httpGet"], json!({"path": "/startup", "port": "harmony"}));
    let number = |key: &str| probe[key].as_u64().unwrap();
    assert_eq!(number("periodSeconds"), 1);
    let month = 30 * 24 * 3600;
    assert!(number("failureThreshold") >= month, "the container would be restarted while it waits");
    assert!(i32::try_from(number("failureThreshold")).is_ok());
    let ports = &agent["ports"][0];
    assert_eq!((&ports["name"], &ports["containerPort"]), (&json!("harmony"), &json!(8008)));
    let live = &agent["livenessProbe"];
    assert_eq!(live["httpGet"]["path"], "/livez");
    // One that hangs does not hear that it is to go: the pod's own patience is minutes.
    assert!(live["terminationGracePeriodSeconds"].as_u64().unwrap() <= 10);
    assert!(
        live["periodSeconds"].as_u64().unwrap() * live["failureThreshold"].as_u64().unwrap() >= 30
    );
    for container in [agent, watchdog] {
        assert!(container.get("readinessProbe").is_none());
        assert!(container.get("lifecycle").is_none());
    }
    for probe in ["startupProbe", "livenessProbe"] {
        assert!(watchdog.get(probe).is_none(), "nothing may restart the watchdog");
    }
}

/// Every volume that is mounted is there, no path twice, and data lies where PostgreSQL's container has it.
#[test]
fn what_is_mounted_is_there() {
    for name in MADE {
        let pod = patched(name);
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        for (at, volume) in volumes.iter().enumerate() {
            let twice = volumes[..at].iter().any(|other| other["name"] == volume["name"]);
            assert!(!twice, "{name}: {volume}");
        }
        let of_postgres = &pod["spec"]["containers"][0]["volumeMounts"];
        for container in ours(&pod) {
            let mounts = container["volumeMounts"].as_array().unwrap();
            for (at, mount) in mounts.iter().enumerate() {
                let known = volumes.iter().any(|volume| volume["name"] == mount["name"]);
                assert!(known, "{name}: {mount}");
                let path = &mount["mountPath"];
                assert!(mounts[..at].iter().all(|other| &other["mountPath"] != path), "{mount}");
            }
            let data = json!({"name": "pgdata", "mountPath": "/var/lib/postgresql/data"});
            assert!(mounts.contains(&data) && of_postgres.as_array().unwrap().contains(&data));
            // What no restart may forget, for both the same directory.
            let state = json!({"name": "pgdata", "mountPath": "/var/lib/harmony-agent", "subPath": "harmony-agent"});
            assert!(mounts.contains(&state));
        }
        let [agent, _] = ours(&pod);
        let mounts = agent["volumeMounts"].as_array().unwrap();
        assert!(mounts.contains(&json!({"name": "scratch-data", "mountPath": "/controller"})));
        for mount in mounts {
            let of_pod = ["pgdata", "scratch-data"].iter().any(|name| mount["name"] == *name);
            assert_eq!(mount.get("readOnly"), (!of_pod).then_some(&json!(true)), "{mount}");
        }
    }
}

/// The token comes by a volume of ours, whether or not CloudNativePG or Kubernetes mounts one.
#[test]
fn the_token_is_mounted_in_every_version() {
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    let [old, new] = MADE.map(patched);
    assert_eq!(ours(&old), ours(&new));
    let [agent, watchdog] = ours(&old);
    let at = |container: &Value| {
        let mounts = container["volumeMounts"].as_array().unwrap().clone();
        mounts.into_iter().find(|mount| mount["mountPath"] == place)
    };
    assert_eq!(at(agent).unwrap()["name"], "harmony-agent-api");
    assert_eq!(at(watchdog), None, "the watchdog asks no API server");
    let volumes = old["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "harmony-agent-api").unwrap();
    let sources = volume["projected"]["sources"].as_array().unwrap();
    let paths: Vec<_> = sources
        .iter()
        .map(|source| {
            let of_token = &source["serviceAccountToken"]["path"];
            let of_items = [&source["configMap"], &source["downwardAPI"]]
                .into_iter()
                .find_map(|kind| kind["items"][0]["path"].as_str());
            of_token.as_str().or(of_items).unwrap()
        })
        .collect();
    assert_eq!(paths, ["token", "ca.crt", "namespace"]);
}

/// What the policy does is what the patch does.
#[test]
fn the_admission_policy_does_the_same() {
    let policy = documents(&project("deploy/kubernetes/components/admission-policy/policy.yaml"));
    let spec = &policy[0]["spec"];
    let expression = spec["mutations"][0]["jsonPatch"]["expression"].as_str().unwrap();
    assert_eq!(cel::operations(expression).unwrap(), pod_patch());
    assert_eq!(spec["failurePolicy"], "Fail", "a pod without its agent asks nobody");
    let rules = &spec["matchConstraints"]["resourceRules"][0];
    assert_eq!((&rules["operations"], &rules["resources"]), (&json!(["CREATE"]), &json!(["pods"])));
}

/// The ConfigMap and the key that the container reads are those that the site makes.
#[test]
fn its_configuration_is_where_it_looks() {
    for name in SITES {
        let objects = site(name);
        let map = object(&objects, "ConfigMap");
        let pod = patched("1.30.0");
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume.get("configMap").is_some()).unwrap();
        assert_eq!(volume["configMap"]["name"], map["metadata"]["name"]);
        let mounts = ours(&pod)[0]["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap();
        let key = map["data"].as_object().unwrap().keys().next().unwrap();
        let file = format!("{}/{key}", mount["mountPath"].as_str().unwrap());
        assert_eq!(file, harmony_agent::config::DEFAULT_FILE);
    }
}

/// The watchdog's container: the program takes these arguments, and serves the socket that the agent looks for.
#[test]
fn the_watchdog_serves_where_the_agent_looks() {
    let place = tempfile::tempdir().unwrap();
    let (state, data) = (place.path().join("state"), place.path().join("data"));
    std::fs::create_dir_all(&state).unwrap();
    std::fs::create_dir_all(data.join("pgdata")).unwrap();
    let pod = patched("1.30.0");
    // It is not the agent that kept PostgreSQL down: what was killed would be started again.
    let said = ours(&pod)[1]["args"].as_array().unwrap();
    assert!(said.windows(2).any(|two| two == [json!("--hold-port"), json!("5432")]));
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let arguments = ours(&pod)[1]["args"].as_array().unwrap().iter().map(|one| {
        let one = one.as_str().unwrap();
        let one = one.replace("/var/lib/harmony-agent", &state.display().to_string());
        let one = one.replace("/var/lib/postgresql/data", &data.display().to_string());
        if one == "5432" { port.to_string() } else { one }
    });
    let mut watchdog = Command::new(env!("CARGO_BIN_EXE_harmony-agent"))
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let socket = state.join("watchdog.sock");
    let (mut served, mut held) = (false, false);
    for _ in 0..500 {
        if served && held {
            break;
        }
        assert_eq!(watchdog.try_wait().unwrap(), None, "the watchdog ended");
        served |= std::os::unix::net::UnixStream::connect(&socket).is_ok() || socket.exists();
        held |= TcpListener::bind(("0.0.0.0", port)).is_err();
        std::thread::sleep(Duration::from_millis(20));
    }
    watchdog.kill().unwrap();
    watchdog.wait().unwrap();
    assert!(served, "nothing serves {}", socket.display());
    assert!(held, "nobody keeps what has no agent from starting");
}
