//! What a person asks for with the command line: another primary, a pause.

use std::process::{Command, Output};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::checks::{LONG, assert_fails, assert_sound, count, power_off, until_healed};
use super::client::Pinned;
use super::cluster::{Member, Place, found};

/// Runs the agent's program as somebody beside `member` would.
pub(crate) fn ask(member: &Member, arguments: &[&str]) -> Output {
    let config = member.write_settings();
    let mut command = Command::new(env!("CARGO_BIN_EXE_harmony-agent"));
    command.args(arguments).arg("--config").arg(config).env("USER", "somebody");
    command.stdin(std::process::Stdio::null()).output().unwrap()
}

/// The same, which has to work; what it printed.
pub(crate) fn done(member: &Member, arguments: &[&str]) -> String {
    let output = ask(member, arguments);
    let [out, complaint] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    assert!(output.status.success(), "{arguments:?}: {out}\n{complaint}\n{}", member.log());
    out.into_owned()
}

fn assert_in_order(text: &str, words: &[&str]) {
    let mut rest = text;
    for words in words {
        let at = rest.find(words).unwrap_or_else(|| panic!("{words:?} is missing in\n{text}"));
        rest = &rest[at..];
    }
}

#[test]
fn a_switchover_and_back_lose_nothing_and_clone_nothing() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let clients = Pinned::start(&[&a, &b]);
    clients.until_acknowledges(0);
    let told = done(&a, &["switchover", "--to", "b", "--yes"]);
    assert_in_order(
        &told,
        &[
            "a stopped its database, which ends at",
            "released the lease to b",
            "b took the lease, epoch 2",
            "b is the primary since epoch 2",
        ],
    );
    // Asked beside a standby just as well.
    clients.until_acknowledges(1);
    a.until_follows();
    b.until_has_candidate();
    assert!(a.log().contains("\"by\":\"start\"") || a.log().contains("start\\\""), "{}", a.log());
    assert!(!a.log().contains("clone"), "{}", a.log());
    b.until("its sender serves a", |status| {
        let standbys = status["database"]["standbys"].as_array().cloned().unwrap_or_default();
        standbys.iter().any(|standby| standby[0] == "a")
    });
    done(&a, &["switchover", "--yes"]);
    clients.until_acknowledges(0);
    b.until_follows();
    let acknowledged = clients.count(0) + clients.count(1);
    clients.assert_one_after_the_other(&[0, 1, 0]);
    assert!(count(&a) as usize >= acknowledged, "{} of {acknowledged}", count(&a));
    let answer = a.status()["answer"].clone();
    assert_eq!(answer["done"], true, "{answer}");
    tell_the_two_switchovers(&a);
    assert_sound(&mut [&mut a, &mut b]);
}

/// Each of them, and the founding, is in the journal.
fn tell_the_two_switchovers(a: &Member) {
    let history: Value = serde_json::from_str(&done(a, &["history", "--json"])).unwrap();
    let epochs: Vec<u64> = history["reports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|report| report["epoch"].as_u64().unwrap())
        .collect();
    assert_eq!(epochs, [3, 2, 1], "{history}");
    assert_eq!(history["unreadable"], json!([]), "{history}");
    let second = &history["reports"][1];
    assert_eq!(second["holder"], "b", "{second}");
    assert_eq!(second["asked"]["wish"], "switchover", "{second}");
    assert_eq!(second["evidence"]["fence"]["rung"], "fast", "{second}");
    assert_eq!(second["at_risk"], json!({"bytes": 0, "exact": true}), "{second}");
    assert!(second["writable_ms"].as_u64().unwrap() < 60_000, "{second}");
    assert_eq!(history["reports"][2]["reason"], "cluster_new", "{history}");
    let told = done(a, &["history", "show", "2"]);
    assert_in_order(&told, &["epoch 2: b became the primary", "asked for: switchover to b"]);
}

#[test]
fn what_cannot_be_asked_for_is_refused_and_changes_nothing() {
    let place = Place::new();
    let (mut a, mut b, mut c) = (place.member("a"), place.member("b"), place.member("c"));
    c.settings["failover"] = json!({"priority": 0});
    found(&mut a, &mut b);
    c.start();
    c.until_follows();
    a.until("c has said that it never takes over", |status| {
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|it| it["member"] == "c" && it["ineligible"] != Value::Null)
    });
    let config = ["switchover", "--yes", "--to"];
    let to = |name: &'static str| [&config[..], &[name]].concat();
    assert_fails(&ask(&a, &to("a")), 75, &["primary already"]);
    assert_fails(&ask(&a, &to("x")), 75, &["no member x reports", "b, c"]);
    assert_fails(&ask(&a, &to("c")), 75, &["c would not take over", "priority is 0"]);
    assert_fails(&ask(&a, &["failback", "--yes"]), 75, &["higher priority"]);
    assert_fails(&ask(&a, &["switchover"]), 64, &["--yes"]);
    let past = ["switchover", "--yes", "--at", "2020-01-01T00:00:00Z"];
    assert_fails(&ask(&a, &past), 64, &["in the past"]);
    assert_fails(&ask(&a, &["pause"]), 64, &["--reason"]);

    // A rehearsal says what would be, and it is not.
    let told = done(&b, &["switchover", "--to", "b", "--dry-run"]);
    assert!(told.contains("b would take over"), "{told}");

    // Two operators at once; the first one's word stands until it is withdrawn.
    done(&a, &["switchover", "--to", "b", "--yes", "--at", "+1h"]);
    assert_fails(&ask(&b, &to("b")), 75, &["is open", "somebody", "--cancel"]);
    let told = done(&b, &["status"]);
    assert!(told.contains("ASKED FOR: switchover to b, in "), "{told}");
    done(&b, &["switchover", "--cancel"]);
    assert!(done(&b, &["switchover", "--cancel"]).contains("nothing"));

    // A dead member: at first its last words are fresh, but nothing streams.
    power_off(&mut b);
    a.until("its sender has ended", |status| {
        let standbys = status["database"]["standbys"].as_array().cloned().unwrap_or_default();
        !standbys.is_empty() && standbys.iter().all(|standby| standby[0] != "b")
    });
    let refused = String::from_utf8_lossy(&ask(&a, &to("b")).stderr).into_owned();
    let dead = ["does not stream", "not been heard of"].iter().any(|word| refused.contains(word));
    assert!(dead, "{refused}");
    std::thread::sleep(LONG);
    assert_fails(&ask(&a, &to("b")), 75, &["b has not been heard of"]);
    assert_eq!(a.status()["epoch"], 1, "{:#}", a.status());
    a.until_leads();
    assert_sound(&mut [&mut a, &mut c]);
}

#[test]
fn an_appointed_switchover_begins_at_its_time() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    done(&a, &["switchover", "--yes", "--at", "+2s"]);
    a.until_leads();
    b.until_leads();
    a.until_follows();
    assert!(a.log().contains("\"asked for\""), "{}", a.log());
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn while_paused_nobody_takes_over_until_somebody_says_so() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    done(&b, &["pause", "--reason", "maintenance of the switch"]);
    for member in [&a, &b] {
        member
            .until("the pause is seen", |it| it["paused"]["reason"] == "maintenance of the switch");
    }
    assert!(done(&a, &["status"]).contains("PAUSED until"), "status");
    assert_fails(&ask(&a, &["switchover", "--to", "b", "--yes"]), 75, &["paused", "resume"]);

    // All of the primary is gone at once.
    power_off(&mut a);
    std::thread::sleep(LONG);
    assert!(!b.is_writable(), "{}", b.log());
    assert_eq!(b.status()["state"], "replica_watching");
    // By hand it goes, and the pause stands.
    done(&b, &["failover", "--to", "b", "--accept-loss", "--yes"]);
    b.until_leads();
    b.until("still paused", |status| status["paused"]["reason"] != Value::Null);
    done(&b, &["resume"]);
    a.start();
    a.until_follows();
    b.until("no longer paused", |status| status["paused"] == Value::Null);
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_pause_that_ends_lets_the_waiting_member_take_over() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    done(&a, &["pause", "--reason", "x", "--for", "4s"]);
    b.until("the pause is seen", |status| status["paused"]["ends"] == true);
    a.kill();
    kill_process(a.postmaster(), Signal::KILL).unwrap();
    b.until_leads();
    assert!(b.log().contains("no longer paused"), "{}", b.log());
    a.start();
    a.until_follows();
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn the_preferred_member_leads_again_once_it_is_fit() {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(|settings| {
        settings["failover"] = json!({"failback_after": "1s", "priority": 1});
        if settings["member"] == "a" {
            settings["failover"]["priority"] = json!(5);
        }
    });
    kill_process(a.postmaster(), Signal::KILL).unwrap();
    b.until_leads();
    a.until("it leads again", |status| {
        status["state"] == "primary_healthy" && status["writable"] == true && status["epoch"] == 3
    });
    until_healed(&a, &b);
    assert!(b.log().contains("\"reason\":\"failback\""), "{}", b.log());
    assert_sound(&mut [&mut a, &mut b]);
}
