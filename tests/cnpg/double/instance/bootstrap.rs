//! How an instance gets its data: what the jobs of CloudNativePG do before a pod is there.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::api::client::Client;
use super::super::api::resource::{CLUSTERS, PODS};
use super::super::cluster::Cluster;
use super::files;
use super::pod::Pod;

/// The longest wait for the server of `initdb`.
const START: Duration = Duration::from_secs(30);

/// Makes the data directory, if there is none.
pub(super) async fn run(pod: &Pod, client: &Client, cluster: &str) -> Result<(), String> {
    let postgres = &pod.postgres;
    if postgres.exists() {
        return Ok(());
    }
    let Some(object) = client.cached(&CLUSTERS, cluster) else {
        return Err("no Cluster yet".to_owned());
    };
    let cluster = Cluster(&object);
    if cluster.target() != pod.name {
        let port = client.cached(&PODS, cluster.current()).as_ref().and_then(files::port);
        let port = port.ok_or("there is no primary to copy from")?;
        return postgres.copy_from(&files::peer(port, &pod.name)).await;
    }
    if let Some(origin) = files::origin(cluster) {
        return postgres.copy_from(&files::external(cluster, origin)?).await;
    }
    postgres.initdb().await?;
    let hidden = format!("{}listen_addresses = ''\n", files::custom(cluster, postgres));
    postgres.write("custom.conf", &hidden)?;
    let mut child = postgres.start()?;
    let due = Instant::now() + START;
    while let Err(error) = postgres.sql("select 1").await {
        if Instant::now() > due {
            return Err(format!("the server of initdb does not start: {error}"));
        }
        sleep(Duration::from_millis(20)).await;
    }
    postgres.first_users().await?;
    postgres.stop("fast", 30).await?;
    child.wait().await.map(|_| ()).map_err(|error| error.to_string())
}
