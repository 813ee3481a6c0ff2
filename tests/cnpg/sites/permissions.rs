//! Permissions that are taken away from an agent, at its start and while it runs: what runs goes on, what is
//! missing is named, and with it back everything works again.

use serde_json::{Value, json};

use super::super::double::api::access::{Rule, rules};
use super::super::manifest::manifest;
use super::kills::leads;
use super::settle::told;
use super::site::{AGENT, ROLE, Site, TOKEN, Two};
use crate::live::checks::{LONG, until_healed};
use crate::live::cluster::until;
use crate::live::orders::{ask, done};

/// What is deployed, without this verb for this resource; all of it without both.
fn allow(site: &Site, verb: &str, resource: &str) {
    let mut rules: Vec<Rule> = rules(&ROLE.replace("[pg]", &format!("[{}]", site.name))).unwrap();
    for rule in rules.iter_mut().filter(|rule| rule.resources.iter().any(|it| it == resource)) {
        let before = rule.verbs.len();
        rule.verbs.retain(|allowed| allowed != verb);
        assert_eq!(rule.verbs.len(), before - 1, "it was not allowed to {verb} {resource}");
    }
    site.double.server().set_account(AGENT, TOKEN, rules);
}

/// All of what is deployed.
fn allow_all(site: &Site) {
    allow(site, "", "");
}

/// A switchover works, and loses nothing.
fn assert_works(mut two: Two, clients: crate::live::client::Pinned) {
    two.b.member.until_follows();
    two.a.member.until_has_candidate();
    two.a.member.until("it knows of nothing against it any more", |status| {
        let against = |of: &Value| !of["hindered"].is_null() || !of["doubtful"].is_null();
        let members = status["members"].as_array().unwrap();
        !against(&status["database"]) && !members.iter().any(against)
    });
    done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(1);
    two.a.member.until_follows();
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

#[test]
fn who_may_not_read_its_cluster_any_more_goes_on_and_says_so() {
    let two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    for site in [&two.a, &two.b] {
        allow(site, "get", "clusters");
        site.member.until_says("not allowed to get clusters.postgresql.cnpg.io");
    }
    let before = clients.count(0);
    std::thread::sleep(LONG);
    assert!(clients.count(0) > before + 50, "the writes stopped\n{}", two.a.member.log());
    let status = two.a.member.until_leads();
    assert_eq!(status["epoch"], 1, "{status:#}");
    two.b.member.until_follows();
    assert_eq!(two.a.fence(), None);
    for site in [&two.a, &two.b] {
        allow_all(site);
    }
    assert_works(two, clients);
}

/// Fenced for the hand-over, and then neither demoted nor opened again: the other one goes on with what it has.
#[test]
fn a_hand_over_of_who_may_not_read_its_cluster_leaves_one_primary() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    allow(&two.a, "get", "clusters");
    // A switchover is refused as soon as it knows.
    let _whatever = ask(&two.a.member, &["failover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(leader(&two));
    allow_all(&two.a);
    until_healed(&two.a.member, &two.b.member);
    clients.assert_never_at_once();
    two.assert_sound();
}

/// Whoever leads.
fn leader(two: &Two) -> usize {
    until("somebody leads", || {
        let sites = [&two.a, &two.b];
        sites.iter().position(|site| leads(site)).ok_or_else(|| told(two))
    })
}

#[test]
fn a_primary_whose_cluster_cannot_be_changed_any_more_goes_on_and_is_not_demoted() {
    let two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    allow(&two.a, "patch", "clusters");
    let asked = ask(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    assert!(!asked.status.success(), "{}", two.a.member.log());
    two.a.member.until_says("not allowed to patch clusters.postgresql.cnpg.io");
    two.a.member.until_leads();
    clients.until_acknowledges(0);
    assert_eq!(two.a.cluster()["spec"]["replica"]["primary"], "pg-a");
    assert_eq!(two.a.fence(), None);
    allow_all(&two.a);
    assert_works(two, clients);
}

/// Before anything is stopped for it.
#[test]
fn who_may_not_read_or_change_its_cluster_is_not_handed_over_to_and_says_why() {
    for verb in ["get", "patch"] {
        let two = Two::start();
        let clients = two.clients();
        clients.until_acknowledges(0);
        let server = two.a.postmaster();
        allow(&two.b, verb, "clusters");
        let why = format!("not allowed to {verb} clusters.postgresql.cnpg.io");
        two.a.member.until("pg-b says why, and is out of the line", |status| {
            let said = status.to_string();
            said.contains(&format!("it could not be promoted: {why}"))
                && status["line"] == json!([])
        });
        let asked = ask(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
        let complaint = String::from_utf8_lossy(&asked.stderr);
        assert!(!asked.status.success() && complaint.contains(&why), "{complaint}");
        assert_eq!(two.a.postmaster(), server, "it was stopped\n{}", two.a.member.log());
        clients.until_acknowledges(0);
        allow_all(&two.b);
        assert_works(two, clients);
    }
}

#[test]
fn a_standby_whose_cluster_cannot_be_changed_takes_over_as_soon_as_it_can() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    allow(&two.b, "patch", "clusters");
    two.a.node_dies();
    two.b.member.until_says("not allowed to patch clusters.postgresql.cnpg.io");
    two.b.assert_silent(LONG);
    assert_eq!(two.b.cluster()["spec"]["replica"]["primary"], "pg-a");
    allow_all(&two.b);
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound_b();
}

#[test]
fn what_is_read_only_to_warn_holds_nothing_up_and_is_named() {
    for (resource, named) in [("leases", "leases.coordination.k8s.io"), ("pods", "pods")] {
        let mut two = Two::empty();
        two.a.create(manifest("pg-a", "pg-a", two.ports()));
        two.a.until_gated();
        two.a.member.start();
        two.a.member.until_leads();
        assert!(!two.a.member.log().contains("is not all known"), "{}", two.a.member.log());
        // Nobody asks for them while it runs.
        allow(&two.a, "get", resource);
        std::thread::sleep(LONG);
        two.a.member.until_leads();
        assert!(!two.a.member.log().contains("not allowed"), "{}", two.a.member.log());
        two.a.member.kill();
        two.a.member.start();
        two.a.member.until_leads();
        two.a.member.until_says(&format!("not allowed to get {named}"));
        assert!(two.a.member.runs());
    }
}

/// Before anything is stopped; and again as soon as it is there.
#[test]
fn a_webhook_that_is_away_at_either_end_keeps_a_switchover_from_being_begun() {
    let two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    let server = two.a.postmaster();
    let refused = |arguments: &[&str], words: &str| {
        let asked = ask(&two.a.member, &[arguments, &["--yes"]].concat());
        let complaint = String::from_utf8_lossy(&asked.stderr);
        assert!(!asked.status.success() && complaint.contains(words), "{complaint}");
        assert!(complaint.contains("failed calling webhook"), "{complaint}");
        assert_eq!(two.a.postmaster(), server, "it was stopped\n{}", two.a.member.log());
        let before = clients.count(0);
        until("it goes on writing", || {
            let goes_on = clients.count(0) > before + 10;
            goes_on.then_some(()).ok_or_else(|| told(&two))
        });
    };
    let of_b = |status: &Value| {
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let b = members.into_iter().find(|it| it["member"] == "pg-b").unwrap_or_default();
        (b["doubtful"].clone(), b["ineligible"].clone())
    };

    two.b.double.server().set_webhook_down(true);
    two.a.member.until("pg-b says what stands against it, and is in line", |status| {
        let (doubtful, ineligible) = of_b(status);
        doubtful != Value::Null && ineligible.is_null() && status["line"] == json!(["pg-b"])
    });
    refused(&["switchover", "--to", "pg-b"], "pg-b could not be promoted now");
    refused(&["switchover"], "pg-b could not be promoted now");
    two.b.double.server().set_webhook_down(false);
    two.a.member.until("pg-b says nothing any more", |status| of_b(status).0.is_null());

    two.a.double.server().set_webhook_down(true);
    let of_a = |status: &Value| status["database"]["doubtful"].clone();
    two.a.member.until("pg-a knows it of itself", |status| !of_a(status).is_null());
    refused(&["switchover", "--to", "pg-b"], "pg-a, the primary, could not be demoted now");
    two.a.double.server().set_webhook_down(false);
    two.a.member.until("pg-a could be demoted", |status| of_a(status).is_null());
    assert_works(two, clients);
}
