//! The operator's own failover: when it waits, when it stalls, and when it is none of its business.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::super::Double;
use super::{label, pair, role, sql, target, two_as};

const SECONDS: Duration = Duration::from_secs(1);

/// Where PostgreSQL of a pod is asked by its manager, and where nobody looks.
fn sockets(site: &Double, pod: &str) -> [PathBuf; 2] {
    let postgres = &site.pod(pod).postgres;
    let socket = postgres.socket.join(format!(".s.PGSQL.{}", postgres.port));
    [socket, postgres.socket.join("away")]
}

#[tokio::test]
async fn a_failover_waits_for_its_delay_and_is_off_when_the_primary_is_back() {
    // Three seconds of ours.
    let site = pair(|object| object["spec"]["failoverDelay"] = 60.into()).await;
    let since = "/status/currentPrimaryFailingSinceTimestamp";
    let [socket, away] = sockets(&site, "pg-a-1");
    std::fs::rename(&socket, &away).unwrap();
    site.until("pg-a", |cluster| !cluster.text(since).is_empty()).await;
    std::fs::rename(&away, &socket).unwrap();
    site.until("pg-a", |cluster| cluster.text(since).is_empty()).await;
    assert_eq!(site.get("pg-a")["status"]["targetPrimary"], "pg-a-1");

    site.pod("pg-a-1").knobs().node_down = true;
    site.until("pg-a", |cluster| !cluster.text(since).is_empty()).await;
    let began = Instant::now();
    site.until("pg-a", |cluster| cluster.target() == "pg-a-2").await;
    let elapsed = began.elapsed();
    assert!(elapsed >= 3 * SECONDS - SECONDS / 10, "{elapsed:?}");
    site.until_says("pg-a-2", "select pg_is_in_recovery()", "f").await;
}

#[tokio::test]
async fn the_mark_of_a_failover_is_taken_back_again_and_again_while_somebody_receives() {
    let site = pair(|_| {}).await;
    // It serves its standby, and its manager gets no answer: it does not step down either.
    let [socket, away] = sockets(&site, "pg-a-1");
    std::fs::rename(&socket, &away).unwrap();
    site.until("pg-a", |cluster| cluster.target() == "pending").await;
    site.until("pg-a", |_| label(&site, "pg-a-1") == "unhealthy").await;
    site.until("pg-a", |cluster| cluster.target() == "pg-a-1").await;
    let begun = || site.events().iter().filter(|reason| *reason == "FailingOver").count();
    site.until("pg-a", |_| begun() >= 3).await;
    assert_eq!(site.get("pg-a")["status"]["currentPrimary"], "pg-a-1", "nobody takes over");
    assert!(!site.events().iter().any(|reason| reason == "FailoverTarget"));
    std::fs::rename(&away, &socket).unwrap();
    // Whether it stepped down in the end, or not: one of them writes.
    site.until("pg-a", |cluster| cluster.current() == cluster.target()).await;
    site.until_healthy("pg-a").await;
}

/// pg-b has two instances, the second of which is the designated primary; it learns late of what it is to
/// do.
async fn promoted_late(delay: u32) -> (Double, Double) {
    let (a, b) = two_as(|object| {
        if object["metadata"]["name"] == "pg-b" {
            object["spec"]["instances"] = 2.into();
            object["spec"]["failoverDelay"] = delay.into();
        }
    })
    .await;
    target(&b, "pg-b", "pg-b-2").await;
    b.until("pg-b", |cluster| cluster.current() == "pg-b-2").await;
    b.until_healthy("pg-b").await;
    b.until_says("pg-b-1", "select count(*) from t", "1").await;
    b.pod("pg-b-2").link.set_lag(SECONDS);
    role(&b, "pg-b", "pg-b", "pg-a", None).await;
    (a, b)
}

#[tokio::test]
async fn a_promotion_without_a_token_looks_like_a_failed_primary_meanwhile() {
    let (_a, b) = promoted_late(0).await;
    b.until("pg-b", |_| b.events().iter().any(|reason| reason == "FailingOver")).await;
    b.pod("pg-b-2").link.set_lag(Duration::ZERO);
    // It comes to an end all the same, whoever of the two acts then.
    let healthy = b.until_healthy("pg-b").await;
    let current = healthy["status"]["currentPrimary"].as_str().unwrap().to_owned();
    b.until_says(&current, "select pg_is_in_recovery()", "f").await;
}

#[tokio::test]
async fn a_failover_delay_keeps_a_promotion_without_a_token_from_being_taken_for_a_failure() {
    let (_a, b) = promoted_late(30).await;
    b.until("pg-b", |cluster| {
        cluster.0["status"]["currentPrimaryFailingSinceTimestamp"].is_string()
    })
    .await;
    b.until_says("pg-b-2", "select pg_is_in_recovery()", "f").await;
    b.pod("pg-b-2").link.set_lag(Duration::ZERO);
    let healthy = b.until_healthy("pg-b").await;
    assert_eq!(healthy["status"]["currentPrimary"], "pg-b-2");
    assert!(!b.events().iter().any(|reason| reason == "FailingOver"), "{:?}", b.events());
}

#[tokio::test]
async fn a_designated_primary_that_is_not_ready_is_not_replaced_while_its_pod_is_there() {
    let (_a, b) = two_as(|object| {
        if object["metadata"]["name"] == "pg-b" {
            object["spec"]["instances"] = 2.into();
        }
    })
    .await;
    b.until_healthy("pg-b").await;
    b.pod("pg-b-1").knobs().node_down = true;
    b.until("pg-b", |cluster| cluster.0["status"]["readyInstances"] == 1).await;
    sleep(2 * SECONDS).await;
    assert_eq!(b.get("pg-b")["status"]["targetPrimary"], "pg-b-1");
    b.pod("pg-b-1").knobs().node_down = false;
    b.until_healthy("pg-b").await;
    assert_eq!(sql(&b, "pg-b-1", "select pg_is_in_recovery()").await, "t");
    assert_eq!(b.get("pg-b")["status"]["demotionToken"], json!(null));
}
