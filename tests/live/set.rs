//! Settings of the whole cluster, changed with the command line while it runs.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::checks::{assert_fails, assert_sound, count};
use super::client::Pinned;
use super::cluster::{Member, Place};
use super::orders::{ask, done};

const COUNTS: &str = "counts by it";

fn until_failover_after(member: &Member, seconds: f64) {
    member.until("other timings count", |status| status["failover_seconds"] == json!(seconds));
}

/// A longer lease, all parts of it checked together; a dead machine is replaced no sooner than it says.
#[test]
fn timings_are_set_together_and_everybody_counts_by_them() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let clients = Pinned::start(&[&a, &b]);
    until_failover_after(&a, 1.1);
    let epoch = a.status()["epoch"].clone();
    let broken = ask(&b, &["config", "set", "timing.fence_timeout", "2s"]);
    assert_fails(&broken, 75, &["timing rule broken", "fence_timeout 2s", "raise lease_duration"]);
    let longer = ["timing.fence_timeout", "1s", "timing.lease_duration", "3s"];
    let told = done(&b, &[&["config", "set"], &longer[..]].concat());
    assert!(told.starts_with("set; a") && told.contains(COUNTS), "{told}");
    for member in [&a, &b] {
        until_failover_after(member, 3.1);
    }
    // Nothing broke: the same epoch, and writes go on.
    assert_eq!(a.status()["epoch"], epoch);
    clients.until_acknowledges(0);
    // Read once more, what is configured does not win over it.
    b.settings["timing"] = json!({"cool_down": "7s"});
    b.reload();
    until_failover_after(&b, 3.1);
    let shown: Vec<Value> =
        serde_json::from_str(&done(&b, &["config", "show", "--effective", "-o", "json"])).unwrap();
    let value = |key: &str| shown.iter().find(|it| it["key"] == key).unwrap()["value"].clone();
    assert_eq!(
        [value("timing.lease_duration"), value("timing.cool_down"), value("timing.fence_timeout")],
        ["\"3s\"", "\"5s\"", "\"1s\""]
    );

    a.kill();
    a.signal_server(Signal::KILL);
    let dead = Instant::now();
    b.until_leads();
    // Half a heartbeat may have passed, and b's clock starts at what it last saw.
    assert!(dead.elapsed() >= Duration::from_millis(3_000 - 250), "{:?}", dead.elapsed());
    clients.until_acknowledges(1);
    done(&b, &["config", "unset", "timing"]);
    until_failover_after(&b, 1.1);
    a.start();
    a.until_follows();
    until_failover_after(&a, 1.1);
    clients.assert_one_after_the_other(&[0, 1]);
    assert!(count(&b) > 0);
    assert_sound(&mut [&mut a, &mut b]);
}

/// Synchronous replication and who is preferred, by one command each instead of every member's file.
#[test]
fn modes_and_priorities_are_set_while_running() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    done(&a, &["config", "set", "synchronous.mode", "strict"]);
    let waits = |status: &Value| status["synchronous"]["members"] == json!(["b"]);
    a.until("commits wait for b", waits);
    assert_eq!(a.sql("show synchronous_standby_names").unwrap(), "FIRST 1 (\"b\")");
    assert_eq!(b.status()["synchronous"]["mode"], "strict");
    done(&b, &["config", "set", "failover.priority", "9", "--of", "b"]);
    let preferred = |status: &Value| {
        let members = status["members"].as_array().unwrap();
        members.iter().any(|it| it["member"] == "b" && it["priority"] == 9)
    };
    a.until("b is preferred", preferred);
    done(&a, &["failback", "--yes"]);
    b.until_leads();
    a.until_follows();
    // It is strict in the hands of the next one too, whose own configuration says off.
    b.until("commits wait for a", |status| status["synchronous"]["members"] == json!(["a"]));
    let nobody = ask(&a, &["config", "set", "failover.priority", "9", "--of", "z"]);
    assert_fails(&nobody, 75, &["there is no member z"]);
    assert_fails(&ask(&a, &["config", "set", "failover.priority", "9"]), 64, &["--of"]);
    done(&a, &["config", "set", "synchronous.mode", "off"]);
    b.until("commits wait for nobody", |status| status["synchronous"]["members"] == json!([]));
    done(&a, &["config", "unset", "synchronous.mode"]);
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_setting_of_the_cluster_counts_for_all_members_until_it_is_unset() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let lag = "failover.maximum_lag_on_failover";
    let shown = |effective: &str| {
        let said = done(&b, &["config", "show", effective, "-o", "json"]);
        let said: Vec<Value> = serde_json::from_str(&said).unwrap();
        let of = said.into_iter().find(|entry| entry["key"] == lag).unwrap();
        format!("{} {}", of["value"].as_str().unwrap(), of["origin"].as_str().unwrap())
    };
    assert_eq!(shown("--effective"), "\"16MiB\" default");
    // Beside a standby just as well.
    let told = done(&b, &["config", "set", lag, "4KiB"]);
    assert!(told.starts_with("set;"), "{told}");
    assert_eq!(done(&a, &["config", "set", lag, "4KiB"]).trim(), "nothing to change");
    for member in [&a, &b] {
        member.until_says("settings of the cluster changed");
        member.until_says("maximum_lag_on_failover\\\":4096");
    }
    assert_eq!(shown("--effective"), "\"4KiB\" the cluster (config set)");
    // A change of primary carries it on.
    done(&a, &["switchover", "--to", "b", "--yes"]);
    b.until_leads();
    a.until_follows();
    assert_eq!(shown("--effective"), "\"4KiB\" the cluster (config set)");
    done(&a, &["config", "unset", lag]);
    assert_eq!(shown("--effective"), "\"16MiB\" default");

    let watchdog = ask(&a, &["config", "set", "watchdog.mode", "off"]);
    assert_fails(&watchdog, 64, &["watchdog.mode cannot be set", lag]);
    assert_fails(&ask(&a, &["config", "set", lag, "16"]), 64, &["expected bytes", "16MiB"]);
    let misspelt = ask(&a, &["config", "unset", "failover.maximum_lag"]);
    assert_fails(&misspelt, 64, &["did you mean", lag]);
    assert_sound(&mut [&mut a, &mut b]);
}
