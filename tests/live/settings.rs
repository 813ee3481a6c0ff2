//! SIGHUP: what may change does, what may not is named, and what is wrong changes nothing.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::checks::{assert_sound, count};
use super::client::Pinned;
use super::cluster::{Member, Place, until};

fn until_priority(seen_by: &Member, member: &str, priority: u64) {
    seen_by.until("the priority is known", |status| {
        let members = status["members"].as_array();
        let mut members = members.into_iter().flatten();
        members.any(|known| known["member"] == member && known["priority"] == priority)
    });
}

/// What was logged with this message about this setting: from and to.
fn said(member: &Member, message: &str, setting: &str) -> Option<(Value, Value)> {
    let lines: Vec<Value> =
        member.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let found = |line: &&Value| {
        line["setting"] == setting && line["message"].as_str().is_some_and(|m| m.contains(message))
    };
    lines.iter().rev().find(found).map(|line| (line["from"].clone(), line["to"].clone()))
}

const CHANGED: &str = "setting changed";
const NEEDS_RESTART: &str = "needs a restart";

#[test]
fn a_limit_that_was_too_short_counts_once_it_is_read_again() {
    let place = Place::new();
    let mut a = place.member("a");
    a.settings["timing"] = json!({"start_timeout": "20ms", "hand_over_timeout": "500ms"});
    a.start();
    a.until_alarm("database_broken");
    until("initdb is tried again", || {
        let tries = a.log().matches("\"action\":\"bootstrap\",\"epoch\"").count();
        (tries > 1).then_some(()).ok_or_else(|| a.log())
    });
    a.settings["timing"]["start_timeout"] = json!("30s");
    a.reload();
    a.until_leads();
    assert_eq!(a.status()["alarms"], json!([]));
    assert_sound(&mut [&mut a]);
}

#[test]
fn a_signal_changes_what_may_change_and_names_the_rest() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let (epoch, postmaster) = (a.status()["epoch"].clone(), a.postmaster());
    let clients = Pinned::start(&[&a, &b]);

    b.settings["failover"] = json!({"priority": 7});
    b.reload();
    until_priority(&a, "b", 7);

    a.settings["timing"] = json!({"cool_down": "7s", "lease_duration": "2s"});
    a.settings["failover"] = json!({"priority": 3});
    a.settings["database"]["local"]["port"] = json!(a.port + 1000);
    a.settings["watchdog"]["mode"] = json!("off");
    a.settings["http"]["listen"] = json!("127.0.0.1:9");
    a.reload();
    until_priority(&b, "a", 3);
    let change = |from: &str, to: &str| Some((json!(from), json!(to)));
    assert_eq!(said(&a, CHANGED, "timing.cool_down"), change("\"5s\"", "\"7s\""), "{}", a.log());
    assert_eq!(said(&a, CHANGED, "failover.priority"), change("1", "3"));
    assert_eq!(said(&a, NEEDS_RESTART, "timing.lease_duration"), change("\"1s\"", "\"2s\""));
    for setting in ["database.local.port", "watchdog.mode", "http.listen"] {
        assert!(said(&a, NEEDS_RESTART, setting).is_some(), "{setting}\n{}", a.log());
        assert!(said(&a, CHANGED, setting).is_none(), "{setting}\n{}", a.log());
    }
    assert_eq!(said(&a, NEEDS_RESTART, "failover.priority"), None);

    // One value that cannot be: none of the others is taken either.
    a.settings["timing"]["lease_duration"] = json!("200ms");
    a.settings["failover"]["priority"] = json!(9);
    a.reload();
    assert_eq!(a.refusals(), 1);
    a.until_says("lease_duration 200ms");
    a.until_says("going on with the old ones");
    // Nothing would end PostgreSQL when the lease does.
    a.settings["timing"] = json!({});
    a.settings["shutdown"] = json!({"on_sigterm": "leave_running"});
    a.reload();
    assert_eq!(a.refusals(), 2);
    a.until_says("on_sigterm is leave_running and watchdog.mode is off");
    // A file that is none.
    std::fs::write(a.dir.join("agent.toml"), "member = [\n").unwrap();
    a.signal(Signal::HUP);
    until("the refusal", || (a.refusals() == 3).then_some(()).ok_or_else(|| a.log()));
    until_priority(&b, "a", 3);

    // What it does when told to stop is read with the rest.
    a.settings["watchdog"]["mode"] = json!("automatic");
    a.reload();
    assert!(said(&a, CHANGED, "shutdown.on_sigterm").is_some(), "{}", a.log());
    assert!(a.stop().success(), "{}", a.log());
    a.settings["database"]["local"]["port"] = json!(a.port);
    a.settings["http"]["listen"] = json!(a.http);
    a.start();
    a.until_leads();
    // It is the epoch of the last read, which may have been before the acquisition.
    let next = epoch.as_u64().map(|epoch| epoch + 1);
    let read = a.until("its own lease is read", |status| status["epoch"] != epoch);
    assert_eq!(read["epoch"].as_u64(), next, "{read:#}");
    assert_eq!(a.postmaster(), postmaster, "PostgreSQL was not left running");
    clients.until_acknowledges(0);
    clients.assert_one_after_the_other(&[0]);
    assert!(count(&a) > 0);
    b.until_follows();
    assert_sound(&mut [&mut a, &mut b]);
}
