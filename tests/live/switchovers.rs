//! Planned changes that are withdrawn, or on the way of which somebody dies: in the end there is one
//! primary, and nothing that was acknowledged is lost.

use rustix::process::Signal;
use serde_json::json;

use super::checks::{LONG, assert_fails, assert_sound, catch, count, power_off, record};
use super::client::Pinned;
use super::cluster::{Member, Place};
use super::orders::{ask, done};

/// Waits until every commit of the primary is on this member, and it would take over.
fn until_named(primary: &Member, member: &str) {
    primary.until("the other one has every commit", |status| {
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let fit = members.iter().any(|it| it["member"] == member && it["ineligible"].is_null());
        fit && status["synchronous"]["members"] == json!([member])
    });
}

#[test]
fn a_switchover_withdrawn_or_interrupted_by_a_death_ends_with_one_primary_that_has_everything() {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(|settings| {
        settings["synchronous"] = json!({"mode": "on"});
        let priority = if settings["member"] == "a" { 5 } else { 1 };
        settings["failover"] = json!({"priority": priority});
    });
    until_named(&a, "b");
    let clients = Pinned::start(&[&a, &b]);
    clients.until_acknowledges(0);

    withdraw_an_appointed_one(&a, &b);
    nothing_is_stopped_for_a_target_that_is_frozen(&a, &b);
    the_target_dies(&place, &a, &mut b);
    clients.until_acknowledges(0);
    b.start();
    b.until_follows();
    until_named(&a, "b");

    let released = || {
        let lease = record(&place, "lease");
        !lease["released"].is_null() || lease["holder"] == "b"
    };
    the_old_primary_s_agent_dies(&mut a, &b, released);
    clients.until_acknowledges(1);
    until_named(&b, "a");

    // The preferred one is back, and nobody but a person wants it to lead.
    let told = done(&a, &["failback", "--yes"]);
    assert!(told.contains("a is the primary since epoch 4"), "{told}");
    clients.until_acknowledges(0);
    b.until_follows();
    assert_fails(&ask(&b, &["failback", "--yes"]), 75, &["refused", "higher priority"]);
    until_named(&a, "b");

    let yields = until_yields(&a);
    the_old_primary_s_agent_dies(&mut a, &b, yields);
    clients.until_acknowledges(1);
    let acknowledged = clients.count(0) + clients.count(1);
    clients.assert_one_after_the_other(&[0, 1, 0, 1]);
    assert!(count(&b) as usize >= acknowledged, "{} of {acknowledged}", count(&b));
    assert_sound(&mut [&mut a, &mut b]);
}

fn withdraw_an_appointed_one(a: &Member, b: &Member) {
    done(a, &["switchover", "--to", "b", "--yes", "--at", "+2s"]);
    b.until("it is asked for", |status| status["order"]["to"] == "b");
    assert!(done(b, &["switchover", "--cancel"]).contains("withdrawn"));
    std::thread::sleep(LONG);
    let status = a.until_leads();
    assert_eq!((&status["epoch"], &status["order"]), (&json!(1), &json!(null)), "{status:#}");
}

/// Whether a member has begun to hand over since.
fn until_yields(member: &Member) -> impl Fn() -> bool + use<> {
    let log = member.dir.join("agent.log");
    let times = move || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.matches("\"to\":\"primary_yielding\"").count()
    };
    let before = times();
    move || times() > before
}

/// What it said before the order does not count.
fn nothing_is_stopped_for_a_target_that_is_frozen(a: &Member, b: &Member) {
    let yields = until_yields(a);
    b.signal(Signal::STOP);
    assert_fails(&ask(a, &["switchover", "--to", "b", "--yes"]), 75, &["b has not been heard of"]);
    b.signal(Signal::CONT);
    assert!(!yields(), "{}", a.log());
    assert_eq!(a.until_leads()["epoch"], 1);
    until_named(a, "b");
}

/// It freezes, so that it does not take what is released to it, and then it is gone.
fn the_target_dies(place: &Place, a: &Member, b: &mut Member) {
    let yields = until_yields(a);
    let ended = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(a, &["switchover", "--to", "b", "--yes"]));
        catch("it is on the way", yields);
        b.signal(Signal::STOP);
        catch("the lease is released to it", || record(place, "lease")["released"]["to"] == "b");
        power_off(b);
        asked.join().unwrap()
    });
    assert_fails(&ended, 75, &["not carried out", "a is the primary since epoch 2"]);
    assert_eq!(a.until_leads()["epoch"], 2, "{}", a.log());
}

/// As soon as `now`, on the way from `a` to `b`; it comes back later.
fn the_old_primary_s_agent_dies(a: &mut Member, b: &Member, now: impl Fn() -> bool) {
    let ended = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(b, &["switchover", "--to", "b", "--yes"]));
        catch("it is on the way", now);
        a.kill();
        b.until_leads();
        a.start();
        asked.join().unwrap()
    });
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && told.contains("b is the primary since epoch"), "{ended:?}");
    a.until_follows();
}
