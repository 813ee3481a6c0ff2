//! Demotions of a site.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::super::api::faults::{Answer, Fault};
use super::super::cluster::Cluster;
use super::super::operator::ACCOUNT as OPERATOR;
use super::super::token;
use super::{demote, role, sql, two, write};

#[tokio::test]
async fn a_demotion_and_a_promotion_with_its_token_lose_nothing() {
    let (a, b) = two().await;
    write(&a, "pg-a-1", 2).await;
    let token = demote(&a).await;
    let content = token::read(&token).unwrap();
    assert_eq!(content["latestCheckpointTimelineID"], "1");
    a.until_says("pg-a-1", "select pg_is_in_recovery()", "t").await;
    assert_eq!(a.lease("pg-a")["spec"]["holderIdentity"], "pg-a-1", "the lease is not given back");
    let before = b.get("pg-b");

    role(&b, "pg-b", "pg-b", "pg-a", Some(&token)).await;
    let after =
        b.until("pg-b", |cluster| cluster.text("/status/lastPromotionToken") == token).await;
    b.until_says("pg-b-1", "select pg_is_in_recovery()", "f").await;
    for field in ["currentPrimary", "currentPrimaryTimestamp"] {
        assert_eq!(after["status"][field], before["status"][field], "{field} says nothing of it");
    }
    let done = b.until("pg-b", |cluster| cluster.0["status"]["timelineID"] == 2).await;
    assert_eq!(done["status"]["demotionToken"], json!(null));
    // `archive_mode` goes from always to on: a second outage.
    let restarted = || b.pod("pg-b-1").state().told.iter().any(|text| text == "restarted in place");
    b.until("pg-b", |_| restarted()).await;
    b.until_healthy("pg-b").await;
    write(&b, "pg-b-1", 3).await;
    a.until_says("pg-a-1", "select count(*) from t", "3").await;
    a.until_healthy("pg-a").await;
    b.patch("pg-b", json!({ "spec": { "replica": { "promotionToken": null } } })).await.unwrap();
    b.until("pg-b", |cluster| cluster.text("/status/lastPromotionToken").is_empty()).await;
}

#[tokio::test]
async fn a_demotion_replaces_every_fence_and_lifts_it() {
    let (a, _b) = two().await;
    a.fence("pg-a", Some("[\"pg-a-1\",\"pg-a-7\"]")).await;
    a.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 0).await;
    demote(&a).await;
    a.until("pg-a", |cluster| cluster.fenced().is_none()).await;
    let lists = a.changes("pg-a").into_iter().filter_map(|change| Cluster(&change.object).fenced());
    assert!(lists.into_iter().any(|list| list.contains("*")), "it was never replaced");
    a.until_says("pg-a-1", "select pg_is_in_recovery()", "t").await;
}

#[tokio::test]
async fn a_demotion_after_an_immediate_stop_never_ends_and_cannot_be_called_off() {
    let (a, _b) = two().await;
    a.pod("pg-a-1").knobs().fast_stop_fails = true;
    role(&a, "pg-a", "pg-b", "pg-b", None).await;
    let transition = "ReplicaClusterDesignatedPrimaryTransition";
    a.until("pg-a", |cluster| cluster.condition(transition) == Some("True")).await;
    sleep(Duration::from_secs(2)).await;
    let stuck = a.get("pg-a");
    assert_eq!(stuck["status"]["demotionToken"], json!(null));
    assert_eq!(stuck["status"]["switchReplicaClusterStatus"]["inProgress"], true);
    let back = a.patch("pg-a", json!({ "spec": { "replica": { "primary": "pg-a" } } })).await;
    assert!(back.unwrap_err().message.contains("Forbidden"));
}

#[tokio::test]
async fn a_demotion_goes_through_a_storm_of_conflicts_and_waits_for_the_operator() {
    let (a, b) = two().await;
    a.world().operator.set_off(true);
    role(&a, "pg-a", "pg-b", "pg-b", None).await;
    sleep(Duration::from_millis(500)).await;
    assert!(!a.get("pg-a")["status"]["switchReplicaClusterStatus"]["inProgress"].is_boolean());
    write(&a, "pg-a-1", 2).await;
    a.server().set_faults(vec![
        Fault::times(Answer::Conflict, 6).on("update", "clusters/status"),
        Fault::times(Answer::Conflict, 3).on("patch", "clusters").of(OPERATOR),
    ]);
    a.world().operator.set_off(false);
    let token = demote(&a).await;
    a.server().set_faults(Vec::new());
    role(&b, "pg-b", "pg-b", "pg-a", Some(&token)).await;
    b.until_says("pg-b-1", "select pg_is_in_recovery()", "f").await;
    assert_eq!(sql(&b, "pg-b-1", "select count(*) from t").await, "2");
}
