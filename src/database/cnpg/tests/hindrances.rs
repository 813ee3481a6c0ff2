//! What stands against a promotion is known before anybody tries one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::hindrance::{self, DOUBTED, Rehearsal};
use super::super::observe::observe;
use super::super::part::Data;
use super::super::{cluster::Cluster, keeper};
use super::api::Say;
use super::site::{Site, cluster, replica};
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
async fn who_runs_rehearses_now_and_then_and_again_and_again_while_it_may_not() {
    for data in [Data::RunningStandby, Data::Running] {
        within(async {
            let site = Site::standby(replica()).await;
            let cluster: Cluster = serde_json::from_value::<Cluster>(replica()).unwrap();
            let mut rehearsal = Rehearsal::default();
            for data in [Data::Primary, Data::None] {
                rehearsal.look(&site.shared, &cluster, data).await.unwrap();
            }
            assert_eq!(rehearsals(&site), 0, "nothing of it is to change");
            site.api.world().always = vec![("patch", Say::code(403, "no"))];
            for _ in 0..2 {
                let look = rehearsal.look(&site.shared, &cluster, data).await;
                assert!(look.unwrap_err().contains("not allowed to patch clusters"));
                assert!(hindered(&site).await.unwrap().contains("not allowed to patch clusters"));
            }
            site.api.world().always.clear();
            for _ in 0..3 {
                rehearsal.look(&site.shared, &cluster, data).await.unwrap();
                assert_eq!(hindrance::of(&site.shared), None);
            }
            assert_eq!(rehearsals(&site), 3, "and no more for a while");
        })
        .await;
    }
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

fn webhook() -> Say {
    Say::code(500, "failed calling webhook \"mcluster.cnpg.io\": no endpoints available")
}

/// Rehearses as if it were time to.
async fn rehearse(site: &Site, data: Data) -> Result<(), String> {
    let cluster = site.shared.api.read().await.unwrap();
    Rehearsal::default().look(&site.shared, &cluster, data).await
}

async fn doubtful(site: &Site) -> Option<String> {
    let seen = observe(&site.shared, LOOK).await;
    assert_eq!(seen.hindered, None);
    seen.doubtful
}

#[tokio::test]
async fn what_keeps_failing_is_a_doubt_until_it_succeeds_once() {
    within(async {
        let site = Site::standby(replica()).await;
        for (say, words) in [
            (webhook(), "while CloudNativePG's operator does not answer"),
            (Say::code(503, "x"), "the API server failed"),
            (Say::code(429, "x"), "too much to do"),
            (Say::Nothing, "no answer"),
        ] {
            for data in [Data::RunningStandby, Data::Running] {
                site.api.world().always = vec![("patch", say.clone())];
                for _ in 1..DOUBTED {
                    rehearse(&site, data).await.unwrap();
                    assert_eq!(doubtful(&site).await, None, "it may be over in a moment");
                }
                let why = rehearse(&site, data).await.unwrap_err();
                assert!(why.contains(words), "{why}");
                assert_eq!(doubtful(&site).await, Some(why));
                site.api.world().always.clear();
                rehearse(&site, data).await.unwrap();
                assert_eq!(doubtful(&site).await, None);
            }
        }
    })
    .await;
}

/// Somebody else's change says nothing; what lasts is said otherwise.
#[tokio::test]
async fn only_failures_in_a_row_are_a_doubt() {
    within(async {
        let site = Site::standby(replica()).await;
        let says = |say: Say| site.api.world().patches = [say].into();
        for between in [None, Some(Say::code(403, "no"))] {
            for round in 0..2 {
                for _ in 1..DOUBTED {
                    says(webhook());
                    rehearse(&site, Data::RunningStandby).await.unwrap();
                }
                if round == 0 {
                    let is_fine = between.is_none();
                    between.clone().into_iter().for_each(says);
                    let rehearsed = rehearse(&site, Data::RunningStandby).await;
                    assert_eq!(rehearsed.is_ok(), is_fine, "{rehearsed:?}");
                }
                assert_eq!(site.shared.hindrance.doubt(), None);
            }
            rehearse(&site, Data::RunningStandby).await.unwrap();
        }
        for _ in 1..DOUBTED {
            says(webhook());
            rehearse(&site, Data::RunningStandby).await.unwrap();
            says(Say::code(409, "x"));
            rehearse(&site, Data::RunningStandby).await.unwrap();
        }
        assert_eq!(site.shared.hindrance.doubt(), None);
        says(webhook());
        rehearse(&site, Data::RunningStandby).await.unwrap_err();
        says(Say::code(409, "x"));
        rehearse(&site, Data::RunningStandby).await.unwrap_err();
        assert!(site.shared.hindrance.doubt().is_some());
    })
    .await;
}

/// A Cluster that cannot be read cannot be changed.
#[tokio::test]
async fn an_api_server_that_cannot_be_read_is_a_doubt_too() {
    within(async {
        let site = Site::standby(replica()).await;
        let tend = async |data: Data| {
            keeper::tend(&site.shared, data, &mut keeper::Watches::default()).await
        };
        for say in [Say::code(503, "x"), Say::Nothing] {
            site.api.world().always = vec![("get", say)];
            for data in [Data::Primary, Data::None] {
                for _ in 0..DOUBTED {
                    tend(data).await.unwrap_err();
                }
                assert_eq!(doubtful(&site).await, None, "nothing of it is to change");
            }
            for _ in 1..DOUBTED {
                tend(Data::RunningStandby).await.unwrap_err();
            }
            assert_eq!(doubtful(&site).await, None);
            tend(Data::Running).await.unwrap_err();
            assert!(doubtful(&site).await.is_some());
            site.api.world().always.clear();
            tend(Data::RunningStandby).await.unwrap();
            assert_eq!(doubtful(&site).await, None);
        }
        site.api.world().always = vec![("get", Say::code(403, "no"))];
        for _ in 0..DOUBTED {
            tend(Data::RunningStandby).await.unwrap_err();
        }
        assert_eq!(site.shared.hindrance.doubt(), None, "it is known to last");
    })
    .await;
}

#[tokio::test]
async fn a_change_that_is_due_and_fails_is_in_no_rehearsal_s_way() {
    within(async {
        let mut used = cluster();
        used["spec"]["replica"]["promotionToken"] = json!("used");
        used["status"]["lastPromotionToken"] = json!("used");
        let site = Site::primary(used).await;
        site.api.world().always = vec![("patch", webhook())];
        for _ in 1..DOUBTED {
            rehearse(&site, Data::Running).await.unwrap();
        }
        let mut watches = keeper::Watches::default();
        let tended = keeper::tend(&site.shared, Data::Running, &mut watches);
        assert!(tended.await.unwrap_err().contains("not changed"));
        assert!(site.shared.hindrance.doubt().is_some());
    })
    .await;
}

#[tokio::test]
async fn a_rehearsal_that_failed_is_repeated_sooner_than_one_that_did_not() {
    within(async {
        let site = Site::standby(replica()).await;
        let cluster: Cluster = serde_json::from_value::<Cluster>(replica()).unwrap();
        let mut fine = Rehearsal::default();
        fine.look(&site.shared, &cluster, Data::Running).await.unwrap();
        let mut failed = Rehearsal::default();
        site.api.world().patches = [webhook()].into();
        failed.look(&site.shared, &cluster, Data::RunningStandby).await.unwrap();
        failed.look(&site.shared, &cluster, Data::RunningStandby).await.unwrap();
        assert_eq!(rehearsals(&site), 2, "not at once");
        while rehearsals(&site) == 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            fine.look(&site.shared, &cluster, Data::Running).await.unwrap();
            assert_eq!(rehearsals(&site), 2, "the one that did not was quicker");
            failed.look(&site.shared, &cluster, Data::RunningStandby).await.unwrap();
        }
    })
    .await;
}

/// A webhook is asked about changes of the Cluster only: whom the primary's site appoints needs none.
#[tokio::test]
async fn an_instance_that_is_only_appointed_is_in_no_doubt_for_the_webhook() {
    within(async {
        let of = |object: Value| {
            let mut object = object;
            object["status"]["instanceNames"] = json!(["pg-1", "pg-2"]);
            object["status"]["currentPrimary"] = json!("pg-2");
            object["status"]["targetPrimary"] = json!("pg-2");
            object
        };
        for (object, data, appointed) in [
            (of(cluster()), Data::RunningStandby, true),
            (of(replica()), Data::RunningStandby, false),
            (of(cluster()), Data::Running, false),
        ] {
            let site = Site::standby_instance(object).await;
            for _ in 0..DOUBTED {
                site.api.world().patches = [webhook()].into();
                let rehearsed = rehearse(&site, data).await;
                assert!(rehearsed.is_ok() || !appointed, "{rehearsed:?}");
            }
            assert_eq!(site.shared.hindrance.doubt().is_none(), appointed);
            let asked = site.api.world().asked.iter().any(|call| call.contains("/status?"));
            assert_eq!(asked, appointed);
            if appointed {
                for _ in 0..DOUBTED {
                    site.api.world().patches = [webhook(), Say::code(503, "x")].into();
                    let _whatever = rehearse(&site, data).await;
                }
                let why = site.shared.hindrance.doubt().unwrap();
                assert!(why.contains("the API server failed"), "{why}");
            }
        }
    })
    .await;
}
