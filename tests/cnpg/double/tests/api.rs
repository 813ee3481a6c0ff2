//! The API server of the double, asked by kube's client.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams, WatchEvent, WatchParams,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::api::access::{ADMIN_TOKEN, rules};
use super::super::{Double, Options};

pub(super) const SECONDS: Duration = Duration::from_secs(5);

/// Namespace of these tests.
const NAMESPACE: &str = "site";

fn client(double: &Double, token: &str) -> kube::Client {
    double.kube(token)
}

pub(super) fn clusters(client: &kube::Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("postgresql.cnpg.io", "v1", "Cluster");
    Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind))
}

fn manifest() -> Value {
    json!({
        "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster",
        "metadata": { "name": "pg-a", "namespace": NAMESPACE },
        "spec": {
            "instances": 1,
            "replica": { "self": "pg-a", "primary": "pg-a", "source": "pg-b" },
            "externalClusters": [
                { "name": "pg-a", "connectionParameters": { "host": "a" } },
                { "name": "pg-b", "connectionParameters": { "host": "b" } },
            ],
        },
    })
}

/// A server with one Cluster that nobody looks after.
pub(super) async fn one() -> (Double, Api<DynamicObject>) {
    let double = Double::start(&Options { actors: false, ..Options::default() });
    let api = clusters(&client(&double, ADMIN_TOKEN));
    create(&api, manifest()).await.unwrap();
    (double, api)
}

async fn create(api: &Api<DynamicObject>, object: Value) -> kube::Result<DynamicObject> {
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await
}

pub(super) async fn patch(api: &Api<DynamicObject>, body: Value) -> kube::Result<DynamicObject> {
    api.patch("pg-a", &PatchParams::default(), &Patch::Merge(body)).await
}

async fn patch_status(api: &Api<DynamicObject>, body: Value) -> kube::Result<DynamicObject> {
    api.patch_status("pg-a", &PatchParams::default(), &Patch::Merge(body)).await
}

fn version(object: &DynamicObject) -> String {
    object.metadata.resource_version.clone().unwrap()
}

/// The code and the text of an error.
#[track_caller]
pub(super) fn refused<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String, String) {
    match result {
        Err(kube::Error::Api(status)) => {
            (status.code, status.reason.clone(), status.message.clone())
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_merge_patch_merges_and_null_deletes() {
    let (_double, api) = one().await;
    let fence = json!({ "metadata": { "annotations": { "cnpg.io/fencedInstances": "[\"*\"]", "x": "y" } } });
    let first = patch(&api, fence).await.unwrap();
    assert_eq!(first.annotations()["cnpg.io/fencedInstances"], "[\"*\"]");
    let lifted = json!({ "metadata": { "annotations": { "cnpg.io/fencedInstances": null } } });
    let second = patch(&api, lifted).await.unwrap();
    assert_eq!(second.annotations().keys().collect::<Vec<_>>(), ["x"]);
    assert_eq!(second.data["spec"]["instances"], 1, "what was not named stays");
    assert_ne!(version(&first), version(&second));
    assert_eq!(second.metadata.generation, Some(1), "annotations make no generation");
    let scaled = patch(&api, json!({ "spec": { "instances": 2 } })).await.unwrap();
    assert_eq!(scaled.metadata.generation, Some(2));
    let again = patch(&api, json!({ "spec": { "instances": 2 } })).await.unwrap();
    assert_eq!(version(&scaled), version(&again), "what changes nothing makes no version");
}

#[tokio::test]
async fn a_patch_of_an_old_version_is_a_conflict() {
    let (_double, api) = one().await;
    let old = version(&api.get("pg-a").await.unwrap());
    let body = |value: &str| json!({ "metadata": { "resourceVersion": old, "annotations": { "a": value } } });
    patch(&api, body("1")).await.unwrap();
    let (code, reason, message) = refused(patch(&api, body("2")).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains("the object has been modified"), "{message}");
    assert_eq!(api.get("pg-a").await.unwrap().annotations()["a"], "1");
}

#[tokio::test]
async fn main_and_status_are_written_apart() {
    let (_double, api) = one().await;
    let both = json!({
        "metadata": { "annotations": { "a": "b" } },
        "spec": { "instances": 3 }, "status": { "targetPrimary": "pg-a-2", "made": "up" },
    });
    let after = patch_status(&api, both.clone()).await.unwrap();
    assert_eq!(after.data["status"], json!({ "targetPrimary": "pg-a-2" }), "unknown fields go");
    assert_eq!(after.data["spec"]["instances"], 1);
    assert_eq!(after.metadata.annotations, None);
    let other = json!({ "spec": { "instances": 3 }, "status": { "targetPrimary": "pg-a-3" } });
    let after = patch(&api, other).await.unwrap();
    assert_eq!(after.data["status"]["targetPrimary"], "pg-a-2");
    assert_eq!(after.data["spec"]["instances"], 3);
}

#[tokio::test]
async fn a_replacement_has_to_name_its_version() {
    let (_double, api) = one().await;
    let mut object = api.get("pg-a").await.unwrap();
    object.data["spec"]["instances"] = 2.into();
    let fresh = api.replace("pg-a", &PostParams::default(), &object).await.unwrap();
    assert_eq!(fresh.data["spec"]["instances"], 2);
    assert_eq!(refused(api.replace("pg-a", &PostParams::default(), &object).await).0, 409);
    object.metadata.resource_version = None;
    let (code, _, message) = refused(api.replace("pg-a", &PostParams::default(), &object).await);
    assert_eq!(code, 422);
    assert!(message.contains("must be specified for an update"), "{message}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (_double, api) = one().await;
    let (code, reason, message) = refused(api.get("pg-x").await);
    assert_eq!((code, reason.as_str()), (404, "NotFound"));
    assert_eq!(message, "clusters.postgresql.cnpg.io \"pg-x\" not found");
    assert_eq!(refused(create(&api, manifest()).await).1, "AlreadyExists");
    api.delete("pg-a", &DeleteParams::default()).await.unwrap();
    assert_eq!(refused(api.get("pg-a").await).0, 404);
}

#[tokio::test]
async fn a_watch_tells_everything_after_a_version_with_bookmarks_between() {
    let (_double, api) = one().await;
    let list = api.list(&ListParams::default().fields("metadata.name=pg-a")).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let from = list.metadata.resource_version.unwrap();
    let wish = WatchParams::default().fields("metadata.name=pg-a").timeout(4);
    let mut events = api.watch(&wish, &from).await.unwrap().boxed();
    patch(&api, json!({ "metadata": { "annotations": { "n": "1" } } })).await.unwrap();
    let mut other = manifest();
    other["metadata"]["name"] = "pg-b".into();
    create(&api, other).await.unwrap();
    api.delete("pg-a", &DeleteParams::default()).await.unwrap();
    let (mut told, mut bookmark) = (Vec::new(), String::new());
    while bookmark.is_empty() {
        match timeout(SECONDS, events.next()).await.unwrap().unwrap().unwrap() {
            WatchEvent::Added(_) => told.push("added"),
            WatchEvent::Modified(_) => told.push("modified"),
            WatchEvent::Deleted(_) => told.push("deleted"),
            WatchEvent::Bookmark(mark) => bookmark = mark.metadata.resource_version,
            WatchEvent::Error(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(told, ["modified", "deleted"], "the other Cluster is not told of");
    assert!(bookmark.parse::<u64>().unwrap() > from.parse().unwrap());
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_told_410() {
    let (double, api) = one().await;
    let old = version(&api.get("pg-a").await.unwrap());
    double.server().forget();
    let mut events = api.watch(&WatchParams::default().timeout(4), &old).await.unwrap().boxed();
    let event = timeout(SECONDS, events.next()).await.unwrap().unwrap().unwrap();
    let WatchEvent::Error(status) = event else { panic!("{event:?}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(timeout(SECONDS, events.next()).await.unwrap().is_none(), "and it ends");
}

#[tokio::test]
async fn a_watch_is_cut_and_its_end_is_seen() {
    let (double, api) = one().await;
    let mut events = api.watch(&WatchParams::default().timeout(60), "0").await.unwrap().boxed();
    let first = timeout(SECONDS, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first, WatchEvent::Added(_)), "{first:?}");
    double.server().cut_watches();
    let all = async { while let Some(Ok(_)) = events.next().await {} };
    timeout(SECONDS, all).await.unwrap();
}

pub(super) const ROLE: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: agent}
rules:
- {apiGroups: [postgresql.cnpg.io], resources: [clusters], resourceNames: [pg-a], verbs: [get, list, watch]}
- {apiGroups: [postgresql.cnpg.io], resources: [clusters/status], resourceNames: [pg-a], verbs: [patch]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent}
"#;

#[tokio::test]
async fn roles_say_who_may_do_what() {
    let (double, _) = one().await;
    let account = "system:serviceaccount:site:agent";
    double.server().set_account(account, "secret", rules(ROLE).unwrap());
    let api = clusters(&client(&double, "secret"));
    api.get("pg-a").await.unwrap();
    patch_status(&api, json!({ "status": { "targetPrimary": "pg-a-1" } })).await.unwrap();
    let (code, reason, message) = refused(patch(&api, json!({})).await);
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "clusters.postgresql.cnpg.io \"pg-a\" is forbidden: User \"system:serviceaccount:site:agent\" \
         cannot patch resource \"clusters\" in API group \"postgresql.cnpg.io\" in the namespace \"site\""
    );
    assert_eq!(refused(api.get("pg-b").await).0, 403, "another name");
    assert_eq!(refused(api.list(&ListParams::default()).await).0, 403, "all of them");
    let one = ListParams::default().fields("metadata.name=pg-a");
    assert_eq!(api.list(&one).await.unwrap().items.len(), 1);
    let leases: Api<Lease> = Api::namespaced(client(&double, "secret"), NAMESPACE);
    assert_eq!(refused(leases.get("pg-a").await).0, 403, "another resource");
    assert_eq!(refused(clusters(&client(&double, "wrong")).get("pg-a").await).0, 401);
    let seen: Vec<_> = double
        .server()
        .calls()
        .into_iter()
        .filter(|call| call.account == account)
        .map(|call| format!("{} {} {}", call.verb, call.resource, call.code))
        .collect();
    assert_eq!(seen[..3], ["get clusters 200", "patch clusters/status 200", "patch clusters 403"]);
}

#[tokio::test]
async fn the_webhook_refuses_main_writes_only() {
    let (double, api) = one().await;
    double.server().set_webhook_down(true);
    let fence = json!({ "metadata": { "annotations": { "cnpg.io/fencedInstances": "[\"*\"]" } } });
    let (code, reason, message) = refused(patch(&api, fence.clone()).await);
    assert_eq!((code, reason.as_str()), (500, "InternalError"));
    assert!(message.contains("failed calling webhook"), "{message}");
    patch_status(&api, json!({ "status": { "targetPrimary": "pg-a-1" } })).await.unwrap();
    double.server().set_webhook_down(false);
    patch(&api, fence).await.unwrap();
}

#[tokio::test]
async fn what_breaks_a_rule_of_cloudnativepg_is_refused_with_its_words() {
    let (_double, api) = one().await;
    let token = super::super::token::encode(b"{}");
    let cases = [
        (
            json!({ "spec": { "replica": { "enabled": true } } }),
            "not compatible with the primary field",
        ),
        (json!({ "spec": { "replica": { "source": "pg-x" } } }), "External cluster pg-x not found"),
        (
            json!({ "spec": { "replica": { "source": null } } }),
            "spec.replica.source: Required value",
        ),
        (
            json!({ "spec": { "replica": { "promotionToken": "no" } } }),
            "Invalid promotionToken format",
        ),
        (
            json!({ "spec": { "replica": { "promotionToken": token } } }),
            "Invalid promotionToken content",
        ),
        (
            json!({ "spec": { "replica": { "promotionToken": token, "primary": "pg-b" } } }),
            "promotionToken is only allowed for primary clusters",
        ),
        (
            json!({ "spec": { "replica": { "promotionToken": token, "minApplyDelay": "1h" } } }),
            "minApplyDelay cannot be applied with a promotion token",
        ),
        (
            json!({ "spec": { "externalClusters": [{ "name": "pg-a" }, { "name": "pg-b", "plugin": {} }] } }),
            "one of connectionParameters, plugin and barmanObjectStore is required",
        ),
        (json!({ "spec": { "instances": 0 } }), "should be greater than or equal to 1"),
        (json!({ "spec": { "switchoverDelay": "30" } }), "must be of type integer"),
        (
            json!({ "spec": { "primaryLease": { "renewDeadlineSeconds": 15 } } }),
            "must be greater than renewDeadlineSeconds",
        ),
        (
            json!({ "metadata": { "annotations": { "cnpg.io/hibernation": "yes" } } }),
            "should be \"on\" or \"off\"",
        ),
    ];
    for (body, wanted) in cases {
        let (code, reason, message) = refused(patch(&api, body.clone()).await);
        assert_eq!((code, reason.as_str()), (422, "Invalid"), "{body}: {message}");
        assert!(message.contains(wanted), "{body}: {message}");
    }
    let mut other = manifest();
    other["metadata"]["name"] = "pg-b".into();
    other["spec"]["replica"]["self"] = "pg-b".into();
    let (_, _, message) = refused(create(&api, other).await);
    assert!(message.contains("compatible only with pg_basebackup or recovery"), "{message}");
    let fence = json!({ "metadata": { "annotations": { "cnpg.io/fencedInstances": "no JSON" } } });
    patch(&api, fence).await.expect("nobody looks at the fence");
}

#[tokio::test]
async fn a_change_of_roles_is_forbidden_while_another_one_is_under_way() {
    let (_double, api) = one().await;
    let switching = json!({ "status": { "switchReplicaClusterStatus": { "inProgress": true } } });
    patch_status(&api, switching).await.unwrap();
    let (code, _, message) =
        refused(patch(&api, json!({ "spec": { "replica": { "primary": "pg-b" } } })).await);
    assert_eq!(code, 422);
    assert!(
        message.contains("cannot modify the field while there is an ongoing operation"),
        "{message}"
    );
    patch(&api, json!({ "metadata": { "annotations": { "a": "b" } } })).await.unwrap();
}

#[tokio::test]
async fn an_old_fault_of_the_object_blocks_every_patch_unless_validation_is_off() {
    let (_double, api) = one().await;
    let off = json!({ "metadata": { "annotations": { "cnpg.io/validation": "disabled" } } });
    patch(&api, off).await.unwrap();
    patch(&api, json!({ "spec": { "replica": { "source": "pg-x" } } })).await.unwrap();
    let on = json!({ "metadata": { "annotations": { "cnpg.io/validation": null, "n": "1" } } });
    assert_eq!(refused(patch(&api, on).await).0, 422);
    patch(&api, json!({ "metadata": { "annotations": { "n": "1" } } })).await.unwrap();
}

#[tokio::test]
async fn what_a_pod_may_do_by_itself_is_a_switchover_and_no_fence() {
    let (double, _) = one().await;
    double.server().set_account("pod", "pod", rules(super::super::world::MANAGER).unwrap());
    let api = clusters(&double.kube("pod"));
    patch_status(&api, json!({ "status": { "targetPrimary": "pg-a-2" } })).await.unwrap();
    let fence = json!({ "metadata": { "annotations": { "cnpg.io/fencedInstances": "[\"*\"]" } } });
    assert_eq!(refused(patch(&api, fence).await).0, 403);
}

#[tokio::test]
async fn a_pod_goes_once_it_has_ended() {
    let double = Double::start(&Options { actors: false, ..Options::default() });
    let pods: Api<Pod> = Api::namespaced(client(&double, ADMIN_TOKEN), NAMESPACE);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "pg-a-1", "labels": { "cnpg.io/cluster": "pg-a" } },
        "spec": { "containers": [] },
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let of = |label: &str| ListParams::default().labels(label);
    assert_eq!(pods.list(&of("cnpg.io/cluster=pg-a")).await.unwrap().items.len(), 1);
    assert_eq!(pods.list(&of("cnpg.io/cluster=pg-b")).await.unwrap().items.len(), 0);
    let uid = pods.get("pg-a-1").await.unwrap().metadata.uid;
    let preconditions =
        Some(kube::api::Preconditions { uid: Some("x".to_owned()), resource_version: None });
    let wrong = DeleteParams { preconditions, ..DeleteParams::default() };
    assert_eq!(refused(pods.delete("pg-a-1", &wrong).await).0, 409);
    pods.delete("pg-a-1", &DeleteParams::default()).await.unwrap();
    let going = pods.get("pg-a-1").await.unwrap().metadata;
    assert!(going.deletion_timestamp.is_some());
    assert_eq!(going.uid, uid);
    pods.delete("pg-a-1", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(refused(pods.get("pg-a-1").await).0, 404);
}
