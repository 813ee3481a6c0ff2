//! What is wrong with the Cluster, the permissions or the answers is said in clear words, and harms nobody.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::double::api::access::rules;
use super::super::double::api::faults::{Answer, Fault};
use super::super::manifest::{NAMES, manifest};
use super::site::{AGENT, Site, TOKEN, Two};
use crate::live::cluster::{Member, Place, free_ports};

/// One site without anybody who works there, and what its agent ends with.
fn ends_with(change: impl Fn(&mut Value), role: &str, words: &[&str]) {
    let place = Place::new();
    place.give_away(&place.path().join("store"));
    let mut site = Site::idle(&place, NAMES[0]);
    let mut object = manifest("pg-a", "pg-a", [1, 2]);
    object["metadata"]["annotations"] = json!({ "cnpg.io/validation": "disabled" });
    change(&mut object);
    if object.is_object() {
        site.create(object);
    }
    if !role.is_empty() {
        site.double.server().set_account(AGENT, TOKEN, rules(role).unwrap());
    }
    let ended = site.member.run();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{text}");
    for words in words {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(!text.contains("panicked") && !text.contains(TOKEN), "{text}");
}

#[test]
fn a_cluster_that_cannot_be_led_is_refused_at_the_start() {
    type Change = fn(&mut Value);
    let cases: [(Change, &[&str]); 6] = [
        (|object| *object = Value::Null, &["there is no clusters.postgresql.cnpg.io", "pg-a"]),
        (
            |object| object["spec"]["replica"]["enabled"] = json!(false),
            &["spec.replica.enabled is set", "remove it"],
        ),
        (
            |object| object["spec"]["externalClusters"] = json!([]),
            &["there is no spec.externalClusters", "list all sites"],
        ),
        (
            |object| object["spec"]["replica"]["self"] = json!("pg-b"),
            &["member is pg-a", "\\\"pg-b\\\"", "make them equal"],
        ),
        (|object| object["spec"]["instances"] = json!(2), &["spec.instances is 2"]),
        (
            |object| object["spec"]["replica"]["minApplyDelay"] = json!("5m"),
            &["spec.replica.minApplyDelay is set"],
        ),
    ];
    for (change, words) in cases {
        ends_with(change, "", words);
    }
}

#[test]
fn a_permission_that_is_missing_is_named_at_the_start() {
    let role = |verbs: &str| {
        format!(
            "kind: Role\nrules:\n- {{apiGroups: [postgresql.cnpg.io], resources: [clusters], verbs: [{verbs}]}}\n"
        )
    };
    let words: &[&str] = &["not allowed to", "clusters.postgresql.cnpg.io", "give the agent"];
    ends_with(|_| (), &role("patch"), &[words, &["to get"]].concat());
    ends_with(|_| (), &role("get"), &[words, &["to patch"]].concat());
}

#[test]
fn conflicts_full_servers_and_lost_answers_hold_nothing_up_for_long() {
    let mut two = Two::empty();
    let faults = || {
        let on = |answer, times| Fault::times(answer, times).of(AGENT);
        vec![
            on(Answer::Conflict, 4).on("patch", "clusters"),
            on(Answer::Lost, 2).on("patch", "clusters"),
            on(Answer::TooMany(1), 1),
            on(Answer::Server(500), 2),
            on(Answer::Server(503), 1),
            on(Answer::Server(410), 2),
        ]
    };
    two.found();
    for site in [&two.a, &two.b] {
        site.double.server().set_faults(faults());
    }
    let clients = two.clients();
    clients.until_acknowledges(0);
    crate::live::orders::done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(1);
    two.a.member.until_follows();
    let failed = |site: &Site| {
        let calls = site.double.server().calls();
        calls.iter().filter(|call| call.account == AGENT && call.code >= 400).count()
    };
    assert!(failed(&two.a) >= 8 && failed(&two.b) >= 8, "{} {}", failed(&two.a), failed(&two.b));
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

#[test]
fn a_fence_that_is_no_list_fences_nobody_and_is_said() {
    let mut two = Two::empty();
    let mut object = manifest("pg-a", "pg-a", two.ports());
    object["metadata"]["annotations"] = json!({ "cnpg.io/fencedInstances": "*" });
    two.a.create(object);
    two.a.until_gated();
    two.a.member.start();
    two.a.member.until_leads();
    two.a.member.until_says("is no list of names");
    assert!(two.a.member.runs());
}

#[test]
fn a_token_that_somebody_left_behind_does_not_keep_a_site_from_taking_over() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    // Checked by nobody: it names another database.
    let foreign = "eyJkYXRhYmFzZVN5c3RlbUlkZW50aWZpZXIiOiI3In0=";
    two.b.patch(json!({
        "metadata": { "annotations": { "cnpg.io/validation": "disabled" } },
        "spec": { "replica": { "promotionToken": foreign } },
    }));
    two.a.node_dies();
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    assert_eq!(two.b.cluster()["spec"]["replica"].get("promotionToken"), None);
    assert!(!two.b.member.log().contains(foreign), "a token was logged");
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound_b();
}

#[test]
fn a_second_agent_for_a_site_ends_and_changes_nothing() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    let dir = two.place.path().join("second");
    for dir in [dir.clone(), dir.join("state")] {
        std::fs::create_dir(dir).unwrap();
    }
    two.place.give_away(&dir);
    let [_, port] = free_ports();
    let http = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut settings = two.a.member.settings.clone();
    settings["state_dir"] = json!(dir.join("state"));
    settings["http"] = json!({ "listen": http, "advertise": http });
    let mut second = Member::new(dir, two.a.member.port, http, settings);
    second.agent_as = two.a.member.agent_as;
    let ended = second.run();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && text.contains("locked by another agent"), "{text}");
    // One that sees other files gets further.
    second.settings["database"]["cnpg"]["pgdata"] = json!(second.dir.join("pgdata"));
    let ended = second.run();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && text.contains("name of its own"), "{text}");
    std::thread::sleep(Duration::from_secs(2));
    let said = two.a.member.until_leads();
    assert_eq!(said["epoch"], 1, "{said:#}");
    clients.assert_one_after_the_other(&[0]);
    two.assert_sound();
}
