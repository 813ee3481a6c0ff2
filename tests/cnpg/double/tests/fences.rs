//! Fences.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::Options;
use super::super::cluster::HEALTHY;
use super::{one, one_as, sql, until};

const SECONDS: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_fence_stops_postgresql_and_shows_nowhere_but_in_readiness() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    let before = site.get("pg-a");
    let pid = pod.state().pid;
    site.fence("pg-a", Some("[\"*\"]")).await;
    let fenced = site.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 0).await;
    let state = pod.state().clone();
    assert!(state.fenced && state.container && !state.session, "{state:?}");
    assert!(state.collector_up, "keeps what it said");
    assert_eq!(state.restarts, 0);
    assert_eq!(fenced["status"]["phase"], HEALTHY);
    assert_eq!(fenced["status"]["currentPrimary"], "pg-a-1");
    assert_eq!(fenced["metadata"]["generation"], before["metadata"]["generation"]);
    let told = site
        .until("pg-a", |cluster| {
            cluster.0["status"]["instancesReportedState"]["pg-a-1"]["timeLineID"].is_null()
        })
        .await;
    let reported = &told["status"]["instancesReportedState"]["pg-a-1"];
    assert_eq!(*reported, json!({ "isPrimary": true, "ip": "127.0.0.1" }));
    assert_eq!(told["status"]["systemID"], "");
    assert_eq!(told["status"]["timelineID"], 1);
    let control = pod.postgres.control().await.unwrap();
    assert!(control.contains("Database cluster state:               shut down"), "{control}");
    assert_eq!(site.lease("pg-a")["spec"]["holderIdentity"], "pg-a-1", "the lease is kept");

    site.fence("pg-a", None).await;
    site.until_says("pg-a-1", "select pg_is_in_recovery()", "f").await;
    site.until_healthy("pg-a").await;
    assert_ne!(pod.state().pid, pid);
    assert_eq!(pod.state().restarts, 0);
}

#[tokio::test]
async fn what_cannot_be_read_fences_nobody_and_names_fence_one() {
    let site = one().await;
    for value in ["*", "[\"*\"", "{}", "[]", "[\"pg-a-2\"]"] {
        site.fence("pg-a", Some(value)).await;
        sleep(SECONDS / 5).await;
        assert!(!site.pod("pg-a-1").state().fenced, "{value}");
    }
    site.fence("pg-a", Some("[\"pg-a-1\"]")).await;
    site.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 0).await;
    assert!(site.pod("pg-a-1").state().fenced);
}

#[tokio::test]
async fn a_fence_outlives_its_pod() {
    let site = one().await;
    site.fence("pg-a", Some("[\"*\"]")).await;
    site.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 0).await;
    let old = site.pod_object("pg-a-1")["metadata"]["uid"].clone();
    site.delete_pod("pg-a-1").await.unwrap();
    let due = Instant::now() + 20 * SECONDS;
    let back = |pod: Value| !pod.is_null() && pod["metadata"]["uid"] != old;
    while !back(site.pod_object("pg-a-1")) || !site.pod("pg-a-1").state().fenced {
        assert!(Instant::now() < due, "{}", site.told());
        sleep(SECONDS / 50).await;
    }
    sleep(SECONDS / 5).await;
    assert!(!site.pod("pg-a-1").state().session, "{}", site.told());
}

#[tokio::test]
async fn a_fence_that_is_not_seen_stops_nothing_and_comes_late() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    pod.link.set_lag(SECONDS);
    let asked = Instant::now();
    site.fence("pg-a", Some("[\"*\"]")).await;
    while !pod.state().fenced {
        assert!(asked.elapsed() < 20 * SECONDS);
        sleep(SECONDS / 100).await;
    }
    assert!(asked.elapsed() >= SECONDS, "the cache lags behind");
    pod.link.set_lag(Duration::ZERO);
    site.fence("pg-a", None).await;
    site.until_says("pg-a-1", "select 1", "1").await;
    site.until_healthy("pg-a").await;
    pod.link.set_cut(true);
    site.fence("pg-a", Some("[\"*\"]")).await;
    sleep(SECONDS / 2).await;
    assert!(!pod.state().fenced);
    sql(&site, "pg-a-1", "create table writes_go_on ()").await;
    pod.link.set_cut(false);
    site.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 0).await;
}

#[tokio::test]
async fn a_manager_that_lifted_a_fence_looks_up_after_a_pause() {
    // Twenty seconds of theirs are four of ours.
    let options = Options { factor: 0.2, ..Options::default() };
    let site = one_as(&options, |_| {}).await;
    let pod = site.pod("pg-a-1");
    site.fence("pg-a", Some("[\"*\"]")).await;
    until(&site, || pod.state().fenced && !pod.state().session).await;
    site.fence("pg-a", None).await;
    until(&site, || !pod.state().fenced).await;
    let began = Instant::now();
    site.until_says("pg-a-1", "select pg_is_in_recovery()", "f").await;
    site.fence("pg-a", Some("[\"*\"]")).await;
    until(&site, || pod.state().fenced).await;
    assert!(began.elapsed() >= 4 * SECONDS, "{:?}", began.elapsed());
}

#[tokio::test]
async fn clients_write_through_the_checkpoint_of_a_fence() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    sql(&site, "pg-a-1", "create table t (n int)").await;
    pod.knobs().checkpoint_takes = SECONDS;
    site.fence("pg-a", Some("[\"*\"]")).await;
    let due = Instant::now() + 20 * SECONDS;
    while !pod.state().fenced {
        assert!(Instant::now() < due);
        sleep(SECONDS / 100).await;
    }
    sleep(SECONDS / 4).await;
    sql(&site, "pg-a-1", "insert into t values (1)").await;
    site.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 0).await;
}
