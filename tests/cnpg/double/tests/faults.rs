//! What can be broken of the double's API server, by calls and by orders of other processes.

use std::time::Duration;

use futures_util::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::WatchParams;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::api::access::ADMIN_TOKEN;
use super::super::api::faults::{Answer, Fault, Network};
use super::api::{ROLE, SECONDS, clusters, one, patch, refused};

#[tokio::test]
async fn single_answers_fail_as_told() {
    let (double, api) = one().await;
    let storm = Fault::times(Answer::Conflict, 2).on("patch", "clusters");
    double.server().set_faults(vec![storm]);
    assert_eq!(refused(patch(&api, json!({})).await).0, 409);
    assert_eq!(refused(patch(&api, json!({})).await).0, 409);
    patch(&api, json!({})).await.unwrap();
    double.server().set_faults(vec![Fault::times(Answer::Server(500), 1)]);
    assert_eq!(refused(api.get("pg-a").await).0, 500);
    double.server().set_faults(vec![Fault::times(Answer::Slow(300), 1)]);
    let began = tokio::time::Instant::now();
    api.get("pg-a").await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));
    let annotated = json!({ "metadata": { "annotations": { "lost": "no" } } });
    double.server().set_faults(vec![Fault::times(Answer::Lost, 1).on("patch", "clusters")]);
    assert!(!matches!(patch(&api, annotated).await.unwrap_err(), kube::Error::Api(_)));
    assert_eq!(api.get("pg-a").await.unwrap().annotations()["lost"], "no", "it was done");
}

#[tokio::test]
async fn too_many_requests_say_when_to_come_again() {
    let (double, _) = one().await;
    double.server().set_faults(vec![Fault::times(Answer::TooMany(3), 1)]);
    let response =
        raw(double.url(), "/apis/postgresql.cnpg.io/v1/namespaces/site/clusters/pg-a").await;
    assert!(response.starts_with("HTTP/1.1 429"), "{response}");
    assert!(response.contains("retry-after: 3"), "{response}");
}

#[tokio::test]
async fn other_processes_break_it_by_orders() {
    let (double, api) = one().await;
    let order = async |order: Value| {
        send(double.admin_url(), "POST /double HTTP/1.1", &order.to_string()).await
    };
    let done = |answer: String| assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    done(order(json!({ "webhook_down": true })).await);
    assert_eq!(refused(patch(&api, json!({})).await).0, 500);
    done(order(json!({ "webhook_down": false })).await);
    done(
        order(json!({ "faults": [{ "answer": { "server": 500 }, "times": 1, "verb": "get" }] }))
            .await,
    );
    assert_eq!(refused(api.get("pg-a").await).0, 500);
    done(order(json!({ "account": { "name": "n", "token": "t", "roles": ROLE } })).await);
    clusters(&double.kube("t")).get("pg-a").await.unwrap();
    done(
        order(json!({ "pod": { "name": "pg-a-1", "node_down": true, "gate_url": "http://x/" } }))
            .await,
    );
    assert!(double.pod("pg-a-1").knobs().node_down);
    done(order(json!({ "operator": { "off": true } })).await);
    assert!(double.world().operator.is_off());
    let wrong = order(json!({ "unknown": 1 })).await;
    assert!(wrong.starts_with("HTTP/1.1 4"), "{wrong}");
    let told = send(double.admin_url(), "GET /double HTTP/1.1", "").await;
    assert!(told.contains("\"calls\"") && told.contains("pg-a-1"), "{told}");
}

#[tokio::test]
async fn a_server_that_is_down_refuses_cuts_and_comes_back() {
    let (double, api) = one().await;
    let mut events = api.watch(&WatchParams::default().timeout(60), "0").await.unwrap().boxed();
    timeout(SECONDS, events.next()).await.unwrap().unwrap().unwrap();
    double.server().set_network(Network::Refused);
    let all = async { while let Some(Ok(_)) = events.next().await {} };
    timeout(SECONDS, all).await.expect("the watch is cut, too");
    let error = timeout(SECONDS, api.get("pg-a")).await.unwrap().unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "{error:?}");
    double.server().set_network(Network::Up);
    let back = async {
        while api.get("pg-a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SECONDS, back).await.unwrap();
}

#[tokio::test]
async fn a_silent_server_answers_when_it_is_heard_again() {
    let (double, api) = one().await;
    double.server().set_network(Network::Silent);
    let get = api.get("pg-a");
    tokio::pin!(get);
    assert!(timeout(Duration::from_millis(300), &mut get).await.is_err(), "nothing is answered");
    double.server().set_network(Network::Up);
    timeout(SECONDS, get).await.unwrap().unwrap();
}

/// One request without anything around it.
async fn raw(url: &str, path: &str) -> String {
    send(url, &format!("GET {path} HTTP/1.1\r\nauthorization: Bearer {ADMIN_TOKEN}"), "").await
}

async fn send(url: &str, head: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{head}\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(SECONDS, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}
