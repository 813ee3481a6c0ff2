//! The instance manager looks at what its cache has before it does anything.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::super::cluster::FENCE;
use super::{one, sql, until};

#[tokio::test]
async fn what_no_webhook_would_have_taken_is_not_obeyed_not_even_a_fence() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    site.server().set_webhook_gone(true);
    let broken = json!({
        "metadata": { "annotations": { FENCE: "[\"*\"]" } },
        "spec": { "replica": { "source": "pg-x" } },
    });
    site.patch("pg-a", broken).await.unwrap();
    until(&site, || pod.state().told.iter().any(|text| text == "the Cluster is invalid")).await;
    sleep(Duration::from_secs(1)).await;
    assert!(!pod.state().fenced);
    sql(&site, "pg-a-1", "create table writes_go_on ()").await;
    site.patch("pg-a", json!({ "spec": { "replica": { "source": "pg-b" } } })).await.unwrap();
    until(&site, || pod.state().fenced).await;
    site.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 0).await;
}
