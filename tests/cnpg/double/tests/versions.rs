//! What another version of CloudNativePG says of itself, and does.

use serde_json::json;

use super::super::Options;
use super::super::token;
use super::{demote, one, one_as, two, until};

#[tokio::test]
async fn pods_and_tokens_name_the_operator_s_version() {
    let (a, _b) = two().await;
    let made_by = |annotations: &serde_json::Value| annotations["cnpg.io/operatorVersion"].clone();
    assert_eq!(made_by(&a.pod_object("pg-a-1")["metadata"]["annotations"]), "1.30.1");
    let content = token::read(&demote(&a).await).unwrap();
    assert_eq!(content["operatorVersion"], "1.30.1");
}

#[tokio::test]
async fn an_old_version_is_named_and_knows_no_lease() {
    let old = one_as(&Options { version: "1.29.1", ..Options::default() }, |_| {}).await;
    let annotations = old.pod_object("pg-a-1")["metadata"]["annotations"].clone();
    assert_eq!(annotations["cnpg.io/operatorVersion"], "1.29.1");
    assert_eq!(old.lease("pg-a"), json!(null));
    let new = one().await;
    until(&new, || new.lease("pg-a")["spec"]["holderIdentity"] == "pg-a-1").await;
}
