//! `explain` beside real members: what it says would happen is what happens.

use serde_json::{Value, json};

use super::checks::{assert_sound, power_off};
use super::cluster::{Member, Place, found, until};
use super::orders::done;

/// Waits until the explanation has all these words.
pub(super) fn until_told(member: &Member, words: &[&str]) {
    until("it is explained", || {
        let told = done(member, &["explain"]);
        let missing: Vec<_> = words.iter().filter(|words| !told.contains(**words)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} missing in\n{told}")) }
    });
}

fn explained(member: &Member) -> Value {
    serde_json::from_str(&done(member, &["explain", "-o", "json"])).unwrap()
}

/// What is said of a member that would not take over.
fn why_not<'a>(explained: &'a Value, member: &str) -> &'a str {
    let others = explained["others"].as_array().unwrap();
    let found = others.iter().find(|other| other["member"] == member);
    found.unwrap_or_else(|| panic!("{member}: {explained:#}"))["why"].as_str().unwrap()
}

#[test]
fn of_equals_the_one_in_the_primary_s_site_takes_over_and_that_was_explained() {
    let place = Place::new();
    let [mut a, mut b, mut c, mut d] = ["a", "b", "c", "d"].map(|name| {
        let mut member = place.member(name);
        let site = if ["a", "c"].contains(&name) { "here" } else { "there" };
        member.settings["site"] = json!(site);
        // What is written meanwhile would make one of them the better one for a moment.
        member.settings["database"]["local"]["write_probe_interval"] = json!("0s");
        member
    });
    d.settings["failover"] = json!({"priority": 0});
    found(&mut a, &mut b);
    for member in [&mut c, &mut d] {
        member.start();
    }
    for member in [&c, &d] {
        member.until_follows();
    }
    // By their names b would come first.
    let before = [
        "a is the primary since epoch 1",
        "If a died now:",
        "c would take over 1.10 s after its last sign, 0 B behind",
        "then b, after 1.1",
        "not d: priority is 0: never promoted",
        "Nothing is missing",
    ];
    until_told(&d, &before);

    power_off(&mut a);
    c.until_leads();
    assert!(!b.log().contains("replica_promoting"), "{}", b.log());
    for member in [&b, &d] {
        member.until_follows();
    }
    let after = [
        "c is the primary since epoch 2",
        "b would take over 1.10 s after its last sign, 0 B behind",
        "not a: silent",
        "not d: priority is 0",
    ];
    until_told(&b, &after);
    let told = explained(&d);
    assert_eq!((&told["primary"], &told["epoch"]), (&json!("c"), &json!(2)), "{told:#}");
    let line = told["line"].as_array().unwrap();
    assert_eq!(line.len(), 1, "{told:#}");
    assert_eq!((&line[0]["member"], &line[0]["behind_bytes"]), (&json!("b"), &json!(0)));
    let after = line[0]["after_seconds"].as_f64().unwrap();
    assert!((after - 1.1).abs() < 0.001, "{told:#}");
    assert!(why_not(&told, "a").contains("last heard of"), "{told:#}");
    assert!(why_not(&told, "d").contains("never promoted"), "{told:#}");

    power_off(&mut b);
    let alone = [
        "nobody would take over",
        "not b: silent",
        "Missing for a failover",
        "a member that could take over",
        "the alarm no_candidate stands",
    ];
    until_told(&c, &alone);
    let told = explained(&c);
    assert_eq!(told["line"], json!([]), "{told:#}");
    assert!(told["missing"].as_array().unwrap().len() >= 2, "{told:#}");
    c.until_leads();
    assert_sound(&mut [&mut c, &mut d]);
}
