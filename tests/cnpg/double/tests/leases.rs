//! The lease of a Cluster's primary, where it is in the way.

use std::time::Duration;

use tokio::time::sleep;

use super::{demote, role, sql, target, two_as, until};

#[tokio::test]
async fn a_former_primary_keeps_the_lease_and_nobody_else_is_promoted_until_its_pod_goes() {
    let (a, b) = two_as(|object| {
        if object["metadata"]["name"] == "pg-a" {
            object["spec"]["instances"] = 2.into();
            // The operator's own view of a promotion is another test's.
            object["spec"]["failoverDelay"] = 3600.into();
        }
    })
    .await;
    let token = demote(&a).await;
    role(&b, "pg-b", "pg-b", "pg-a", Some(&token)).await;
    b.until_says("pg-b-1", "select pg_is_in_recovery()", "f").await;
    a.until_healthy("pg-a").await;
    target(&a, "pg-a", "pg-a-2").await;
    a.until("pg-a", |cluster| cluster.current() == "pg-a-2").await;
    a.until_healthy("pg-a").await;
    assert_eq!(a.lease("pg-a")["spec"]["holderIdentity"], "pg-a-1", "it never gave it back");

    role(&a, "pg-a", "pg-a", "pg-b", None).await;
    let heir = a.pod("pg-a-2");
    until(&a, || heir.state().told.iter().any(|text| text.contains("lease not yet acquired")))
        .await;
    // Several times as long as it lasts without being renewed.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(sql(&a, "pg-a-2", "select pg_is_in_recovery()").await, "t");
    a.delete_pod("pg-a-1").await.unwrap();
    a.until_says("pg-a-2", "select pg_is_in_recovery()", "f").await;
    assert_eq!(a.lease("pg-a")["spec"]["holderIdentity"], "pg-a-2");
}
