//! What the API server may answer, and what is made of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::api::CALLS;
use super::super::cluster::Cluster;
use super::super::trouble::Trouble;
use super::api::Say;
use super::site::{Site, cluster};
use super::within;
use crate::database::server::outcome::Failure;

const SHORT: Duration = Duration::from_millis(900);

/// Some change that has not been made yet.
fn change(cluster: &Cluster) -> Option<Value> {
    let wanted = json!({ "metadata": { "annotations": { "wanted": "1" } } });
    cluster.annotation("wanted").is_none().then_some(wanted)
}

/// An answer, and what it is.
type Named = (Say, fn(&Trouble) -> bool);

async fn changed(site: &Site, limit: Duration) -> Result<(), Failure> {
    let cancel = CancellationToken::new();
    let ended = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(limit).await;
        ended.cancel();
    });
    site.shared.change(|cluster| Ok(change(cluster)), &cancel).await.map(|_| ())
}

#[tokio::test]
async fn every_answer_has_a_name() {
    within(async {
        let site = Site::primary(cluster()).await;
        let table: [Named; 14] = [
            (Say::code(404, "x"), |it| matches!(it, Trouble::Absent(_))),
            (Say::code(401, "x"), |it| matches!(it, Trouble::Denied { verb: "get", .. })),
            (Say::code(403, "x"), |it| matches!(it, Trouble::Denied { verb: "get", .. })),
            (Say::code(409, "x"), |it| matches!(it, Trouble::Conflict)),
            (Say::code(410, "x"), |it| matches!(it, Trouble::Gone)),
            (Say::code(429, "x"), |it| matches!(it, Trouble::Busy(None))),
            (
                Say::Code(429, "x".to_owned(), "7"),
                |it| matches!(it, Trouble::Busy(Some(after)) if after.as_secs() == 7),
            ),
            (Say::code(500, "failed calling webhook \"v\": timeout"), |it| {
                matches!(it, Trouble::Webhook(_))
            }),
            (Say::code(500, "etcd"), |it| matches!(it, Trouble::Failed(_))),
            (Say::code(503, ""), |it| matches!(it, Trouble::Failed(_))),
            (Say::code(422, "bad"), |it| matches!(it, Trouble::Invalid(_))),
            (Say::code(403, "admission webhook \"v\" denied the request: no"), |it| {
                matches!(it, Trouble::Invalid(_))
            }),
            (Say::Nothing, |it| matches!(it, Trouble::Silent(_))),
            (Say::Text("<html>".to_owned()), |it| matches!(it, Trouble::Malformed(_))),
        ];
        for (say, is_meant) in table {
            site.api.world().gets = [say.clone()].into();
            let trouble = site.shared.api.read().await.unwrap_err();
            assert!(is_meant(&trouble), "{say:?}: {trouble:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_silence() {
    within(async {
        let mut site = Site::primary(cluster()).await;
        let access = super::super::Access {
            cluster: "pg".to_owned(),
            namespace: Some("db".to_owned()),
            url: Some("http://127.0.0.1:1".to_owned()),
            token_file: None,
            ca_file: None,
            timeout: Duration::from_millis(300),
        };
        let api = super::super::api::Api::new(&access).unwrap();
        assert!(matches!(api.read().await, Err(Trouble::Silent(_))));
        let failure = {
            let shared = std::sync::Arc::get_mut(&mut site.shared).unwrap();
            shared.api = api;
            changed(&site, SHORT).await.unwrap_err()
        };
        assert!(matches!(failure, Failure::Unknown(_)), "{failure:?}");
    })
    .await;
}

#[tokio::test]
async fn it_is_spoken_to_by_tls_with_the_authority_of_the_file() {
    within(async {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let ca_file = dir.path().join("ca.crt");
        std::fs::write(&ca_file, certificate.self_signed(&key).unwrap().pem()).unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, "token").unwrap();
        let access = |port: u16| super::super::Access {
            cluster: "pg".to_owned(),
            namespace: Some("db".to_owned()),
            url: Some(format!("https://127.0.0.1:{port}")),
            token_file: Some(token_file.clone()),
            ca_file: Some(ca_file.clone()),
            timeout: Duration::from_millis(500),
        };
        // Who speaks no TLS is not understood, and nothing breaks.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ =
                    tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n")
                        .await;
            }
        });
        let api = super::super::api::Api::new(&access(port)).unwrap();
        assert!(matches!(api.read().await, Err(Trouble::Silent(_))));
        std::fs::remove_file(&ca_file).unwrap();
        assert!(super::super::api::Api::new(&access(port)).is_err(), "no authority, no connection");
    })
    .await;
}

#[tokio::test]
async fn what_trying_again_would_not_change_is_refused_at_once() {
    within(async {
        for (say, words) in [
            (Say::code(403, "no"), "not allowed to patch clusters.postgresql.cnpg.io"),
            (Say::code(404, "no"), "there is no"),
            (Say::code(422, "spec.replica: Forbidden"), "spec.replica: Forbidden"),
        ] {
            let site = Site::primary(cluster()).await;
            site.api.world().always = vec![("patch", say)];
            let failure = changed(&site, Duration::from_secs(20)).await.unwrap_err();
            assert!(
                matches!(&failure, Failure::Refused(why) if why.contains(words)),
                "{failure:?}"
            );
            assert_eq!(site.api.world().sent.len(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn what_may_pass_is_tried_until_it_is_taken_back() {
    within(async {
        for (say, known) in [
            (Say::code(409, "x"), true),
            (Say::code(429, "x"), true),
            (Say::code(410, "x"), true),
            (Say::code(500, "failed calling webhook"), true),
            (Say::code(500, "etcd timed out"), false),
            (Say::Nothing, false),
        ] {
            let site = Site::primary(cluster()).await;
            site.api.world().always = vec![("patch", say.clone())];
            let failure = changed(&site, SHORT).await.unwrap_err();
            // A change that may have landed is not said to have failed.
            assert_eq!(matches!(failure, Failure::Refused(_)), known, "{say:?}: {failure:?}");
            assert!(site.api.world().sent.len() > 1, "{say:?}");
            site.api.world().always.clear();
            changed(&site, SHORT).await.unwrap();
            assert_eq!(site.api.annotation("wanted").unwrap(), "1");
        }
    })
    .await;
}

#[tokio::test]
async fn every_patch_names_the_version_it_was_decided_on() {
    within(async {
        let site = Site::primary(cluster()).await;
        changed(&site, SHORT).await.unwrap();
        let sent = site.api.world().sent.clone();
        assert!(sent.iter().all(|patch| patch["metadata"]["resourceVersion"] == "100"));
        assert_eq!(sent.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn only_the_calls_that_the_role_allows_are_made() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.api.world().operator = Some("1.30.1".to_owned());
        let cluster = site.shared.api.read().await.unwrap();
        site.shared.probe(&cluster).await;
        changed(&site, SHORT).await.unwrap();
        let allowed = |verb: &str, resource: &str| {
            CALLS.iter().any(|(on, of, _)| *on == verb && of.split('.').next() == Some(resource))
        };
        let calls = site.api.world().calls.clone();
        assert!(calls.iter().all(|(verb, resource)| allowed(verb, resource)), "{calls:?}");
        assert_eq!(calls.len(), 5);
    })
    .await;
}

#[test]
fn wrong_types_are_an_error_and_unknown_fields_are_not() {
    let read = |value: Value| serde_json::from_value::<Cluster>(value).is_ok();
    let mut more = cluster();
    more["spec"]["unknown"] = json!({ "a": [1] });
    more["status"]["unknown"] = json!(1);
    assert!(read(more));
    for (pointer, value) in [
        ("/spec/instances", json!("1")),
        ("/spec/instances", json!(-1)),
        ("/spec/replica", json!("pg-a")),
        ("/spec/replica/enabled", json!("true")),
        ("/spec/externalClusters", json!({})),
        ("/metadata/annotations", json!({ "a": 1 })),
        ("/metadata/resourceVersion", json!(1)),
        ("/status/instanceNames", json!("pg-1")),
    ] {
        let mut wrong = cluster();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        wrong.pointer_mut(parent).unwrap()[field] = value;
        assert!(!read(wrong), "{pointer}");
    }
}
