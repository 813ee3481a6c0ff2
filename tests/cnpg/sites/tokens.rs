//! Promotion tokens that somebody put into a Cluster by hand: right in form, and of another database, or of an
//! earlier end of the log. CloudNativePG promotes nobody with one; nobody else's hand-over may rest on it.

use std::fs;
use std::time::Duration;

use serde_json::json;

use super::super::double::cluster::Cluster;
use super::super::double::token::{forged, write};
use super::settle::settle;
use super::site::{Site, Two, wait};
use super::switchover::{begin, until_served};
use crate::live::cluster::until;
use crate::live::orders::done;

/// A token of this site's data as it is now, which is not the end of anything.
fn token(site: &Site) -> String {
    write(&wait(site.pod.postgres.control()).unwrap(), "1.30.1")
}

/// Fields by which a token is not the one of this hand-over.
const WRONG: [(&str, &str); 3] = [
    ("databaseSystemIdentifier", "7000000000000000001"),
    ("latestCheckpointREDOLocation", "0/1000028"),
    ("latestCheckpointTimelineID", "0"),
];

fn wrong(site: &Site) -> [String; 3] {
    let right = token(site);
    WRONG.map(|(field, value)| forged(&right, field, value))
}

fn put(site: &Site, token: &str) {
    // CloudNativePG takes none for a replica, unless its checks are off.
    site.patch(json!({
        "metadata": { "annotations": { "cnpg.io/validation": "disabled" } },
        "spec": { "replica": { "promotionToken": token } },
    }));
}

fn assert_untold(two: &Two, tokens: &[String]) {
    for site in [&two.a, &two.b] {
        let told = fs::read_to_string(site.member.dir.join("order.log")).unwrap_or_default();
        for text in [site.member.log(), told, site.member.status().to_string()] {
            assert!(!tokens.iter().any(|token| text.contains(token)), "a token is told\n{text}");
        }
    }
}

#[test]
fn a_wrong_token_at_the_replica_gives_way_to_the_right_one() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    let tokens = wrong(&two.b);
    let mut order = Vec::new();
    for token in &tokens {
        let led = order.len() % 2;
        let (old, new) = if led == 0 { (&two.a, &two.b) } else { (&two.b, &two.a) };
        put(new, token);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!new.member.is_writable(), "{}", new.member.log());
        done(&old.member, &["switchover", "--to", new.name, "--yes"]);
        order.push(led);
        clients.until_acknowledges(1 - led);
        new.until_cluster("the token was used, and taken away", |it| it.token().is_empty());
        let proof = old.cluster()["status"]["demotionToken"].as_str().unwrap().to_owned();
        assert!(!tokens.contains(&proof));
        until_served(old, new);
    }
    order.push(1);
    assert_untold(&two, &tokens);
    clients.assert_one_after_the_other(&order);
    two.assert_sound();
}

#[test]
fn a_wrong_token_at_the_primary_is_taken_away_and_stops_nobody() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    let tokens = wrong(&two.b);
    for token in &tokens {
        put(&two.a, token);
        two.a.until_cluster("it is taken away", |cluster| cluster.token().is_empty());
        clients.until_acknowledges(0);
    }
    done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(1);
    two.a.member.until_follows();
    assert_untold(&two, &tokens);
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

/// Whoever writes over the token in the moment between the patch and CloudNativePG.
fn replaced(number: usize) {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    let wrong = wrong(&two.b)[number].clone();
    // The instance manager reads neither but the last.
    two.b.pod.link.set_lag(Duration::from_millis(1500));
    let mut order = begin(&two.a, "pg-b");
    let right = two.b.until_cluster("the token is there", |cluster| !cluster.token().is_empty());
    let right = Cluster(&right).token().to_owned();
    put(&two.b, &wrong);
    two.b.pod.link.set_lag(Duration::ZERO);
    // Not promoted with it, and not without one either when it is taken away.
    two.b.member.until_says("CloudNativePG refuses the promotion: Promotion token content");
    until("the token is taken away", || {
        assert!(!two.b.member.is_writable() || !two.a.member.is_writable(), "two write");
        let object = two.b.cluster();
        let token = Cluster(&object).token();
        token.is_empty().then_some(()).ok_or_else(|| two.b.member.log())
    });
    assert_eq!(settle(&mut two), 0, "nobody has to be built anew: the hand-over was clean");
    let _ended = order.kill();
    let _ended = order.wait();
    assert_untold(&two, &[wrong, right]);
    let led = two.b.member.status()["is_primary"] == true;
    clients.until_acknowledges(usize::from(led));
    clients.assert_never_at_once();
    two.assert_sound();
}

#[test]
fn a_foreign_token_in_the_place_of_the_right_one_promotes_nobody() {
    replaced(0);
}

#[test]
fn a_stale_token_in_the_place_of_the_right_one_promotes_nobody() {
    replaced(1);
}
