//! The probes of a pod: readiness, the isolation check, and what the node controller says of a machine
//! that says nothing.

use std::sync::Arc;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::super::api::client::Client;
use super::super::api::resource::{CLUSTERS, PODS};
use super::super::cluster::Cluster;
use super::super::world::World;
use super::kubelet::ACCOUNT;
use super::pod::Pod;

/// Period of the probes.
const PERIOD: u32 = 10;
/// So many failures are a failure.
const FAILURES: u32 = 3;
/// After so long a machine that says nothing is not ready.
const GRACE: u32 = 40;

/// Probes as long as the double lives.
pub(super) async fn run(world: Arc<World>, pod: Arc<Pod>) {
    let client = world.client(ACCOUNT, &world.node);
    let own = world.client(&format!("instance-manager:{}", pod.name), &pod.link);
    let (mut failures, mut isolated) = (FAILURES, 0);
    let mut heard = Instant::now();
    let mut next = Instant::now();
    loop {
        sleep(world.times.seconds(1)).await;
        if pod.knobs().node_down {
            if heard.elapsed() > world.times.seconds(GRACE) {
                pod.state().ready = false;
                report(&client, &pod).await;
            }
            continue;
        }
        heard = Instant::now();
        // Who is not ready yet is asked as soon as it may be.
        if Instant::now() < next && pod.state().ready {
            report(&client, &pod).await;
            continue;
        }
        next = Instant::now() + world.times.seconds(PERIOD);
        let (session, container) = {
            let state = pod.state();
            (state.session, state.container)
        };
        let answers = session && pod.postgres.sql("select 1").await.is_ok();
        failures = if answers { 0 } else { failures + 1 };
        if answers || failures >= FAILURES || !container {
            pod.state().ready = answers;
        }
        isolated = if is_isolated(&world, &own, &pod) { isolated + 1 } else { 0 };
        if isolated >= FAILURES {
            isolated = 0;
            pod.state().isolated = true;
        }
        report(&client, &pod).await;
    }
}

/// The isolation check, with its two peculiarities: a single instance is never isolated, and the first
/// peer that is not reached is enough.
fn is_isolated(world: &World, own: &Client, pod: &Pod) -> bool {
    let cluster = pod.name.rsplit_once('-').map_or("", |(cluster, _)| cluster);
    let Some(object) = own.cached(&CLUSTERS, cluster) else { return false };
    let cluster = Cluster(&object);
    let enabled = cluster.0.pointer("/spec/probes/liveness/isolationCheck/enabled");
    if cluster.instances() == 1
        || cluster.current() != pod.name
        || enabled.and_then(serde_json::Value::as_bool) == Some(false)
        || own.reachable()
    {
        return false;
    }
    let peers = cluster.0["status"]["instancesReportedState"].as_object();
    let mut peers =
        peers.into_iter().flatten().map(|(name, _)| name).filter(|name| **name != pod.name);
    let cut = pod.knobs().unreachable;
    peers.any(|peer| cut || !world.pod(peer).is_reachable())
}

async fn report(client: &Client, pod: &Pod) {
    let state = pod.state().clone();
    let status = |value: bool| if value { "True" } else { "False" };
    let container = if state.container {
        json!({ "running": {} })
    } else {
        json!({ "waiting": { "reason": state.waiting } })
    };
    let body = json!({
        "phase": if state.container { "Running" } else { "Pending" },
        "podIP": "127.0.0.1",
        "conditions": [{ "type": "Ready", "status": status(state.ready) }],
        "containerStatuses": [{
            "name": "postgres", "ready": state.ready, "restartCount": state.restarts,
            "image": "postgres", "imageID": "", "state": container,
        }],
    });
    let _ = client.patch_status(&PODS, &pod.name, body).await;
}
