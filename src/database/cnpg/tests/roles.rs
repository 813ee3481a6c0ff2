//! Changes of role: what is asked of the Cluster, what is refused, and what counts as done.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::mark::{FENCED, MARK};
use super::super::part::Want;
use super::super::role;
use super::super::us::Us;
use super::api::{FakeApi, Say};
use super::site::{END, SYSTEM, Site, cluster, ladder, replica, upstream, us};
use super::tokens::token;
use super::{Broken, until, within};
use crate::core::event::{Action, Done};
use crate::core::synchronous::Requirement;
use crate::database::cnpg::token::tests::written;
use crate::database::server::outcome::Failure;

const SHORT: Duration = Duration::from_millis(800);

fn demote() -> Action {
    Action::Demote { to: upstream() }
}

/// Plays operator and instance manager in a demotion.
fn demotes(site: &Site, token: Option<String>) -> tokio::task::JoinHandle<()> {
    let (api, signal, port) = (site.api.clone(), site.file("standby.signal"), site.port);
    tokio::spawn(async move {
        let asked = |api: &FakeApi| api.field("/spec/replica/primary") == "pg-b";
        until("the demotion", || asked(&api)).await;
        api.change(|cluster| {
            cluster["metadata"]["annotations"][FENCED] = json!("[\"*\"]");
            cluster["status"]["switchReplicaClusterStatus"] = json!({ "inProgress": true });
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let is_free = || std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        assert!(!is_free(), "the annotation alone keeps no primary down");
        std::fs::write(signal, "").unwrap();
        // Before the fence is lifted: then the standby comes up at once.
        until("the port is given back", is_free).await;
        api.change(|cluster| {
            cluster["status"]["switchReplicaClusterStatus"] = json!({ "inProgress": false });
            if let Some(token) = token {
                cluster["status"]["demotionToken"] = json!(token);
            }
        });
    })
}

#[tokio::test]
async fn a_clean_primary_is_demoted_and_gives_its_token() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.act(ladder()).await.unwrap();
        let operator = demotes(&site, Some(written(SYSTEM, "2", END)));
        let done = site.act(demote()).await.unwrap();
        let Done::Demoted { token: Some(token) } = done else { panic!("{done:?}") };
        assert_eq!((token.system.to_string().as_str(), token.timeline.0), (SYSTEM, 2));
        assert_eq!(token.value.reveal(), written(SYSTEM, "2", END));
        operator.await.unwrap();
        assert_eq!(
            site.api.field("/spec/replica"),
            json!({
                "self": "pg-a", "primary": "pg-b", "source": "pg-b"
            })
        );
        site.read().await;
        site.until_port_is_free().await;
    })
    .await;
}

#[tokio::test]
async fn a_token_of_another_demotion_is_not_taken_for_this_one_s() {
    within(async {
        for stale in
            [written(SYSTEM, "1", END), written(SYSTEM, "2", "0/2000028"), "b2xk".to_owned()]
        {
            let mut before = cluster();
            before["status"]["demotionToken"] = json!(stale);
            let site = Site::primary(before).await;
            let operator = demotes(&site, None);
            let failure = site.act_for(demote(), Duration::from_secs(2)).await.unwrap_err();
            assert!(matches!(failure, Failure::Cancelled), "{failure:?}");
            operator.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_but_a_clean_primary_that_is_down_is_demoted() {
    within(async {
        for (state, standby, words) in [
            ("in production", false, "did not end cleanly"),
            ("shut down in recovery", true, "standby's data already"),
            ("shut down in recovery", false, "did not end cleanly"),
        ] {
            let site = Site::new(cluster(), state, standby).await;
            let failure = site.act(demote()).await.unwrap_err();
            assert!(
                matches!(&failure, Failure::Refused(why) if why.contains(words)),
                "{failure:?}"
            );
            assert!(site.api.world().sent.is_empty(), "{state}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_demotion_that_would_lift_the_fence_of_another_one_is_refused() {
    within(async {
        for list in [r#"["pg-1"]"#, r#"["pg-7"]"#, r#"["*"]"#] {
            let mut fenced = cluster();
            fenced["metadata"]["annotations"][FENCED] = json!(list);
            let site = Site::primary(fenced).await;
            let failure = site.act(demote()).await.unwrap_err();
            assert!(matches!(&failure, Failure::Refused(why) if why.contains("somebody else")));
            assert_eq!(site.api.field("/spec/replica/primary"), "pg-a");
        }
    })
    .await;
}

#[tokio::test]
async fn a_demotion_that_is_lost_leaves_it_fenced() {
    within(async {
        let site = Site::primary(cluster()).await;
        let failure = site.act_for(demote(), SHORT).await.unwrap_err();
        assert!(matches!(failure, Failure::Cancelled), "{failure:?}");
        assert_eq!(site.shared.part.want(), Want::Fenced);
        assert_eq!(site.api.annotation(FENCED).unwrap(), r#"["*"]"#);
        for annotations in [json!({ FENCED: r#"["*"]"# }), json!({})] {
            site.api.change(|cluster| cluster["metadata"]["annotations"] = annotations);
            site.read().await;
            assert!(!site.is_port_free(), "a primary could come up");
        }
        // The next agent, or the next try, goes on where it was.
        let operator = demotes(&site, Some(written(SYSTEM, "2", END)));
        assert!(matches!(site.act(demote()).await, Ok(Done::Demoted { token: Some(_) })));
        operator.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_former_primary_rejoins_by_a_demotion_or_not_at_all() {
    within(async {
        let site = Site::primary(cluster()).await;
        let operator = demotes(&site, None);
        let rejoin = Action::Rejoin { upstream: upstream() };
        let ended = tokio::time::timeout(Duration::from_secs(15), site.act(rejoin.clone())).await;
        assert_eq!(ended.unwrap().unwrap(), Done::Rejoined { by: "demotion" });
        operator.await.unwrap();

        let crashed = Site::new(cluster(), "in production", false).await;
        let failure = crashed.act(rejoin).await.unwrap_err();
        assert!(failure.text().contains("build it anew"), "{failure:?}");
        assert_eq!(crashed.api.field("/spec/replica/primary"), "pg-a");
    })
    .await;
}

#[test]
fn a_promotion_is_one_patch_with_its_token_and_lifts_only_our_fence() {
    let us = &us();
    let of = |value: &Value, token| {
        role::promotion(&serde_json::from_value(value.clone()).unwrap(), us, token)
    };
    let ours = token(SYSTEM, "2", END);
    let patch = of(&replica(), Some(&ours)).unwrap().unwrap();
    assert_eq!(
        patch,
        json!({ "spec": { "replica": {
        "primary": "pg-a", "promotionToken": ours.value.reveal()
    } } })
    );
    let patch = of(&replica(), None).unwrap().unwrap();
    assert_eq!(patch["spec"]["replica"], json!({ "primary": "pg-a", "promotionToken": null }));
    let mut fenced = replica();
    fenced["metadata"]["annotations"] = json!({ FENCED: "[\"*\"]", MARK: "{\"member\":\"pg-a\"}" });
    let patch = of(&fenced, None).unwrap().unwrap();
    assert_eq!(patch["metadata"]["annotations"], json!({ FENCED: null, MARK: null }));
    // Asked for already: nothing is written twice.
    assert_eq!(of(&cluster(), None).unwrap(), None);
    let mut asked = cluster();
    asked["spec"]["replica"]["promotionToken"] = json!(ours.value.reveal());
    assert_eq!(of(&asked, Some(&ours)).unwrap(), None);
    // A token that was left there is not the one meant.
    assert!(of(&asked, None).unwrap().is_some());
    fenced["metadata"]["annotations"].as_object_mut().unwrap().remove(MARK);
    assert!(of(&fenced, None).is_err());
    let mut switching = replica();
    switching["status"]["switchReplicaClusterStatus"] = json!({ "inProgress": true });
    assert!(of(&switching, None).is_err());
}

#[tokio::test]
async fn only_the_primary_of_its_cluster_is_opened() {
    within(async {
        let site = Site::primary(replica()).await;
        let failure = site.act(Action::StartPrimary).await.unwrap_err();
        assert!(failure.text().contains("its data is a primary's"), "{failure:?}");
        let standby = Site::standby(cluster()).await;
        let failure = standby.act(Action::StartPrimary).await.unwrap_err();
        assert!(failure.text().contains("promote it"), "{failure:?}");
        for site in [site, standby] {
            assert_eq!(site.shared.part.want(), Want::Held);
            assert!(!site.is_port_free());
        }
    })
    .await;
}

#[tokio::test]
async fn what_cloudnativepg_refuses_to_open_stays_shut() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.act(ladder()).await.unwrap();
        until("the fence", || site.api.annotation(FENCED).is_some()).await;
        site.api.world().always = vec![("patch", Say::code(422, "spec: Invalid"))];
        let failure = site.act(Action::StartPrimary).await.unwrap_err();
        assert!(matches!(failure, Failure::Refused(_)), "{failure:?}");
        assert_eq!(site.shared.part.want(), Want::Fenced);
        assert!(!site.is_port_free());
    })
    .await;
}

#[tokio::test]
async fn following_changes_the_cluster_once() {
    within(async {
        let mut before = replica();
        before["spec"]["replica"]["promotionToken"] = json!("b2xk");
        before["spec"]["replica"]["primary"] = json!("pg-a");
        let site = Site::standby(before).await;
        let follow = || Action::Follow { upstream: Some(upstream()) };
        assert!(site.act_for(follow(), SHORT).await.is_err(), "nobody starts it here");
        assert_eq!(
            site.api.field("/spec/replica"),
            json!({
                "self": "pg-a", "primary": "pg-b", "source": "pg-b"
            })
        );
        let sent = site.api.world().sent.len();
        assert!(site.act_for(follow(), SHORT).await.is_err());
        assert_eq!(site.api.world().sent.len(), sent);
        let stranger = Action::Follow {
            upstream: Some(crate::core::event::Upstream {
                member: "pg-z".parse().unwrap(),
                ..upstream()
            }),
        };
        let failure = site.act(stranger).await.unwrap_err();
        assert!(failure.text().contains("not in spec.externalClusters"), "{failure:?}");
    })
    .await;
}

#[tokio::test]
async fn what_only_a_manifest_makes_is_refused() {
    within(async {
        let site = Site::primary(cluster()).await;
        for action in [
            Action::Bootstrap,
            Action::Clone { upstream: upstream() },
            Action::Require { requirement: Requirement::Unsatisfiable },
        ] {
            let failure = site.act(action).await.unwrap_err();
            assert!(matches!(failure, Failure::Refused(_)), "{failure:?}");
        }
        let nobody = Action::Require { requirement: Requirement::Nobody };
        assert!(matches!(site.act(nobody).await, Ok(Done::Required { .. })));
        assert!(site.api.world().calls.is_empty());
    })
    .await;
}

#[tokio::test]
async fn nothing_changes_roles_where_safety_is_not_given() {
    within(async {
        let changes: [Broken; 5] = [
            ("hibernated", |it| {
                it["metadata"]["annotations"]["cnpg.io/hibernation"] = json!("on");
            }),
            ("reconciliationLoop", |it| {
                it["metadata"]["annotations"]["cnpg.io/reconciliationLoop"] = json!("disabled");
            }),
            ("enabled", |it| it["spec"]["replica"]["enabled"] = json!(true)),
            ("externalClusters", |it| it["spec"]["externalClusters"] = json!(null)),
            ("spec.instances is 3", |it| it["spec"]["instances"] = json!(3)),
        ];
        for (words, change) in changes {
            let mut broken = cluster();
            change(&mut broken);
            let site = Site::primary(broken).await;
            for action in [Action::StartPrimary, demote()] {
                let failure = site.act_for(action.clone(), SHORT).await.unwrap_err();
                assert!(failure.text().contains(words), "{action:?}: {failure:?}");
            }
            assert_eq!(site.api.field("/spec/replica/primary"), "pg-a");
            assert!(matches!(site.act(ladder()).await, Ok(Done::Fenced(_))), "a fence always is");
        }
    })
    .await;
}

#[tokio::test]
async fn two_changes_of_ours_do_not_cross() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.shared.part.wants(Want::Fenced);
        let (one, two) = (Arc::clone(&site.shared), Arc::clone(&site.shared));
        let (one, two) =
            tokio::join!(super::super::fence::request(&one), super::super::fence::request(&two));
        one.unwrap();
        two.unwrap();
        assert_eq!(site.api.world().sent.len(), 1);
    })
    .await;
}

/// Its manager would rewind it, and not bring up what it was.
#[test]
fn an_instance_that_is_passed_over_does_not_open() {
    let instance = Us { instance: Some("pg-1".to_owned()), site: None, ..us() };
    let opened = |target: &str| {
        let mut value = cluster();
        value["status"]["targetPrimary"] = json!(target);
        role::opening(&serde_json::from_value(value).unwrap(), &instance)
    };
    for own in ["pg-1", ""] {
        assert!(matches!(opened(own), Ok(None)), "{own:?}");
    }
    for other in ["pg-2", "pending"] {
        let Err(Failure::Refused(why)) = opened(other) else { panic!("{other} does not count") };
        assert!(why.contains(&format!("make {other} the primary")), "{why}");
    }
}
