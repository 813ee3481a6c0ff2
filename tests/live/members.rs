//! Members come, are drained and go while the cluster runs.

use std::time::Duration;

use serde_json::Value;

use super::checks::{LONG, assert_fails, assert_sound, power_off};
use super::cluster::{Member, Place, found, until};
use super::orders::{ask, done};
use super::promises::{OUTAGE, SECRET, lock, pair, share, until_admitted};

/// The store shows it as a member that would take over.
fn until_candidate(beside: &Member, name: &str) {
    until("it is a candidate", || {
        let shown = done(beside, &["member", "show", name, "--json"]);
        let shown: Value = serde_json::from_str(&shown).map_err(|error| error.to_string())?;
        let fit = shown["admitted"] != Value::Null && shown["ineligible"] == Value::Null;
        // Who does not stream by its last word is nobody to hand over to.
        (fit && shown["streaming"] == true).then_some(()).ok_or_else(|| shown.to_string())
    });
}

#[test]
fn a_member_that_is_gone_for_good_is_removed_and_no_longer_counted_on() {
    let place = Place::new();
    let (mut a, mut b) = pair(&place, [SECRET, SECRET]);
    let mut c = place.member("c");
    share(&mut c, SECRET);
    c.start();
    c.until_follows();
    until_admitted(&c);
    let remove = |name: &'static str| ["member", "remove", name, "--yes"];
    assert_fails(&ask(&b, &remove("a")), 75, &["a is the primary"]);
    assert_fails(&ask(&b, &remove("x")), 75, &["no member x", "a, b, c"]);
    assert_fails(&ask(&b, &remove("c")), 75, &["the agent of c reported", "stop it"]);
    c.stop();
    std::thread::sleep(LONG);
    assert!(done(&a, &["member", "list"]).contains("silent"));
    done(&a, &remove("c"));
    let listed = done(&b, &["member", "list", "--json"]);
    assert!(!listed.contains("\"c\""), "{listed}");

    // The other one's promise is enough now.
    std::thread::sleep(Duration::from_secs(1));
    let epoch = a.status()["epoch"].clone();
    let hand = lock(&place);
    a.until_alarm("held_by_promises");
    std::thread::sleep(OUTAGE);
    assert!(a.is_writable(), "{}", a.log());
    drop(hand);
    assert_eq!(a.until_leads()["epoch"], epoch, "{}", a.log());

    // Started again it joins again.
    c.start();
    c.until_follows();
    until_candidate(&a, "c");
    assert_sound(&mut [&mut a, &mut b, &mut c]);
}

#[test]
fn who_is_drained_hands_over_and_does_not_take_over_until_it_may() {
    let place = Place::new();
    let (mut a, mut b) = (place.member("a"), place.member("b"));
    found(&mut a, &mut b);
    assert_fails(&ask(&a, &["member", "drain", "x"]), 75, &["no member x"]);
    // The only one that could replace the primary: said, and then the primary has to stay.
    done(&a, &["member", "drain", "b"]);
    b.until("it knows", |status| {
        status["takeover"].as_str().is_some_and(|it| it.contains("drained"))
    });
    assert_fails(&ask(&a, &["member", "drain", "a", "--yes"]), 75, &["nobody could take over"]);
    assert_fails(&ask(&a, &["switchover", "--to", "b", "--yes"]), 75, &["b is drained"]);
    done(&a, &["member", "drain", "b", "--off"]);
    until_candidate(&a, "b");

    let told = done(&b, &["member", "drain", "a", "--yes"]);
    assert!(told.contains("b is the primary since epoch 2"), "{told}");
    b.until_leads();
    a.until_follows();
    a.until("it knows", |status| {
        status["takeover"].as_str().is_some_and(|it| it.contains("drained"))
    });
    // All of the primary is gone at once; nobody may take over.
    power_off(&mut b);
    std::thread::sleep(LONG);
    assert!(!a.is_writable(), "{}", a.log());
    done(&a, &["member", "drain", "a", "--off"]);
    a.until_leads();
    b.start();
    b.until_follows();
    assert_sound(&mut [&mut a, &mut b]);
}
