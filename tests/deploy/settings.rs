//! The configuration that the ConfigMaps hold is one that the agent takes.

use std::path::PathBuf;

use harmony_agent::config::{Config, Loaded, Sources, load};
use serde_json::{Value, json};

use super::{SITES, object, site};

struct Site {
    loaded: Loaded,
    objects: Vec<Value>,
    table: toml::Table,
    _place: tempfile::TempDir,
}

/// Loads a site's configuration as its agent would, with its secrets put elsewhere.
fn loaded(name: &str) -> Site {
    let place = tempfile::tempdir().unwrap();
    let objects = site(name);
    let text =
        object(&objects, "ConfigMap")["data"]["harmony-agent.toml"].as_str().unwrap().to_owned();
    let write = |name: &str, text: &str| -> PathBuf {
        std::fs::write(place.path().join(name), text).unwrap();
        place.path().join(name)
    };
    let file = write("harmony-agent.toml", &text);
    let secret = write("secret", "not a secret");
    let flag = |key: &str, path: &std::path::Path| (key.to_owned(), path.display().to_string());
    let flags = vec![
        flag("store.nats.nkey_file", &secret),
        flag("store.nats.tls_ca_file", &secret),
        // In the image it is found.
        flag("database.cnpg.bin_dir", place.path()),
    ];
    let sources = Sources { file: Some(file), flags, ..Sources::default() };
    let loaded = load(&sources).unwrap_or_else(|error| panic!("site {name}: {error}"));
    Site { loaded, objects, table: text.parse().unwrap(), _place: place }
}

#[test]
fn the_agent_takes_it() {
    for name in SITES {
        let site = loaded(name);
        let Config { member, http_listen, .. } = &site.loaded.config;
        let replica = &object(&site.objects, "Cluster")["spec"]["replica"];
        assert_eq!(
            replica["self"],
            json!(member.to_string()),
            "CloudNativePG's name of the site is the member's"
        );
        assert!(
            http_listen.ip().is_unspecified() && http_listen.port() == 8008,
            "probes come from outside"
        );
        let cluster = &object(&site.objects, "Cluster")["metadata"]["name"];
        assert_eq!(&json!(site.table["database"]["cnpg"]["cluster"].as_str().unwrap()), cluster);
        let own = &site.table["database"]["cnpg"]["host"];
        let spec = &object(&site.objects, "Cluster")["spec"];
        let mut entries = spec["externalClusters"].as_array().unwrap().iter();
        let entry = entries.find(|entry| entry["name"] == replica["self"]).unwrap();
        assert_eq!(own.as_str(), entry["connectionParameters"]["host"].as_str());
        assert_eq!(site.table["watchdog"]["mode"].as_str(), Some("required"));
    }
}

/// A pod that is told to go has the time that its agent takes.
#[test]
fn the_pod_outlives_the_agent_s_own_limits() {
    for name in SITES {
        let site = loaded(name);
        let spec = &object(&site.objects, "Cluster")["spec"];
        let stop = spec["stopDelay"].as_u64().unwrap();
        let limit = site.loaded.config.policy.shutdown_timeout;
        assert!(
            std::time::Duration::from_secs(stop) > limit,
            "stopDelay is {stop} s, shutdown_timeout {limit:?}"
        );
    }
}

#[test]
fn secrets_are_in_volumes_that_are_mounted() {
    for name in SITES {
        let site = loaded(name);
        let store = site.table["store"]["nats"].as_table().unwrap();
        let patch =
            object(&site.objects, "Cluster")["metadata"]["annotations"]["cnpg.io/podPatch"].clone();
        for (key, value) in store.iter().filter(|(key, _)| key.ends_with("_file")) {
            let file = value.as_str().unwrap();
            assert!(file.starts_with("/etc/harmony-agent-nats/"), "{key} = {file}");
        }
        assert!(patch.as_str().unwrap().contains("\"mountPath\": \"/etc/harmony-agent-nats\""));
    }
}

#[test]
fn the_sites_differ_in_who_and_where_they_are() {
    let [mut a, mut b] = SITES.map(|name| loaded(name).table);
    assert_ne!(a["member"], b["member"]);
    assert_ne!(a["site"], b["site"]);
    let servers = |table: &toml::Table| {
        let list = table["store"]["nats"]["servers"].as_array().unwrap();
        let mut names: Vec<_> = list.iter().map(|one| one.as_str().unwrap().to_owned()).collect();
        // The own one first.
        let own = format!("tls://nats-{}.example.com:4222", table["site"].as_str().unwrap());
        assert_eq!(names[0], own);
        names.sort();
        names
    };
    assert_eq!(servers(&a), servers(&b));
    assert_eq!(servers(&a).len(), 3, "a store of two loses its majority with either");
    for table in [&mut a, &mut b] {
        table.remove("member");
        table.remove("site");
        table["store"]["nats"].as_table_mut().unwrap().remove("servers");
        table["database"]["cnpg"].as_table_mut().unwrap().remove("host");
    }
    assert_eq!(a, b);
}
