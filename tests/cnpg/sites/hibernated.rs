//! A site whose Cluster is put to sleep: the operator deletes its pod, and the agent goes with that. One
//! that still runs changes no role of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::site::{Site, Two};
use crate::live::checks::LONG;
use crate::live::cluster::until;
use crate::live::orders::ask;

/// Puts the Cluster to sleep, or wakes it up.
fn hibernate(site: &Site, value: Option<&str>) {
    site.patch(json!({ "metadata": { "annotations": { "cnpg.io/hibernation": value } } }));
}

fn until_asleep(site: &Site) {
    until("the pod is gone", || {
        let gone = site.double.pod_object(&site.pod.name).is_null() && !site.pod.state().container;
        gone.then_some(()).ok_or_else(|| format!("{}\n{}", site.double.told(), site.member.log()))
    });
    assert!(site.postmaster().is_none(), "{}", site.double.told());
}

/// The pod is there again, and its PostgreSQL has not been let in yet.
fn wake_up(site: &mut Site) {
    hibernate(site, None);
    site.until_gated();
    site.assert_silent(Duration::from_secs(1));
    site.member.start();
}

fn said(two: &Two) -> Value {
    two.b.member.status()
}

#[test]
fn the_other_site_takes_over_from_one_that_sleeps_and_gets_it_back_as_a_standby() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    hibernate(&two.a, Some("on"));
    until_asleep(&two.a);
    // A sidecar is told to end when PostgreSQL's container has.
    let ended = two.a.member.stop();
    assert!(ended.success(), "{ended}\n{}", two.a.member.log());
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    assert_eq!(two.a.cluster()["spec"]["replica"]["primary"], "pg-a", "nobody was there to say so");
    assert!(two.a.postmaster().is_none());

    wake_up(&mut two.a);
    two.a.member.until_follows();
    two.b.member.until_has_candidate();
    assert_eq!(said(&two)["epoch"], 2, "{:#}", said(&two));
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

#[test]
fn an_agent_that_outlives_its_pod_gives_the_lease_up_and_changes_no_role_until_it_is_woken_up() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    hibernate(&two.a, Some("on"));
    clients.until_acknowledges(1);
    until_asleep(&two.a);
    two.a.member.until_alarm("rejoin_failed");
    two.a.member.until_says("the Cluster is hibernated (annotation cnpg.io/hibernation)");
    std::thread::sleep(LONG);
    assert!(two.a.postmaster().is_none() && !two.a.member.is_writable());
    assert_eq!(two.a.cluster()["spec"]["replica"]["primary"], "pg-a", "its role was changed");
    let refused = ask(&two.b.member, &["switchover", "--to", "pg-a", "--yes"]);
    assert!(!refused.status.success(), "{}", two.a.member.log());
    two.b.member.until_leads();

    // It is still asleep when somebody starts an agent: that says so, and leaves everything as it is.
    two.a.member.kill();
    two.a.member.start();
    two.a.member.until_says("the Cluster is hibernated (annotation cnpg.io/hibernation)\"");
    hibernate(&two.a, None);
    two.a.member.until_follows();
    two.b.member.until_has_candidate();
    let status = two.a.member.until("the alarm is over", |it| it["alarms"] == json!([]));
    assert_eq!(status["is_primary"], false, "{status:#}");
    assert_eq!(two.a.fence(), None, "{:#}", two.a.cluster());
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

#[test]
fn a_standby_that_sleeps_is_nobody_to_hand_over_to() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    hibernate(&two.b, Some("on"));
    until_asleep(&two.b);
    two.a.member.until("nobody streams", |status| status["database"]["standbys"] == json!([]));
    two.b.member.until_says("the Cluster is hibernated (annotation cnpg.io/hibernation)");
    let refused = ask(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    assert!(!refused.status.success(), "{}", two.b.member.log());
    assert_eq!(two.b.cluster()["spec"]["replica"]["primary"], "pg-a");
    clients.until_acknowledges(0);

    // With nobody left the data is worth waiting for.
    let acknowledged = clients.count(0);
    two.a.node_dies();
    std::thread::sleep(LONG);
    assert!(!two.b.member.is_writable() && two.b.postmaster().is_none());
    two.a.node_comes_back();
    clients.until_acknowledges(0);
    two.a.member.until_leads();
    hibernate(&two.b, None);
    two.b.member.until_follows();
    two.a.member.until_has_candidate();
    assert!(clients.count(0) > acknowledged);
    clients.assert_one_after_the_other(&[0]);
    two.assert_sound();
}
