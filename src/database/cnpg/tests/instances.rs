//! An instance of several that is a member of its own.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::cluster::Cluster;
use super::super::deputy::{may_be_replaced, place};
use super::super::gate::held_back;
use super::super::part::{Comes, Data, Want, comes_up};
use super::super::us::Us;
use super::api::Say;
use super::site::{Site, cluster, ladder, replica, upstream, us};
use super::{Broken, within};
use crate::core::event::{Action, Done, Upstream};
use crate::database::cnpg::mark::{FENCED, MARK};

/// Three instances, of which this one acts and that one is to.
pub(super) fn three(mut cluster: Value, current: &str, target: &str) -> Value {
    cluster["spec"]["instances"] = json!(3);
    let status = &mut cluster["status"];
    status["instanceNames"] = json!(["pg-1", "pg-2", "pg-3"]);
    (status["currentPrimary"], status["targetPrimary"]) = (json!(current), json!(target));
    cluster
}

fn read(value: Value) -> Cluster {
    serde_json::from_value(value).unwrap()
}

fn instance(name: &str) -> Us {
    Us { instance: Some(name.to_owned()), ..us() }
}

#[test]
fn only_who_stands_for_a_replica_site_that_rests_is_replaced() {
    let at_rest = three(replica(), "pg-2", "pg-2");
    let replaced = |change: fn(&mut Value), who: &str| {
        let mut value = at_rest.clone();
        change(&mut value);
        may_be_replaced(&read(value), &instance(who), "pg-2")
    };
    assert!(replaced(|_| (), "pg-1") && replaced(|_| (), "pg-3"));
    let not: [Broken; 7] = [
        ("in a primary's site it would be a promotion", |it| {
            it["spec"]["replica"]["primary"] = json!("pg-a");
        }),
        ("it becomes a replica", |it| {
            it["status"]["switchReplicaClusterStatus"] = json!({ "inProgress": true });
        }),
        ("somebody else was chosen", |it| it["status"]["targetPrimary"] = json!("pg-3")),
        ("somebody else acts", |it| it["status"]["currentPrimary"] = json!("pg-3")),
        ("it is hibernated", |it| {
            it["metadata"]["annotations"]["cnpg.io/hibernation"] = json!("on");
        }),
        ("who acts is fenced by name", |it| {
            it["metadata"]["annotations"][FENCED] = json!(r#"["pg-2"]"#);
        }),
        ("all are fenced", |it| it["metadata"]["annotations"][FENCED] = json!(r#"["*"]"#)),
    ];
    for (why, change) in not {
        assert!(!replaced(change, "pg-1"), "{why}");
    }
    assert!(!replaced(|_| (), "pg-9"), "CloudNativePG does not know it");
    let of = |own| place(&read(at_rest.clone()), own, "pg-2");
    assert_eq!((of("pg-1"), of("pg-3")), (0, 1), "one at a time");
}

#[test]
fn who_is_passed_over_comes_up_as_a_standby_and_who_acts_does_not() {
    for (target, comes) in
        [("pg-2", Comes::Standby), ("pg-1", Comes::Primary), ("", Comes::Primary)]
    {
        let cluster = read(three(cluster(), "pg-1", target));
        assert_eq!(comes_up(Data::Standby, Some(&cluster), &instance("pg-1")), comes, "{target}");
        assert_eq!(comes_up(Data::Primary, Some(&cluster), &instance("pg-1")), Comes::Primary);
    }
    let acts = |value| instance("pg-1").acting(&read(value)).map(str::to_owned);
    assert_eq!(acts(three(cluster(), "pg-1", "pg-2")).as_deref(), Some("pg-2"));
    assert_eq!(acts(three(cluster(), "pg-1", "pg-1")), None);
    assert_eq!(acts(three(replica(), "pg-2", "pg-2")).as_deref(), Some("pg-2"));
}

/// Only its manager makes a standby of it, and what that starts before does not get the port.
#[tokio::test]
async fn the_gate_lets_in_who_is_passed_over_while_its_port_is_held() {
    within(async {
        let site = Site::instance(three(cluster(), "pg-1", "pg-1")).await;
        site.read().await;
        assert!(held_back(&site.shared).is_some());
        site.api.change(|it| it["status"]["targetPrimary"] = json!("pg-2"));
        site.read().await;
        assert_eq!(held_back(&site.shared), None);
        assert!(!site.is_port_free());
        let mut old = site.shared.last_read().unwrap();
        old.at = Instant::now() - Duration::from_secs(11);
        *site.shared.read.lock().unwrap() = Some(old);
        assert!(held_back(&site.shared).is_some(), "that was long ago");
        site.read().await;
        site.shared.part.give_back();
        assert!(held_back(&site.shared).is_some(), "nothing keeps it from coming up");
    })
    .await;
}

/// One that is fenced would keep CloudNativePG's lease.
#[tokio::test]
async fn a_fence_of_one_of_several_is_the_port_without_the_annotation() {
    within(async {
        let site = Site::instance(three(cluster(), "pg-1", "pg-1")).await;
        assert!(matches!(site.act(ladder()).await, Ok(Done::Fenced(_))));
        site.read().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(site.api.annotation(FENCED), None);
        assert!(!site.is_port_free());
    })
    .await;
}

#[tokio::test]
async fn the_lease_of_managers_is_passed_on_for_oneself_only() {
    within(async {
        let site = Site::instance(three(cluster(), "pg-1", "pg-2")).await;
        for (holder, left) in [("pg-1", "pg-2"), ("pg-3", "pg-3"), ("", "")] {
            holder.clone_into(&mut site.api.world().holder);
            site.shared.api.pass_lease("pg-1", "pg-2").await.unwrap();
            assert_eq!(site.api.world().holder, left);
        }
    })
    .await;
}

#[tokio::test]
async fn whoever_opens_has_cloudnativepg_mean_it_first() {
    within(async {
        let site = Site::instance(three(cluster(), "pg-2", "pg-2")).await;
        let limit = Duration::from_millis(700);
        assert!(site.act_for(Action::StartPrimary, limit).await.is_err(), "nobody starts it here");
        assert_eq!(site.api.field("/status/targetPrimary"), "pg-1");
        let sent = site.api.world().sent.clone();
        assert_eq!(sent[0]["status"]["phase"], "Switchover in progress", "{sent:?}");
        assert_eq!(sent[0]["metadata"]["resourceVersion"], "100", "{sent:?}");
        assert_eq!(sent.len(), 1, "and once: {sent:?}");
        assert!(site.is_port_free());

        let unknown = Site::instance(three(cluster(), "pg-2", "pg-2")).await;
        unknown.api.change(|it| it["status"]["instanceNames"] = json!(["pg-2"]));
        let why = unknown.act_for(Action::StartPrimary, limit).await.unwrap_err();
        assert!(why.text().contains("knows no instance pg-1"), "{why:?}");
        // Nor is one meant that a person has fenced: its manager would never let go of CloudNativePG's lease.
        unknown.api.change(|it| {
            it["status"]["instanceNames"] = json!(["pg-1", "pg-2"]);
            it["metadata"]["annotations"][FENCED] = json!(r#"["pg-1"]"#);
        });
        let why = unknown.act_for(Action::StartPrimary, limit).await.unwrap_err();
        assert!(why.text().contains("somebody else has fenced"), "{why:?}");
        assert_eq!(unknown.api.field("/status/targetPrimary"), "pg-2");
        assert!(!unknown.is_port_free());
    })
    .await;
}

/// The agent beside the one that acted fenced all, to demote the site, and died.
#[tokio::test]
async fn who_takes_over_is_meant_before_it_lifts_the_fence_of_who_acted() {
    within(async {
        let mut fenced = three(cluster(), "pg-2", "pg-2");
        fenced["metadata"]["annotations"] =
            json!({ FENCED: "[\"*\"]", MARK: "{\"member\":\"pg-2\"}" });
        let site = Site::standby_instance(fenced.clone()).await;
        let limit = Duration::from_millis(700);
        assert!(site.act_for(Action::Promote, limit).await.is_err(), "nobody starts it here");
        let sent = site.api.world().sent.clone();
        assert_eq!(sent[0]["status"]["targetPrimary"], "pg-1", "{sent:?}");
        let lifted = json!({ FENCED: null, MARK: null });
        assert_eq!(sent[1]["metadata"]["annotations"], lifted, "{sent:?}");
        assert_eq!(sent.len(), 2, "{sent:?}");

        fenced["metadata"]["annotations"].as_object_mut().unwrap().remove(MARK);
        let theirs = Site::standby_instance(fenced).await;
        let why = theirs.act_for(Action::Promote, limit).await.unwrap_err();
        assert!(why.text().contains("somebody else has fenced"), "{why:?}");
        assert!(theirs.api.world().sent.is_empty(), "nor is it meant");
    })
    .await;
}

/// It is the whole Cluster that `*` would stop, with the primary.
#[tokio::test]
async fn a_standby_that_stays_down_is_started_again_without_stopping_anybody_else() {
    within(async {
        let site = Site::standby_instance(three(cluster(), "pg-2", "pg-2")).await;
        site.read().await;
        let beside = Upstream { site: Some("pg-a".parse().unwrap()), ..upstream() };
        let follow = Action::Follow { upstream: Some(beside) };
        let _cancelled = site.act_for(follow, Duration::from_secs(13)).await;
        let sent = site.api.world().sent.clone();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0]["metadata"]["annotations"][FENCED], r#"["pg-1"]"#, "{sent:?}");
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_is_gone_or_going_is_not_ready() {
    within(async {
        let site = Site::instance(three(replica(), "pg-2", "pg-2")).await;
        assert!(!site.shared.api.is_ready("pg-2").await.unwrap(), "there is none");
        site.api.world().operator = Some("1.30.1".to_owned());
        assert!(!site.shared.api.is_ready("pg-2").await.unwrap());
        site.api.world().ready = true;
        assert!(site.shared.api.is_ready("pg-2").await.unwrap());
        let cancel = CancellationToken::new();
        let never = site.shared.api.appoint("pg-1", |_| Ok(false), &cancel).await.unwrap();
        assert_eq!(never.status.target_primary, "pg-2", "nobody wants it any more");
        assert_eq!(site.api.world().sent, Vec::<Value>::new());
    })
    .await;
}

/// Two agents of one site that both believe that theirs is the instance that acts: one has read that before it changed.
#[tokio::test]
async fn of_two_that_believe_that_they_stand_for_the_site_one_changes_it() {
    within(async {
        let limit = Duration::from_millis(700);
        let before = three(replica(), "pg-2", "pg-2");
        let first = Site::standby_instance(before.clone()).await;
        let second = first.beside();
        first.api.change(|it| {
            it["status"]["currentPrimary"] = json!("pg-1");
            it["status"]["targetPrimary"] = json!("pg-1");
        });
        // What it looks at before it changes anything, and what it decides on.
        first.api.world().gets = [before.to_string(), before.to_string()].map(Say::Text).into();
        let why = second.act_for(Action::Promote, limit).await.unwrap_err();
        assert!(why.text().contains("pg-1 stands for the site"), "{why:?}");
        let sent = first.api.world().sent.clone();
        assert_eq!(sent.len(), 1, "it did decide on what was not so any more: {sent:?}");
        assert_eq!(first.api.field("/spec/replica/primary"), "pg-b");
        assert_eq!(second.shared.part.want(), Want::Held);

        assert!(first.act_for(Action::Promote, limit).await.is_err(), "nobody promotes it here");
        assert_eq!(first.api.field("/spec/replica/primary"), "pg-a");
    })
    .await;
}
