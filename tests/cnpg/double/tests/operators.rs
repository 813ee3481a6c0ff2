//! An operator that is told to look away, that sees nothing, or that sees too much.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::super::cluster::FENCE;
use super::{label, one, pair, role, sql, target, until};

const SECONDS: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_cluster_the_operator_is_to_leave_alone_is_obeyed_by_its_managers_only() {
    let site = pair(|_| {}).await;
    let off =
        |value| json!({ "metadata": { "annotations": { "cnpg.io/reconciliationLoop": value } } });
    site.patch("pg-a", off(json!("disabled"))).await.unwrap();
    sleep(SECONDS / 2).await;
    target(&site, "pg-a", "pg-a-2").await;
    site.until("pg-a", |cluster| cluster.current() == "pg-a-2").await;
    site.until_says("pg-a-2", "select pg_is_in_recovery()", "f").await;
    site.fence("pg-a", Some("[\"*\"]")).await;
    until(&site, || site.pod("pg-a-2").state().fenced).await;
    until(&site, || !site.pod("pg-a-2").state().ready).await;
    sleep(SECONDS).await;
    assert_eq!(site.get("pg-a")["status"]["readyInstances"], 2, "nobody counts");
    assert_eq!(
        (label(&site, "pg-a-1"), label(&site, "pg-a-2")),
        ("primary".into(), "replica".into())
    );
    site.patch("pg-a", off(json!(null))).await.unwrap();
    site.until("pg-a", |_| label(&site, "pg-a-2") == "primary").await;
    site.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 0).await;
}

#[tokio::test]
async fn an_operator_that_reaches_no_pod_changes_no_role() {
    let site = pair(|_| {}).await;
    site.world().operator.set_blind(true);
    let unheard = "Instance Status Extraction Error: HTTP communication issue";
    site.until("pg-a", |cluster| cluster.text("/status/phase") == unheard).await;
    role(&site, "pg-a", "pg-b", "pg-b", None).await;
    sleep(2 * SECONDS).await;
    let stays = site.get("pg-a");
    assert_eq!(stays["metadata"]["annotations"][FENCE], json!(null), "no demotion begins");
    assert_eq!(stays["status"]["targetPrimary"], "pg-a-1", "nobody is elected");
    assert_eq!(sql(&site, "pg-a-1", "select pg_is_in_recovery()").await, "f");
    site.world().operator.set_blind(false);
    site.until_says("pg-a-1", "select pg_is_in_recovery()", "t").await;
    site.until("pg-a", |cluster| !cluster.text("/status/demotionToken").is_empty()).await;
}

#[tokio::test]
async fn a_demotion_waits_for_an_operator_that_lost_sight_of_the_pods() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    pod.link.set_lag(SECONDS);
    role(&site, "pg-a", "pg-b", "pg-b", None).await;
    site.until("pg-a", |cluster| cluster.in_transition()).await;
    site.world().operator.set_blind(true);
    let done = "ReplicaClusterDesignatedPrimaryTransition";
    site.until("pg-a", |cluster| cluster.condition(done) == Some("True")).await;
    sleep(SECONDS).await;
    let stays = site.get("pg-a");
    assert_eq!(stays["status"]["demotionToken"], json!(null));
    assert_eq!(stays["metadata"]["annotations"][FENCE], "[\"*\"]");
    site.world().operator.set_blind(false);
    site.until("pg-a", |cluster| !cluster.text("/status/demotionToken").is_empty()).await;
}

#[tokio::test]
async fn a_primary_that_is_ready_and_does_not_answer_is_not_failed_over_from() {
    let site = pair(|_| {}).await;
    site.pod("pg-a-1").knobs().unreachable = true;
    until(&site, || site.events().iter().any(|reason| reason == "PrimaryStatusCheckFailed")).await;
    sleep(2 * SECONDS).await;
    assert_eq!(site.get("pg-a")["status"]["targetPrimary"], "pg-a-1");
    assert!(!site.events().iter().any(|reason| reason == "FailingOver"), "{:?}", site.events());
}

#[tokio::test]
async fn while_two_say_that_they_are_primaries_the_operator_does_nothing() {
    let site = pair(|_| {}).await;
    let stray = site.pod("pg-a-2");
    stray.knobs().manager_hangs = true;
    stray.postgres.promote().await.unwrap();
    let says = |cluster: super::super::cluster::Cluster<'_>, pod: &str| {
        cluster.0["status"]["instancesReportedState"][pod]["isPrimary"] == true
    };
    site.until("pg-a", |cluster| says(cluster, "pg-a-1") && says(cluster, "pg-a-2")).await;
    role(&site, "pg-a", "pg-b", "pg-b", None).await;
    sleep(2 * SECONDS).await;
    let stays = site.get("pg-a");
    assert_eq!(stays["metadata"]["annotations"][FENCE], json!(null), "no demotion begins");
    assert_eq!(stays["status"]["targetPrimary"], "pg-a-1");
    // Its manager takes the stray one back.
    stray.knobs().manager_hangs = false;
    site.until("pg-a", |cluster| cluster.annotation(FENCE).is_some()).await;
    site.until_says("pg-a-1", "select pg_is_in_recovery()", "t").await;
}
