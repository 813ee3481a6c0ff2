//! The suite on NATS: one server, and a cluster of three.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use harmony_agent::store::nats::{Auth, Settings as Nats};
use harmony_agent::store::{OpenError, Settings, Store, open};

use super::suite::{Bench, SUITE};
use crate::support::nats::{Cluster, Server};

/// Time for a cluster to elect its leaders.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Settings for `servers`.
pub(super) fn settings(servers: Vec<String>, replicas: u8) -> Nats {
    Nats {
        servers,
        auth: Auth::None,
        tls_ca_file: None,
        tls_certificate_file: None,
        tls_key_file: None,
        replicas,
        connect_timeout: Duration::from_secs(2),
        ping_interval: Duration::from_secs(1),
    }
}

/// Opens cluster `cluster` as `member`.
pub(super) async fn connect(
    cluster: &str,
    member: &str,
    settings: &Nats,
) -> Result<Arc<dyn Store>, OpenError> {
    let settings = Settings::Nats(settings.clone());
    open(&cluster.parse().unwrap(), &member.parse().unwrap(), &settings, PATIENCE).await
}

/// The same as a user named as in the server's configuration.
pub(super) fn password(settings: &Nats, user: &str, file: PathBuf) -> Nats {
    let auth = Auth::UserPassword { user: user.to_owned(), password_file: file };
    Nats { auth, ..settings.clone() }
}

/// Deletes a stream, as an operator could.
pub(super) async fn delete_stream(urls: &[String], stream: &str) {
    let client = async_nats::connect(urls).await.unwrap();
    async_nats::jetstream::new(client).delete_stream(stream).await.unwrap();
}

/// A bucket of its own on shared servers.
struct OnServers {
    urls: Vec<String>,
    cluster: String,
    replicas: u8,
}

impl Bench for OnServers {
    fn open(&self, member: &'static str) -> BoxFuture<'_, Result<Arc<dyn Store>, OpenError>> {
        async move {
            let settings = settings(self.urls.clone(), self.replicas);
            connect(&self.cluster, member, &settings).await
        }
        .boxed()
    }

    fn replace(&self) -> BoxFuture<'_, ()> {
        async { delete_stream(&self.urls, &format!("KV_harmony_{}", self.cluster)).await }.boxed()
    }
}

async fn whole_suite(urls: Vec<String>, replicas: u8) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    for (name, test) in SUITE {
        println!("{name}");
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let cluster = format!("pg{number}");
        let bench = OnServers { urls: urls.clone(), cluster, replicas };
        test(&bench).await;
    }
}

#[tokio::test]
async fn the_suite_on_one_server() {
    let server = Server::start("");
    whole_suite(vec![server.url()], 1).await;
}

#[tokio::test]
async fn the_suite_on_a_cluster_of_three() {
    let cluster = Cluster::start();
    whole_suite(cluster.urls(), 3).await;
}
