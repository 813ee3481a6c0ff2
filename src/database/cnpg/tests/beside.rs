//! What is asked besides where every instance is a member: every call by its path, its words and its end.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::super::cluster::Cluster;
use super::super::trouble::Trouble;
use super::api::Say;
use super::site::{Site, cluster};
use super::within;
use crate::database::server::outcome::{Failure, Step};

const SHORT: Duration = Duration::from_millis(900);

const CLUSTER: &str = "/apis/postgresql.cnpg.io/v1/namespaces/db/clusters/pg";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/db/leases/pg";

async fn site() -> Site {
    let mut two = cluster();
    two["status"]["instanceNames"] = json!(["pg-1", "pg-2"]);
    two["status"]["targetPrimary"] = json!("pg-2");
    Site::instance(two).await
}

/// Appoints pg-1 for as long as that is somebody else, for at most `limit`.
async fn appoint(site: &Site, limit: Duration) -> Step<Cluster> {
    let cancel = CancellationToken::new();
    let ended = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(limit).await;
        ended.cancel();
    });
    let decide = |cluster: &Cluster| Ok(cluster.status.target_primary != "pg-1");
    site.shared.api.appoint("pg-1", decide, &cancel).await
}

#[tokio::test]
async fn an_appointment_is_the_patch_of_the_status_that_cloudnativepg_s_own_command_makes() {
    within(async {
        let site = site().await;
        let appointed = appoint(&site, SHORT).await.unwrap();
        assert_eq!(appointed.status.target_primary, "pg-1");
        let asked = site.api.world().asked.clone();
        assert_eq!(asked, [format!("get {CLUSTER}"), format!("patch {CLUSTER}/status")]);
        let mut sent = site.api.world().sent.clone();
        let time = sent[0]["status"]["targetPrimaryTimestamp"].take();
        let expected = json!({
            "metadata": { "resourceVersion": "100" },
            "status": {
                "targetPrimary": "pg-1", "targetPrimaryTimestamp": null,
                "phase": "Switchover in progress", "phaseReason": "Switching over to pg-1",
            },
        });
        assert_eq!(sent, [expected]);
        // CloudNativePG reads it with this very layout.
        let time = time.as_str().unwrap();
        let (date, fraction) = time.split_once('.').unwrap();
        assert_eq!((date.len(), fraction.len()), ("2026-08-21T10:00:00".len(), "000000Z".len()));
        assert!(time.parse::<jiff::Timestamp>().is_ok() && fraction.ends_with('Z'), "{time}");
    })
    .await;
}

#[tokio::test]
async fn an_appointment_is_decided_anew_after_a_conflict_and_known_after_silence() {
    within(async {
        let site = site().await;
        site.api.world().patches = [Say::code(409, "modified"), Say::MadeAndNothing].into();
        appoint(&site, Duration::from_secs(20)).await.unwrap();
        assert_eq!(site.api.world().sent.len(), 2, "what was made in silence is not made again");
        assert_eq!(site.api.field("/status/targetPrimary"), "pg-1");
        // Somebody else was quicker, and nobody wants it any more.
        let site = self::site().await;
        site.api.world().patches = [Say::code(409, "modified")].into();
        let (api, limit) = (site.api.clone(), Duration::from_secs(20));
        let cancel = CancellationToken::new();
        let mut asked = 0;
        let decide = |_: &Cluster| {
            asked += 1;
            api.change(|it| it["status"]["targetPrimary"] = json!("pg-3"));
            Ok(asked < 2)
        };
        let appointed =
            tokio::time::timeout(limit, site.shared.api.appoint("pg-1", decide, &cancel));
        assert_eq!(appointed.await.unwrap().unwrap().status.target_primary, "pg-3");
        assert_eq!(site.api.world().sent.len(), 1);
    })
    .await;
}

/// Whoever is told that it may have happened has to take it for done; a refusal is none of that.
#[tokio::test]
async fn an_appointment_that_was_refused_is_not_said_to_have_been_made() {
    within(async {
        for (verb, say, known, words) in [
            ("patch", Say::code(403, "no"), true, "patch clusters.postgresql.cnpg.io/status"),
            ("get", Say::code(403, "no"), true, "not allowed to get clusters.postgresql.cnpg.io"),
            ("patch", Say::code(422, "spec: Invalid"), true, "spec: Invalid"),
            ("get", Say::code(404, "no"), true, "there is no clusters"),
            ("patch", Say::code(409, "x"), true, "somebody else changed it"),
            ("patch", Say::code(503, "x"), false, "the API server failed"),
            ("patch", Say::Nothing, false, "no answer"),
            ("get", Say::Nothing, true, "no answer"),
        ] {
            let site = site().await;
            site.api.world().always = vec![(verb, say.clone())];
            let failure = appoint(&site, SHORT).await.unwrap_err();
            assert!(failure.text().contains(words), "{verb} {say:?}: {failure:?}");
            assert_eq!(
                matches!(failure, Failure::Refused(_)),
                known,
                "{verb} {say:?}: {failure:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_lease_is_given_back_as_a_manager_does_it() {
    within(async {
        let site = site().await;
        "pg-1".clone_into(&mut site.api.world().holder);
        site.shared.api.pass_lease("pg-1", "pg-2").await.unwrap();
        let asked = site.api.world().asked.clone();
        assert_eq!(asked, [format!("get {LEASE}"), format!("patch {LEASE}")]);
        let spec = json!({ "holderIdentity": "pg-2", "leaseDurationSeconds": 1 });
        let expected = json!({ "metadata": { "resourceVersion": "7" }, "spec": spec });
        assert_eq!(site.api.world().sent, [expected]);
        // That of another one, and one that is not there, are left alone.
        "pg-2".clone_into(&mut site.api.world().holder);
        site.shared.api.pass_lease("pg-1", "pg-2").await.unwrap();
        site.api.world().lease = false;
        site.shared.api.pass_lease("pg-1", "pg-2").await.unwrap();
        assert_eq!(site.api.world().sent.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn who_took_the_lease_meanwhile_keeps_it() {
    within(async {
        let site = site().await;
        "pg-1".clone_into(&mut site.api.world().holder);
        for (verb, say, words) in [
            ("patch", Say::code(409, "modified"), "somebody else changed it"),
            ("patch", Say::code(403, "no"), "not allowed to patch leases.coordination.k8s.io"),
            ("get", Say::code(403, "no"), "not allowed to get leases.coordination.k8s.io"),
        ] {
            site.api.world().always = vec![(verb, say)];
            let trouble = site.shared.api.pass_lease("pg-1", "pg-2").await.unwrap_err().to_string();
            assert!(trouble.contains(words), "{trouble}");
        }
        assert_eq!(site.api.world().holder, "pg-1");
        assert_eq!(site.api.world().sent.len(), 2, "it is not tried again without another look");
    })
    .await;
}

#[tokio::test]
async fn what_is_rehearsed_changes_nothing() {
    within(async {
        let site = site().await;
        "pg-1".clone_into(&mut site.api.world().holder);
        let before = site.api.world().cluster.clone();
        let cluster = site.shared.api.read().await.unwrap();
        site.shared.api.rehearse_appointment(&cluster).await.unwrap();
        site.shared.api.rehearse_release().await.unwrap();
        let asked = site.api.world().asked.split_off(1);
        let expected = [CLUSTER.to_owned() + "/status", LEASE.to_owned()];
        assert_eq!(asked, expected.map(|path| format!("patch {path}?dryRun=All")));
        assert_eq!(site.api.world().cluster, before);
        assert_eq!(site.api.world().holder, "pg-1");
    })
    .await;
}

#[tokio::test]
async fn what_is_no_name_of_a_pod_gets_into_no_path() {
    within(async {
        let site = site().await;
        for name in
            ["", ".", "..", "../secrets/pg-1", "pg-1/exec", "pg-1?x", "Pg", "a..b", "-a", "a%2f"]
        {
            let trouble = site.shared.api.is_ready(name).await.unwrap_err();
            assert!(
                matches!(&trouble, Trouble::Malformed(why) if why.contains("no name of a pod"))
            );
            assert!(site.shared.api.version(name).await.is_err(), "{name}");
        }
        assert!(site.shared.api.is_ready(&"a".repeat(254)).await.is_err());
        assert_eq!(site.api.world().asked, Vec::<String>::new());
        for name in ["pg-1", "pg.example-2", "0"] {
            assert!(!site.shared.api.is_ready(name).await.unwrap(), "{name}");
        }
    })
    .await;
}
