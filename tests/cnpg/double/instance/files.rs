//! PostgreSQL's configuration as the instance manager writes it from the Cluster.

use serde_json::Value;

use super::super::cluster::Cluster;
use super::postgres::Postgres;

/// `custom.conf`. Leaving replica mode turns `archive_mode` from `always` to `on`, which needs a restart.
pub(crate) fn custom(cluster: Cluster<'_>, postgres: &Postgres) -> String {
    let archive = if cluster.is_replica() { "always" } else { "on" };
    let mut text = format!(
        "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
         cluster_name = '{}'\narchive_mode = {archive}\narchive_command = '/bin/true'\n\
         wal_level = logical\nwal_log_hints = on\nwal_keep_size = 512MB\nhot_standby = on\n\
         dynamic_shared_memory_type = mmap\n\
         max_wal_senders = 10\nmax_replication_slots = 32\nwal_sender_timeout = 5s\n\
         wal_receiver_timeout = 5s\nshared_buffers = 16MB\nmax_connections = 40\n\
         log_checkpoints = off\nrecovery_target_timeline = latest\n\
         # tests kill processes, not machines\nfsync = off\n",
        postgres.port,
        postgres.socket.display(),
        cluster.name(),
    );
    let parameters = cluster.0["spec"]["postgresql"]["parameters"].as_object();
    for (name, value) in parameters.into_iter().flatten() {
        let value = value.as_str().unwrap_or_default().replace('\'', "''");
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    text
}

/// `override.conf` of a standby of `conninfo`.
pub(crate) fn follow(conninfo: &str) -> String {
    format!(
        "primary_conninfo = '{}'\nrestore_command = '/bin/false'\nrecovery_target_timeline = latest\n",
        conninfo.replace('\'', "''")
    )
}

/// How an entry of `externalClusters` is reached; exactly its parameters, nothing is added.
pub(crate) fn external(cluster: Cluster<'_>, name: &str) -> Result<String, String> {
    let entry =
        cluster.external(name).ok_or_else(|| format!("External cluster {name} not found"))?;
    let parameters = entry["connectionParameters"].as_object();
    let pairs = parameters.into_iter().flatten().map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}='{}'", value.replace('\'', "\\'"))
    });
    Ok(pairs.collect::<Vec<_>>().join(" "))
}

/// How another instance of the same Cluster is reached.
pub(crate) fn peer(port: u16, own: &str) -> String {
    format!("host=127.0.0.1 port={port} user=streaming_replica application_name={own}")
}

/// Where a new instance's data come from: an entry of `externalClusters`; None: from nowhere.
pub(crate) fn origin(cluster: Cluster<'_>) -> Option<&str> {
    let bootstrap = &cluster.0["spec"]["bootstrap"];
    let of = |kind: &str| bootstrap[kind]["source"].as_str();
    of("pg_basebackup").or_else(|| of("recovery"))
}

/// The port an entry of the store says a pod has.
pub(crate) fn port(pod: &Value) -> Option<u16> {
    let port = pod["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64()?;
    u16::try_from(port).ok()
}
