//! What a person would apply.

use serde_json::{Value, json};

/// The names of the sites, which are those of their Clusters and of the members.
pub(crate) const NAMES: [&str; 2] = ["pg-a", "pg-b"];

/// The manifest of `name`, one of two sites that know each other; `ports` are those of pg-a-1 and pg-b-1.
pub(crate) fn manifest(name: &str, primary: &str, ports: [u16; 2]) -> Value {
    let other = if name == NAMES[0] { NAMES[1] } else { NAMES[0] };
    let entries: Vec<Value> = NAMES
        .iter()
        .zip(ports)
        .map(|(entry, port)| {
            json!({ "name": entry, "connectionParameters": {
                "host": "127.0.0.1", "port": port.to_string(), "user": "streaming_replica",
                "dbname": "postgres", "application_name": name,
            } })
        })
        .collect();
    let bootstrap = if name == primary {
        json!({ "initdb": { "database": "app", "owner": "app" } })
    } else {
        json!({ "pg_basebackup": { "source": primary } })
    };
    json!({
        "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": name },
        "spec": {
            "instances": 1, "smartShutdownTimeout": 0, "switchoverDelay": 30,
            "primaryUpdateMethod": "restart", "bootstrap": bootstrap,
            "replica": { "self": name, "primary": primary, "source": other },
            "externalClusters": entries,
        },
    })
}
