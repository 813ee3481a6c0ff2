//! What is refused because it would lose something, or because somebody else was quicker; and what is
//! done all the same when a person accepts the loss.

use std::fs;

use serde_json::{Value, json};

use super::checks::{assert_fails, assert_sound, power_off};
use super::cluster::{Member, Place, until};
use super::explain::until_told;
use super::orders::{ask, done};

/// More than any page or message; less than what is written while nobody receives it.
const ALLOWED: &str = "64KiB";

/// No standby streams from this primary any more, until it has another `pg_hba.conf`.
fn let_no_standby_in(primary: &Member) {
    let path = primary.data_dir().join("pg_hba.conf");
    let rules = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("host replication all all reject\n{rules}")).unwrap();
    primary.sql("select pg_reload_conf()").unwrap();
    let port = primary.port.to_string();
    let mut stranger = primary.tool("psql");
    stranger.args(["-XAtq", "-h", "127.0.0.1", "-p", &port, "-U", "postgres"]);
    stranger.args(["-d", "replication=true", "-c", "IDENTIFY_SYSTEM"]);
    until("standbys are rejected", || {
        let output = stranger.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.contains("pg_hba.conf rejects").then_some(()).ok_or(said)
    });
    primary.sql("select pg_terminate_backend(pid) from pg_stat_replication").unwrap();
}

/// How many bytes a member lacks, as the other one sees it.
fn lag(seen_by: &Member, member: &str) -> u64 {
    let status = seen_by.status();
    let members = status["members"].as_array();
    let found = members.into_iter().flatten().find(|it| it["member"] == member);
    found.and_then(|it| it["lag"].as_u64()).unwrap_or_default()
}

#[test]
fn of_two_operators_at_once_one_is_obeyed_and_the_other_is_told() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let asked = std::thread::scope(|scope| {
        let both = [&a, &b]
            .map(|beside| scope.spawn(move || ask(beside, &["switchover", "--to", "b", "--yes"])));
        both.map(|one| one.join().unwrap())
    });
    let [one, other] = &asked;
    let (carried_out, refused) = if one.status.success() { (one, other) } else { (other, one) };
    assert!(carried_out.status.success(), "{asked:?}");
    assert_eq!(refused.status.code(), Some(75), "{asked:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    let words = ["is open", "the primary changed meanwhile", "it is the primary already"];
    assert!(words.iter().any(|words| said.contains(words)), "{said}");
    assert_eq!(b.until_leads()["epoch"], 2, "{}", b.log());
    a.until_follows();
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn nothing_is_lost_unless_a_person_says_so() {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(|settings| {
        settings["failover"] = json!({"maximum_lag_on_failover": ALLOWED});
    });

    // One that is behind.
    let_no_standby_in(&a);
    a.sql("insert into t select 3 from generate_series(1, 30000)").unwrap();
    until("b is seen to be behind", || {
        let lag = lag(&a, "b");
        (lag > 1_000_000).then_some(()).ok_or_else(|| format!("{lag} bytes"))
    });
    let switchover = ask(&a, &["switchover", "--to", "b", "--yes"]);
    assert_fails(&switchover, 75, &["b would not take over", "bytes behind, allowed are 65536"]);
    assert_eq!(a.until_leads()["epoch"], 1, "{}", a.log());

    // And now it is all there is.
    power_off(&mut a);
    let refused = ask(&b, &["failover", "--to", "b", "--yes"]);
    assert_fails(&refused, 69, &["b lacks at least", "with --accept-loss they are lost"]);
    assert!(missing(&String::from_utf8_lossy(&refused.stderr)) > 1_000_000, "{refused:?}");
    assert!(!b.is_writable(), "{}", b.log());
    until_told(&b, &["nobody would take over", "bytes behind, allowed are 65536"]);

    let ended = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&b, &["failover", "--to", "b", "--accept-loss", "--yes"]));
        b.until_leads();
        a.start();
        asked.join().unwrap()
    });
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && told.contains("b is the primary since epoch 2"), "{ended:?}");
    a.until_follows();
    assert_eq!(b.sql("select count(*) from t where n = 3").unwrap(), "0");
    let history: Value = serde_json::from_str(&done(&b, &["history", "--json"])).unwrap();
    let risk = &history["reports"][0]["at_risk"]["bytes"];
    assert!(risk.as_u64().unwrap() > 1_000_000, "{history:#}");
    a.until_says("data.left-");
    assert_sound(&mut [&mut a, &mut b]);
}

/// The number in "lacks at least … bytes".
fn missing(said: &str) -> u64 {
    let rest = said.split("lacks at least ").nth(1).unwrap_or_default();
    rest.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{said}"))
}
