//! Several instances in one Cluster.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{label, pair, sql, target};

const SECONDS: Duration = Duration::from_secs(1);

#[tokio::test]
async fn another_instance_acts_when_the_status_says_so() {
    let site = pair(|_| {}).await;
    assert_eq!(
        (label(&site, "pg-a-1"), label(&site, "pg-a-2")),
        ("primary".into(), "replica".into())
    );
    target(&site, "pg-a", "pg-a-2").await;
    site.until("pg-a", |_| label(&site, "pg-a-1") == "unhealthy").await;
    site.until("pg-a", |cluster| cluster.current() == "pg-a-2").await;
    site.until_says("pg-a-2", "select pg_is_in_recovery()", "f").await;
    sql(&site, "pg-a-2", "insert into t values (1)").await;
    assert_eq!(site.lease("pg-a")["spec"]["holderIdentity"], "pg-a-2");
    site.until_says("pg-a-1", "select count(*) from t", "1").await;
    let healthy = site.until_healthy("pg-a").await;
    assert_eq!(healthy["status"]["timelineID"], 2);
    assert_eq!(
        (label(&site, "pg-a-1"), label(&site, "pg-a-2")),
        ("replica".into(), "primary".into())
    );
    assert_eq!(site.pod("pg-a-1").state().restarts, 1);
}

#[tokio::test]
async fn a_target_that_is_no_pod_is_taken_back() {
    let site = pair(|_| {}).await;
    target(&site, "pg-a", "pg-a-9").await;
    site.until("pg-a", |cluster| cluster.target() == "pg-a-1").await;
}

#[tokio::test]
async fn a_promotion_away_from_a_fenced_primary_waits_for_its_lease_until_its_pod_is_deleted() {
    let site = pair(|_| {}).await;
    site.fence("pg-a", Some("[\"pg-a-1\"]")).await;
    site.until("pg-a", |cluster| cluster.0["status"]["readyInstances"] == 1).await;
    assert_eq!(site.get("pg-a")["status"]["targetPrimary"], "pg-a-1", "nobody fails over");
    target(&site, "pg-a", "pg-a-2").await;
    sleep(3 * SECONDS).await;
    assert_eq!(site.get("pg-a")["status"]["currentPrimary"], "pg-a-1");
    assert_eq!(site.lease("pg-a")["spec"]["holderIdentity"], "pg-a-1");
    site.delete_pod("pg-a-1").await.unwrap();
    site.until("pg-a", |cluster| cluster.current() == "pg-a-2").await;
    site.until_says("pg-a-2", "select pg_is_in_recovery()", "f").await;
}

#[tokio::test]
async fn the_operator_fails_over_from_a_machine_that_is_gone() {
    let site = pair(|_| {}).await;
    let began = Instant::now();
    site.pod("pg-a-1").knobs().node_down = true;
    site.until("pg-a", |cluster| cluster.text("/status/phase") == "Failing over").await;
    // Forty seconds of theirs, from its last sign, which may be ten old.
    let elapsed = began.elapsed();
    assert!(elapsed >= 3 * SECONDS / 2, "{elapsed:?}");
    site.until("pg-a", |cluster| cluster.current() == "pg-a-2").await;
    site.until_says("pg-a-2", "select pg_is_in_recovery()", "f").await;
    site.pod("pg-a-1").knobs().node_down = false;
    site.until_says("pg-a-1", "select pg_is_in_recovery()", "t").await;
    site.until_healthy("pg-a").await;
}

#[tokio::test]
async fn a_primary_is_isolated_by_the_first_peer_it_does_not_reach() {
    let site = pair(|_| {}).await;
    let pod = site.pod("pg-a-1");
    pod.link.set_cut(true);
    sleep(3 * SECONDS).await;
    assert_eq!(pod.state().restarts, 0, "its peer is there");
    site.pod("pg-a-2").knobs().unreachable = true;
    let due = Instant::now() + 20 * SECONDS;
    while pod.state().restarts == 0 {
        assert!(Instant::now() < due, "{}", site.told());
        sleep(SECONDS / 50).await;
    }
    sleep(SECONDS).await;
    assert!(!pod.state().session, "and without an API server it stays down");
}

#[tokio::test]
async fn nothing_starts_before_the_api_server_has_said_what_is_to_be() {
    let site = pair(|_| {}).await;
    // A standby needs no lease: only this holds it back.
    let pod = site.pod("pg-a-2");
    pod.link.set_cut(true);
    let pid = i32::try_from(pod.state().pid.unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let due = Instant::now() + 20 * SECONDS;
    while pod.state().restarts == 0 {
        assert!(Instant::now() < due, "{}", site.told());
        sleep(SECONDS / 50).await;
    }
    sleep(2 * SECONDS).await;
    assert!(!pod.state().session, "{}", site.told());
    pod.link.set_cut(false);
    site.until_says("pg-a-2", "select pg_is_in_recovery()", "t").await;
}
