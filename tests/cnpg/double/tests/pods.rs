//! Pods: what restarts PostgreSQL, and what holds it back.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::sleep;

use super::super::Double;
use super::super::Options;
use super::super::api::faults::Network;
use super::super::instance::pod::{Gate, Pod};
use super::{one, one_as, sql, until};
use crate::cnpg::manifest::manifest;

const SECONDS: Duration = Duration::from_secs(1);

fn kill(pod: &Pod) {
    let pid = i32::try_from(pod.state().pid.unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_killed_postgresql_is_restarted_unless_the_api_server_is_away() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    kill(&pod);
    until(&site, || pod.state().restarts == 1).await;
    site.until_says("pg-a-1", "select pg_is_in_recovery()", "f").await;
    site.until_healthy("pg-a").await;
    site.server().set_network(Network::Refused);
    kill(&pod);
    until(&site, || pod.state().restarts == 2).await;
    sleep(2 * SECONDS).await;
    assert!(!pod.state().session, "it stays down");
    site.server().set_network(Network::Up);
    site.until_says("pg-a-1", "select 1", "1").await;
}

#[tokio::test]
async fn a_single_instance_is_never_isolated() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    site.server().set_network(Network::Refused);
    // Twice as long as it takes one of two.
    sleep(5 * SECONDS).await;
    let state = pod.state().clone();
    assert!(state.session && state.restarts == 0, "{state:?}");
    sql(&site, "pg-a-1", "create table writes_go_on ()").await;
}

#[tokio::test]
async fn a_sidecar_holds_a_pod_back_and_not_a_container_that_is_restarted() {
    let site = Double::start(&Options::default());
    let pod = site.pod("pg-a-1");
    let gate = site.dir().join("open");
    pod.knobs().gate = Gate::File(gate.clone());
    site.create(manifest("pg-a", "pg-a", [pod.postgres.port, 1])).await.unwrap();
    until(&site, || pod.state().waiting.contains("startup probe")).await;
    assert!(pod.postgres.exists(), "its data are there");
    sleep(SECONDS / 2).await;
    assert!(!pod.state().container);
    std::fs::write(&gate, "").unwrap();
    site.until_healthy("pg-a").await;
    std::fs::remove_file(&gate).unwrap();
    kill(&pod);
    until(&site, || pod.state().restarts == 1).await;
    site.until_says("pg-a-1", "select 1", "1").await;
    site.delete_pod("pg-a-1").await.unwrap();
    until(&site, || pod.state().waiting.contains("startup probe")).await;
    assert!(!pod.state().container, "a new pod is held back again");
}

/// Answers every request with what `open` says, as a sidecar's probe does.
fn probe(open: &Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/startup", listener.local_addr().unwrap());
    let open = Arc::clone(open);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = if open.load(Ordering::Relaxed) { "200 OK" } else { "503 not yet" };
            let mut asked = [0; 64];
            let length = stream.read(&mut asked).unwrap_or(0);
            assert!(asked[..length].starts_with(b"GET /startup "), "{asked:?}");
            let _ = write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
        }
    });
    url
}

#[tokio::test]
async fn a_sidecar_s_probe_is_asked_until_it_says_yes() {
    let site = Double::start(&Options::default());
    let pod = site.pod("pg-a-1");
    let open = Arc::new(AtomicBool::new(false));
    pod.knobs().gate = Gate::Url(probe(&open));
    site.create(manifest("pg-a", "pg-a", [pod.postgres.port, 1])).await.unwrap();
    until(&site, || pod.state().waiting.contains("startup probe")).await;
    sleep(SECONDS / 2).await;
    assert!(!pod.state().container, "a refusal holds it back");
    open.store(true, Ordering::Relaxed);
    site.until_healthy("pg-a").await;
    pod.knobs().gate = Gate::Url("http://127.0.0.1:1/startup".to_owned());
    site.delete_pod("pg-a-1").await.unwrap();
    until(&site, || pod.state().waiting.contains("startup probe")).await;
    sleep(SECONDS / 2).await;
    assert!(!pod.state().container, "so does one that does not answer");
}

#[tokio::test]
async fn a_foreign_holder_of_the_lease_ends_the_manager() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    let holder = || site.lease("pg-a")["spec"]["holderIdentity"].clone();
    until(&site, || holder() == "pg-a-1").await;
    site.patch_lease("pg-a", json!({ "holderIdentity": "somebody" })).await.unwrap();
    until(&site, || pod.state().restarts == 1).await;
    // Not renewed by anybody, it is taken back after its duration.
    until(&site, || holder() == "pg-a-1").await;
    site.until_says("pg-a-1", "select 1", "1").await;
}

#[tokio::test]
async fn an_open_session_writes_through_a_smart_shutdown() {
    // Three minutes of theirs are less than two seconds.
    let options = Options { factor: 0.01, ..Options::default() };
    let site = one_as(&options, |object| {
        object["spec"]["smartShutdownTimeout"] = 180.into();
    })
    .await;
    let pod = site.pod("pg-a-1");
    sql(&site, "pg-a-1", "create table t (n int)").await;
    let session = "do $$ begin for i in 1..100 loop insert into t values (i); commit; \
                   perform pg_sleep(0.01); end loop; end $$";
    let postgres = pod.postgres.clone();
    let open = tokio::spawn(async move { postgres.ask(session, 10 * SECONDS).await });
    until(&site, || pod.state().ready).await;
    sleep(SECONDS / 10).await;
    site.delete_pod("pg-a-1").await.unwrap();
    let refused = async {
        while pod.postgres.sql("select 1").await.is_ok() {
            sleep(SECONDS / 100).await;
        }
    };
    tokio::time::timeout(10 * SECONDS, refused).await.unwrap();
    assert!(!open.is_finished(), "the session goes on");
    assert_eq!(open.await.unwrap(), Ok(String::new()), "to its end");
}

#[tokio::test]
async fn an_unfence_that_cannot_start_postgresql_leaves_it_down() {
    let site = one().await;
    let pod = site.pod("pg-a-1");
    site.fence("pg-a", Some("[\"*\"]")).await;
    until(&site, || pod.state().fenced && !pod.state().session).await;
    let port = TcpListener::bind(("127.0.0.1", pod.postgres.port)).unwrap();
    site.fence("pg-a", None).await;
    until(&site, || pod.state().told.iter().any(|text| text.contains("ended at its start"))).await;
    drop(port);
    sleep(SECONDS).await;
    let state = pod.state().clone();
    assert!(!state.session && !state.fenced && state.might_be_unavailable, "{state:?}");
    site.fence("pg-a", Some("[\"*\"]")).await;
    until(&site, || pod.state().fenced).await;
    site.fence("pg-a", None).await;
    site.until_says("pg-a-1", "select 1", "1").await;
}
