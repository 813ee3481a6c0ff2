//! What is made of a server's own word: whether it follows, is none that could, and which token fits it.

use serde_json::json;

use super::super::cluster::Cluster;
use super::super::part::{Data, Want};
use super::super::promote::may_be_sent;
use super::super::standby::has_followed;
use super::super::us::Us;
use super::site::{END, SYSTEM, Site, cluster, replica, upstream, us};
use super::tokens::token;
use super::{until, within};
use crate::core::event::{Action, Upstream};
use crate::core::ids::{Lsn, TimelineId};
use crate::database::server::look::Seen;

fn read(value: serde_json::Value) -> Cluster {
    serde_json::from_value(value).unwrap()
}

/// What a server in this state says.
fn says(in_recovery: bool, upstream: Option<(&str, u16)>) -> Seen {
    Seen {
        in_recovery,
        system: Some(SYSTEM.parse().unwrap()),
        timeline: TimelineId(2),
        lsn: Lsn(1),
        replayed: Lsn(1),
        streaming: false,
        conninfo: String::new(),
        upstream: upstream.map(|(host, port)| (host.to_owned(), port)),
        standbys: Vec::new(),
    }
}

#[test]
fn a_token_goes_only_with_the_data_it_fits() {
    let foreign = token("7", "2", END);
    let standby = says(true, None);
    let why = may_be_sent(&foreign, Some(&standby)).unwrap_err();
    assert!(why.text().contains("of another database"), "{why:?}");
    assert!(may_be_sent(&foreign, None).is_err(), "nobody knows the data");
    assert!(may_be_sent(&token(SYSTEM, "2", END), Some(&standby)).is_ok());
    assert!(may_be_sent(&foreign, Some(&says(false, None))).is_ok(), "it is open already");
}

#[tokio::test]
async fn what_runs_as_a_primary_follows_nobody() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.shared.part.wants(Want::Open);
        let _postmaster = site.start_postmaster();
        until("its process is seen", || site.shared.part.data() == Data::Running).await;
        for upstream in [Some(upstream()), None] {
            let why = site.act(Action::Follow { upstream }).await.unwrap_err();
            assert!(why.text().contains("it runs as a primary: fence it first"), "{why:?}");
        }
        assert!(site.api.world().sent.is_empty(), "nothing of it is changed");
        let cluster = read(replica());
        let seen = says(false, Some(("b.example", 5432)));
        let why = has_followed(&us(), Some(&cluster), Some(&upstream()), &seen).unwrap_err();
        assert!(why.text().contains("it runs as a primary: fence it first"), "{why:?}");
    })
    .await;
}

#[test]
fn a_standby_follows_when_its_connection_leads_there() {
    let known = read(replica());
    let mut without = replica();
    without["spec"]["externalClusters"][1]["connectionParameters"] = json!({});
    let without = read(without);
    let there = Some(("b.example", 5432));
    for (cluster, connected, follows) in [
        (Some(&known), there, true),
        (Some(&known), Some(("a.example", 5432)), false),
        (Some(&known), Some(("b.example", 5433)), false),
        (Some(&known), None, false),
        // Its entry does not say where it is.
        (Some(&without), Some(("elsewhere", 5432)), true),
        (None, Some(("elsewhere", 5432)), true),
    ] {
        let seen = says(true, connected);
        let has = has_followed(&us(), cluster, Some(&upstream()), &seen).unwrap();
        assert_eq!(has, follows, "{connected:?}");
        assert!(has_followed(&us(), cluster, None, &seen).unwrap(), "nobody is named");
    }
}

/// Inside a site, and of a site that another one stands for, CloudNativePG names whom it follows.
#[test]
fn an_instance_follows_when_it_is_connected_at_all() {
    let mut two = replica();
    two["status"]["instanceNames"] = json!(["pg-1", "pg-2"]);
    two["status"]["currentPrimary"] = json!("pg-2");
    let deputy = read(two.clone());
    two["status"]["currentPrimary"] = json!("pg-1");
    let acting = read(two);
    let us = Us { instance: Some("pg-1".to_owned()), ..us() };
    let at = |site: &str| Upstream { site: Some(site.parse().unwrap()), ..upstream() };
    let rw = Some(("pg-rw", 5432));
    for (cluster, site, connected, follows) in [
        (&deputy, "pg-b", rw, true),
        (&deputy, "pg-b", None, false),
        (&acting, "pg-a", rw, true),
        (&acting, "pg-a", None, false),
        (&acting, "pg-b", rw, false),
        (&acting, "pg-b", Some(("b.example", 5432)), true),
    ] {
        let seen = says(true, connected);
        let has = has_followed(&us, Some(cluster), Some(&at(site)), &seen).unwrap();
        assert_eq!(has, follows, "{site} {connected:?}");
    }
}
