//! Promotions of a site.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::super::instance::pass::UNRECOVERABLE;
use super::super::token::forged;
use super::{demote, role, sql, two, write};

#[tokio::test]
async fn without_a_token_a_site_is_promoted_at_once_and_the_old_one_comes_back_writable() {
    let (a, b) = two().await;
    a.pod("pg-a-1").knobs().node_down = true;
    role(&b, "pg-b", "pg-b", "pg-a", None).await;
    b.until_says("pg-b-1", "select pg_is_in_recovery()", "f").await;
    write(&b, "pg-b-1", 2).await;
    // Nobody told the old site: it starts as it was.
    a.pod("pg-a-1").knobs().node_down = false;
    a.until_says("pg-a-1", "select pg_is_in_recovery()", "f").await;
    write(&a, "pg-a-1", 3).await;
    assert_eq!(sql(&a, "pg-a-1", "select count(*) from t").await, "2");
}

#[tokio::test]
async fn a_foreign_token_leaves_a_cluster_that_only_a_right_one_helps() {
    let (a, b) = two().await;
    let right = demote(&a).await;
    let foreign = forged(&right, "databaseSystemIdentifier", "7000000000000000001");
    role(&b, "pg-b", "pg-b", "pg-a", Some(&foreign)).await;
    let stuck = b.until("pg-b", |cluster| cluster.text("/status/phase") == UNRECOVERABLE).await;
    let reason = "Promotion token content is not correct for current instance";
    assert_eq!(stuck["status"]["phaseReason"], reason);
    assert_eq!(sql(&b, "pg-b-1", "select pg_is_in_recovery()").await, "t");
    role(&b, "pg-b", "pg-b", "pg-a", Some(&right)).await;
    b.until_says("pg-b-1", "select pg_is_in_recovery()", "f").await;
    b.until_healthy("pg-b").await;
}

#[tokio::test]
async fn an_early_token_waits_and_a_stale_one_is_refused() {
    let (a, b) = two().await;
    let old = demote(&a).await;
    let early = forged(&old, "latestCheckpointREDOLocation", "7/0");
    role(&b, "pg-b", "pg-b", "pg-a", Some(&early)).await;
    b.until("pg-b", |cluster| cluster.text("/status/phase") == "Promoting to primary cluster")
        .await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(sql(&b, "pg-b-1", "select pg_is_in_recovery()").await, "t");
    // Who clears a token that waits has promoted without one.
    b.patch("pg-b", json!({ "spec": { "replica": { "promotionToken": null } } })).await.unwrap();
    b.until_says("pg-b-1", "select pg_is_in_recovery()", "f").await;
    b.until_healthy("pg-b").await;
    // A follows B on the new timeline; its token of the old one is worth nothing any more.
    write(&b, "pg-b-1", 2).await;
    a.until_says("pg-a-1", "select count(*) from t", "2").await;
    sql(&b, "pg-b-1", "checkpoint").await;
    sql(&a, "pg-a-1", "checkpoint").await;
    role(&a, "pg-a", "pg-a", "pg-b", Some(&old)).await;
    a.until("pg-a", |cluster| cluster.text("/status/phase") == UNRECOVERABLE).await;
}

#[tokio::test]
async fn a_promotion_that_fails_is_tried_again_ever_later_and_when_something_changes() {
    let (_a, b) = two().await;
    let pod = b.pod("pg-b-1");
    let place = std::path::Path::new(&pod.postgres.data).join("promote");
    std::os::unix::fs::symlink("nowhere/promote", &place).unwrap();
    role(&b, "pg-b", "pg-b", "pg-a", None).await;
    let tries = || b.told().matches("could not create promote signal file").count();
    super::until(&b, || tries() >= 8).await;
    sleep(Duration::from_secs(3)).await;
    // One try each second of theirs would be thirty more.
    assert!(tries() <= 20, "{}", b.told());
    assert_eq!(sql(&b, "pg-b-1", "select pg_is_in_recovery()").await, "t");
    std::fs::remove_file(&place).unwrap();
    b.patch("pg-b", json!({ "metadata": { "annotations": { "anything": "new" } } })).await.unwrap();
    b.until_says("pg-b-1", "select pg_is_in_recovery()", "f").await;
}
