//! Fences that others lift, and fences of others.

use std::fs;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::super::double::cluster::FENCE;
use super::site::{Site, Two};
use super::switchover::until_served;
use crate::live::checks::LONG;
use crate::live::cluster::until;
use crate::live::orders::done;

const ALL: &str = "[\"*\"]";

fn until_fenced(site: &Site) {
    site.until_cluster("it is fenced", |cluster| cluster.annotation(FENCE) == Some(ALL));
}

#[test]
fn a_fence_of_ours_that_somebody_lifts_is_set_again_and_nobody_writes_meanwhile() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.node_dies();
    clients.until_acknowledges(1);
    two.a.node_comes_back();
    two.a.member.until_alarm("rejoin_failed");
    until_fenced(&two.a);
    // Lifted, made what CloudNativePG takes for no fence, or one of an instance that is not there.
    for value in [None, Some("*"), Some("[\"pg-a-7\"]"), None] {
        two.a.set_fence(value);
        until("it is set again", || {
            assert!(!two.a.member.is_writable(), "{}", two.a.member.log());
            two.a.fence().filter(|fence| fence == ALL).ok_or_else(|| two.a.member.log())
        });
    }
    // With the mark gone, too, the fence would be a person's.
    let mark = two.a.cluster()["metadata"]["annotations"]["harmony-agent.io/fence"].clone();
    assert!(mark.as_str().is_some_and(|mark| mark.contains("pg-a")), "{mark}");
    two.a.assert_silent(Duration::from_secs(1));
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

#[test]
fn a_fence_of_a_person_is_left_in_place() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    // A standby is stopped, and comes back when the person says so.
    two.b.set_fence(Some(ALL));
    until("the standby is down", || two.b.member.sql("select 1").err().ok_or_else(String::new));
    std::thread::sleep(LONG);
    assert_eq!(two.b.fence().as_deref(), Some(ALL));
    assert!(two.b.member.sql("select 1").is_err());
    two.b.set_fence(None);
    two.b.member.until_follows();
    two.a.member.until_has_candidate();
    assert_eq!(two.a.member.status()["epoch"], 1);

    // The primary is stopped: the other site takes over, the fence stays.
    two.a.set_fence(Some(ALL));
    clients.until_acknowledges(1);
    std::thread::sleep(LONG);
    assert_eq!(two.a.fence().as_deref(), Some(ALL));
    let annotations = two.a.cluster()["metadata"]["annotations"].clone();
    assert_eq!(annotations.get("harmony-agent.io/fence"), None, "it is not ours: {annotations}");
    assert_eq!(two.a.cluster()["spec"]["replica"]["primary"], "pg-a", "a demotion would lift it");
    two.a.set_fence(None);
    // It ended cleanly, so it follows as soon as it may.
    two.a.member.until_follows();
    two.b.member.until_has_candidate();
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

/// As GitOps does it with what a manifest said before the last switchover.
#[test]
fn a_role_that_somebody_reverts_is_not_taken_and_is_put_right() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(1);
    two.a.member.until_follows();
    // CloudNativePG would promote pg-a as soon as its manager reads this.
    two.a.patch(json!({ "spec": { "replica": { "primary": "pg-a", "source": "pg-b" } } }));
    two.a.until_cluster("it is put right", |cluster| {
        cluster.text("/spec/replica/primary") == "pg-b"
    });
    // It goes on as the standby that it is.
    two.b.member.sql("create table later (n int)").unwrap();
    until("it has what was written since", || two.a.member.sql("select * from later"));
    two.a.assert_silent(LONG);
    assert!(!two.a.member.log().contains("which has no lease: killed"), "{}", two.a.member.log());
    two.b.member.until_leads();
    two.a.member.until_follows();
    let history = done(&two.b.member, &["history", "--json"]);
    let history: Value = serde_json::from_str(&history).unwrap();
    assert_eq!(history["reports"][0]["holder"], "pg-b", "{history}");
    let led = history["reports"].as_array().unwrap().iter().filter(|it| it["holder"] == "pg-a");
    assert_eq!(led.count(), 1, "{history}");
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

/// An agent that is frozen cannot do anything, and need not.
#[test]
fn a_role_that_somebody_reverts_beside_a_frozen_agent_is_not_taken() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.b.member.signal(Signal::STOP);
    two.b.patch(json!({ "spec": { "replica": { "primary": "pg-b", "source": "pg-a" } } }));
    until("its manager has tried to promote it", || {
        let told = two.b.double.told();
        told.contains("could not create promote signal file").then_some(()).ok_or(told)
    });
    two.b.assert_silent(LONG);
    two.b.member.signal(Signal::CONT);
    two.b.until_cluster("it is put right", |cluster| {
        cluster.text("/spec/replica/primary") == "pg-a"
    });
    two.b.assert_silent(LONG);
    two.b.member.until_follows();
    two.a.member.until_leads();
    assert_eq!(two.a.member.status()["epoch"], 1);
    clients.assert_one_after_the_other(&[0]);
    two.assert_sound();
}

/// A person who replaces the bar by what it is a bar to.
#[test]
fn what_is_promoted_past_the_bar_is_killed_and_fenced() {
    let mut two = Two::start();
    let data = two.b.member.data_dir();
    until("it is killed", || {
        // As long as the agent is quicker, the bar is back before PostgreSQL looks.
        if let Some(postmaster) = two.b.postmaster() {
            fs::write(data.join("by-hand"), "").unwrap();
            fs::rename(data.join("by-hand"), data.join("promote")).unwrap();
            // It may have ended since.
            let _ended = kill_process(postmaster, Signal::USR1);
        }
        let log = two.b.member.log();
        log.contains("which has no lease: killed").then_some(()).ok_or(log)
    });
    two.b.assert_silent(LONG);
    two.a.member.until_leads();
    assert_eq!(two.a.member.status()["epoch"], 1);
    two.assert_sound();
}

#[test]
fn a_primary_that_somebody_reverts_hands_over() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(1);
    until_served(&two.a, &two.b);
    // Until then CloudNativePG takes nothing else.
    two.b.until_cluster("its token is taken away", |cluster| cluster.token().is_empty());
    // CloudNativePG demotes it, as it is told.
    two.b.patch(json!({ "spec": { "replica": { "primary": "pg-a", "source": "pg-a" } } }));
    clients.until_acknowledges(0);
    two.a.member.until_leads();
    two.b.member.until_follows();
    clients.assert_one_after_the_other(&[0, 1, 0]);
    two.assert_sound();
}
