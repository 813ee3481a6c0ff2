//! The store goes away and comes back: with everybody's promise nobody notices, with one missing the
//! primary is fenced in time, and in neither case are there two.

use std::fs;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::json;

use super::cluster::{Member, Place, has_alarm, until};
use crate::support::nats;

/// Several leases of the profile `fast`, and longer than NATS takes to elect.
pub(super) const OUTAGE: Duration = Duration::from_secs(6);

/// Two members that may ask each other over HTTP, signed with these secrets.
pub(super) fn pair(place: &Place, secrets: [&str; 2]) -> (Member, Member) {
    let [mut a, mut b] = ["a", "b"].map(|name| place.member(name));
    for (member, secret) in [&mut a, &mut b].into_iter().zip(secrets) {
        share(member, secret);
    }
    a.start();
    a.until_leads();
    a.sql("create table t (n int)").unwrap();
    b.start();
    b.until_follows();
    until_admitted(&b);
    (a, b)
}

/// The member signs with this secret.
pub(super) fn share(member: &mut Member, secret: &str) {
    let file = member.dir.join("peers.secret");
    fs::write(&file, secret).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    member.settings["peers"] = json!({"secret_file": file});
}

/// The holder has described the cluster, and has renewed its lease since.
pub(super) fn until_admitted(replica: &Member) {
    replica.until("the primary admits it", |status| {
        status["takeover"].as_str().is_some_and(|text| text.starts_with("this member"))
    });
    std::thread::sleep(Duration::from_secs(1));
}

/// Nobody writes to the store while this lives.
pub(super) fn lock(place: &Place) -> Connection {
    let hand = Connection::open(place.store()).unwrap();
    hand.busy_timeout(Duration::from_secs(10)).unwrap();
    hand.execute_batch("begin exclusive").unwrap();
    hand
}

pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn everybody_s_promise_rides_out_an_outage() {
    let place = Place::new();
    let (a, b) = pair(&place, [SECRET, SECRET]);
    let epoch = a.status()["epoch"].clone();
    let writer = a.writer();
    let hand = lock(&place);
    a.until_alarm("held_by_promises");
    std::thread::sleep(OUTAGE);
    drop(hand);
    a.until("the store is back", |status| !has_alarm(status, "held_by_promises"));
    let (written, gap) = writer.stop();
    assert!(written > 50 && gap < Duration::from_secs(1), "{written} commits, {gap:?} without");
    assert_eq!(a.until_leads()["epoch"], epoch, "{}", a.log());
    b.until_follows();
    assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());
}

#[test]
fn another_secret_is_no_promise() {
    let place = Place::new();
    let (a, b) = pair(&place, [SECRET, "fedcba9876543210fedcba9876543210"]);
    let hand = lock(&place);
    until("the primary fences", || (!a.is_writable()).then_some(()).ok_or_else(|| a.log()));
    b.until_says("signed with another secret");
    drop(hand);
    let leads = |member: &Member| member.status()["state"] == "primary_healthy";
    until("it opens again", || (leads(&a) || leads(&b)).then_some(()).ok_or_else(|| a.log()));
}

#[test]
fn a_frozen_peer_cannot_promise_and_the_primary_is_fenced_before_anybody_takes_over() {
    let place = Place::new();
    let (a, b) = pair(&place, [SECRET, SECRET]);
    let hand = lock(&place);
    a.until_alarm("held_by_promises");
    b.signal(Signal::STOP);
    until("the primary fences", || (!a.is_writable()).then_some(()).ok_or_else(|| a.log()));
    b.signal(Signal::CONT);
    drop(hand);
    let leads = |member: &Member| member.status()["state"] == "primary_healthy";
    until("it opens again", || (leads(&a) || leads(&b)).then_some(()).ok_or_else(|| a.log()));
}

/// The bucket has no leader for seconds, many leases of this profile: the agents reach each other
/// through the servers that are left.
#[test]
fn the_election_of_a_leader_is_not_noticed() {
    let place = Place::new();
    let mut servers = nats::Cluster::start();
    let [mut a, mut b] = ["a", "b"].map(|name| {
        let mut member = place.member(name);
        member.settings["store"] = json!({
            "backend": "nats",
            "nats": {"servers": servers.urls(), "replicas": 3},
        });
        member
    });
    a.start();
    a.until_leads();
    a.sql("create table t (n int)").unwrap();
    b.start();
    b.until_follows();
    until_admitted(&b);
    let epoch = a.status()["epoch"].clone();
    let writer = a.writer();
    // Without two of three no leader can be elected, and yet every message arrives through the third.
    for server in [0, 1] {
        servers.servers[server].kill();
        std::thread::sleep(Duration::from_millis(300));
    }
    a.until_alarm("held_by_promises");
    std::thread::sleep(OUTAGE);
    for server in [0, 1] {
        servers.servers[server].spawn();
    }
    a.until("the store is back", |status| !has_alarm(status, "held_by_promises"));
    let (written, gap) = writer.stop();
    assert!(written > 50 && gap < Duration::from_secs(1), "{written} commits, {gap:?} without");
    assert_eq!(a.until_leads()["epoch"], epoch, "{}", a.log());
    assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());
    b.until_follows();
}
