//! The kubelet: runs a pod as long as there is one, restarts its container with a growing pause.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::api::resource::PODS;
use super::super::world::World;
use super::bootstrap;
use super::manager::Manager;
use super::pod::{Gate, Pod};
use super::probes;

/// How often it looks.
const TICK: Duration = Duration::from_millis(25);
/// Account of kubelet and node controller.
pub(crate) const ACCOUNT: &str = "system:node";

/// Runs every pod there is, and every one there will be.
pub(crate) async fn run(world: Arc<World>, stop: CancellationToken) {
    let client = world.client(ACCOUNT, &world.node);
    let mut running = std::collections::BTreeMap::new();
    while !stop.is_cancelled() {
        for name in client.names(&PODS) {
            running.entry(name.clone()).or_insert_with(|| {
                let pod = world.pod(&name);
                tokio::spawn(probes::run(Arc::clone(&world), Arc::clone(&pod)));
                tokio::spawn(look_after(Arc::clone(&world), pod, stop.clone()))
            });
        }
        sleep(TICK).await;
    }
    for (_, task) in running {
        let _ = task.await;
    }
}

async fn look_after(world: Arc<World>, pod: Arc<Pod>, stop: CancellationToken) {
    let client = world.client(ACCOUNT, &world.node);
    while !stop.is_cancelled() {
        let object = client.cached(&PODS, &pod.name);
        let Some(object) = object.filter(|_| !pod.knobs().node_down) else {
            sleep(TICK).await;
            continue;
        };
        if object["metadata"]["deletionTimestamp"].is_string() {
            let _ = client.remove(&PODS, &pod.name).await;
            sleep(TICK).await;
            continue;
        }
        let cluster = object["metadata"]["labels"]["cnpg.io/cluster"].as_str().unwrap_or_default();
        let ends = stop.child_token();
        let work = containers(&world, &pod, cluster, &ends);
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => {}
            () = is_going(&world, &pod, &object["metadata"]["uid"]) => {
                ends.cancel();
                work.await;
            }
        }
        pod.state().ready = false;
    }
}

async fn is_going(world: &Arc<World>, pod: &Pod, uid: &Value) {
    let client = world.client(ACCOUNT, &world.node);
    loop {
        let metadata = client.cached(&PODS, &pod.name).map(|mut object| object["metadata"].take());
        let stays = metadata.is_some_and(|metadata| {
            metadata["deletionTimestamp"].is_null() && metadata["uid"] == *uid
        });
        if !stays || pod.knobs().node_down {
            return;
        }
        sleep(TICK).await;
    }
}

async fn containers(world: &Arc<World>, pod: &Arc<Pod>, cluster: &str, ends: &CancellationToken) {
    let client = world.client(ACCOUNT, &world.node);
    loop {
        let made = tokio::select! {
            made = bootstrap::run(pod, &client, cluster) => made,
            () = ends.cancelled() => return,
        };
        match made {
            Ok(()) => break,
            Err(error) => {
                pod.tell(&error);
                pod.state().waiting = error;
            }
        }
        sleep(TICK * 4).await;
    }
    loop {
        let gate = pod.knobs().gate.clone();
        if is_open(&gate).await {
            break;
        }
        pod.state().waiting = "the sidecar's startup probe".to_owned();
        if ends.is_cancelled() {
            return;
        }
        sleep(world.times.seconds(1).max(TICK)).await;
    }
    let mut pause = world.times.seconds(10);
    loop {
        Manager::new(pod, world, cluster).run(ends).await;
        pod.state().ready = false;
        if ends.is_cancelled() {
            return;
        }
        {
            let mut state = pod.state();
            state.restarts += 1;
            state.waiting = "CrashLoopBackOff".to_owned();
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = ends.cancelled() => return,
        }
        pause = (pause * 2).min(world.times.seconds(300));
    }
}

async fn is_open(gate: &Gate) -> bool {
    match gate {
        Gate::None => true,
        Gate::File(path) => path.exists(),
        Gate::Url(url) => matches!(timeout(Duration::from_secs(2), ask(url)).await, Ok(Some(200))),
    }
}

/// The status of a `GET`.
async fn ask(url: &str) -> Option<u16> {
    let (host, path) = url.strip_prefix("http://")?.split_once('/')?;
    let mut stream = TcpStream::connect(host).await.ok()?;
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}
