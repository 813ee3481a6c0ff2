//! A Cluster that is put to sleep.

use serde_json::json;

use super::super::cluster::HIBERNATION;
use super::{label, pair, sql};

#[tokio::test]
async fn a_cluster_that_sleeps_has_its_data_and_no_pods_the_primary_going_first() {
    let site = pair(|_| {}).await;
    let on = |value| json!({ "metadata": { "annotations": { HIBERNATION: value } } });
    sql(&site, "pg-a-1", "insert into t values (1)").await;
    // The first one is held up, so that the second one's end would be seen.
    site.pod("pg-a-1").knobs().node_down = true;
    site.patch("pg-a", on(json!("on"))).await.unwrap();
    site.until("pg-a", |_| site.pod_object("pg-a-1")["metadata"]["deletionTimestamp"].is_string())
        .await;
    let waits = site
        .until("pg-a", |cluster| cluster.reason(HIBERNATION) == Some("WaitingPodsDeletion"))
        .await;
    assert_eq!(waits["status"]["currentPrimary"], "pg-a-1", "nobody takes over");
    assert!(site.pod_object("pg-a-2")["metadata"]["deletionTimestamp"].is_null());
    site.pod("pg-a-1").knobs().node_down = false;
    site.until("pg-a", |cluster| cluster.reason(HIBERNATION) == Some("Hibernated")).await;
    for pod in ["pg-a-1", "pg-a-2"] {
        assert!(site.pod_object(pod).is_null() && site.pod(pod).postgres.exists());
    }
    site.patch("pg-a", on(json!(null))).await.unwrap();
    site.until_healthy("pg-a").await;
    assert_eq!(sql(&site, "pg-a-1", "select count(*) from t").await, "1");
    let woken = site.until("pg-a", |cluster| cluster.condition(HIBERNATION).is_none()).await;
    assert_eq!(woken["status"]["currentPrimary"], "pg-a-1");
    site.until("pg-a", |_| label(&site, "pg-a-1") == "primary").await;
}
