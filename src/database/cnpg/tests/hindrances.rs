//! What stands against a promotion is known before anybody tries one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::hindrance::{self, Rehearsal};
use super::super::observe::observe;
use super::super::part::Data;
use super::super::{cluster::Cluster, keeper};
use super::api::Say;
use super::site::{Site, replica};
use super::{until, within};

const LOOK: Duration = Duration::from_secs(5);

async fn hindered(site: &Site) -> Option<String> {
    observe(&site.shared, LOOK).await.hindered
}

#[tokio::test]
async fn a_cluster_that_is_not_read_hinders_until_it_is() {
    within(async {
        let site = Site::standby(replica()).await;
        assert_eq!(hindered(&site).await, None);
        for (say, words) in [
            (Say::code(403, "no"), "not allowed to get clusters"),
            (Say::code(401, "no"), "not allowed to get clusters"),
            (Say::code(404, "no"), "there is no clusters"),
            (Say::Text("{}".to_owned()), "not understood"),
        ] {
            site.api.world().always = vec![("get", say)];
            site.shared.read().await.unwrap_err();
            let why = hindered(&site).await.unwrap();
            assert!(why.contains(words), "{why}");
            site.api.world().always.clear();
            site.shared.read().await.unwrap();
            assert_eq!(hindered(&site).await, None);
        }
        // What passes hinders nobody: it may have passed when a promotion comes.
        for say in [Say::Nothing, Say::code(503, "x"), Say::code(429, "x")] {
            site.api.world().always = vec![("get", say)];
            site.shared.read().await.unwrap_err();
            assert_eq!(hindered(&site).await, None);
        }
        // Nor does it take back what was said before.
        for say in [Say::code(403, "no"), Say::Nothing, Say::code(503, "x")] {
            site.api.world().always = vec![("get", say)];
            site.shared.read().await.unwrap_err();
            assert!(hindered(&site).await.unwrap().contains("not allowed to get clusters"));
        }
        site.api.world().always.clear();
        let cluster = site.shared.read().await.unwrap();
        assert_eq!(hindered(&site).await, None);
        site.api.world().patches = [Say::code(422, "not by this policy")].into();
        site.shared.rehearse(&cluster).await.unwrap_err();
        assert!(hindered(&site).await.unwrap().contains("not by this policy"));
    })
    .await;
}

#[tokio::test]
async fn what_the_cluster_says_against_a_change_of_roles_hinders() {
    within(async {
        let site = Site::standby(replica()).await;
        for (words, key, value) in [
            ("hibernated", "cnpg.io/hibernation", json!("on")),
            ("does not look after", "cnpg.io/reconciliationLoop", json!("disabled")),
        ] {
            site.api.change(|it| it["metadata"]["annotations"][key] = value);
            site.read().await;
            assert!(hindered(&site).await.unwrap().contains(words));
            site.api.change(|it| it["metadata"]["annotations"] = json!({}));
            site.read().await;
            assert_eq!(hindered(&site).await, None);
        }
        site.api.change(|it| it["spec"]["externalClusters"] = json!([]));
        site.read().await;
        assert!(hindered(&site).await.unwrap().contains("no spec.externalClusters"));
    })
    .await;
}

fn rehearsals(site: &Site) -> usize {
    site.api.world().asked.iter().filter(|call| call.contains("dryRun=All")).count()
}

#[tokio::test]
async fn a_standby_rehearses_now_and_then_and_again_and_again_while_it_may_not() {
    within(async {
        let site = Site::standby(replica()).await;
        let cluster: Cluster = serde_json::from_value::<Cluster>(replica()).unwrap();
        let mut rehearsal = Rehearsal::default();
        for data in [Data::Running, Data::Primary, Data::None] {
            rehearsal.look(&site.shared, &cluster, data).await.unwrap();
        }
        assert_eq!(rehearsals(&site), 0, "whoever leads has changed it already");
        site.api.world().always = vec![("patch", Say::code(403, "no"))];
        for _ in 0..2 {
            let look = rehearsal.look(&site.shared, &cluster, Data::RunningStandby).await;
            assert!(look.unwrap_err().contains("not allowed to patch clusters"));
            assert!(hindered(&site).await.unwrap().contains("not allowed to patch clusters"));
        }
        site.api.world().always.clear();
        for _ in 0..3 {
            rehearsal.look(&site.shared, &cluster, Data::RunningStandby).await.unwrap();
            assert_eq!(hindrance::of(&site.shared), None);
        }
        assert_eq!(rehearsals(&site), 3, "and no more for a while");
    })
    .await;
}

/// The permission of the one does not say anything about the other.
#[tokio::test]
async fn an_instance_rehearses_that_it_is_appointed_too() {
    within(async {
        let mut two = replica();
        two["status"]["instanceNames"] = json!(["pg-1", "pg-2"]);
        let site = Site::standby_instance(two.clone()).await;
        let cluster: Cluster = serde_json::from_value::<Cluster>(two).unwrap();
        site.shared.rehearse(&cluster).await.unwrap();
        let asked: Vec<Value> = site.api.world().asked.iter().map(|it| json!(it)).collect();
        assert_eq!(asked.len(), 2, "{asked:?}");
        let ok = site.api.world().cluster.to_string();
        site.api.world().patches = [Say::Text(ok), Say::code(403, "no")].into();
        site.shared.rehearse(&cluster).await.unwrap_err();
        let why = hindrance::of(&site.shared).unwrap();
        assert!(why.contains("not allowed to patch clusters.postgresql.cnpg.io/status"), "{why}");
    })
    .await;
}

/// Nobody knows what it would be if it came up now: the Cluster may come back as a primary's.
#[tokio::test]
async fn a_cluster_that_was_deleted_says_nothing_about_what_may_run() {
    within(async {
        let site = Site::standby(replica()).await;
        let keeper = tokio::spawn(keeper::serve(Arc::clone(&site.shared)));
        site.until_port_is_free().await;
        site.api.world().always = vec![("get", Say::code(404, "no"))];
        until("the port is held", || site.shared.part.holds()).await;
        assert!(site.shared.last_read().is_none());
        assert!(hindered(&site).await.unwrap().contains("there is no clusters"));
        site.api.world().always.clear();
        site.until_port_is_free().await;
        until("nothing hinders", || hindrance::of(&site.shared).is_none()).await;
        keeper.abort();
    })
    .await;
}
