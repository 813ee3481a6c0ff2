//! The service of a Cluster that leads to whoever acts (`CLUSTER-rw`), on a port of 127.0.0.1.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::api::client::{Client, Link};
use super::api::resource::PODS;
use super::operator::is_ready;
use super::world::World;

/// A service; it ends when it is dropped.
pub(crate) struct Service {
    /// Where it is.
    pub(crate) port: u16,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(super) fn start(world: &Arc<World>, cluster: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("no port for a service");
        listener.set_nonblocking(true).expect("a listener for a service");
        let port = listener.local_addr().expect("a service's address").port();
        let stop = CancellationToken::new();
        let (world, cluster, told) = (Arc::clone(world), cluster.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let serving = async {
                tokio::select! {
                    () = serve(listener, &world, &cluster) => {}
                    () = told.cancelled() => {}
                }
            };
            runtime.expect("no runtime for a service").block_on(serving);
        });
        Self { port, stop, thread: Some(thread) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, world: &World, cluster: &str) {
    let client = world.client("system:service", &Arc::new(Link::default()));
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener for a service");
    loop {
        let Ok((mut from, _)) = listener.accept().await else { continue };
        // Nobody acts: the connection is closed.
        let Some(port) = acting(&client, cluster).map(|pod| world.pod(&pod).postgres.port) else {
            continue;
        };
        tokio::spawn(async move {
            if let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await {
                let _ = copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

/// The pod that the operator calls the primary, and that is ready.
fn acting(client: &Client, cluster: &str) -> Option<String> {
    client.names(&PODS).into_iter().find(|name| {
        client.cached(&PODS, name).is_some_and(|pod| {
            let labels = &pod["metadata"]["labels"];
            labels["cnpg.io/cluster"] == cluster
                && labels["cnpg.io/instanceRole"] == "primary"
                && is_ready(&pod)
        })
    })
}
