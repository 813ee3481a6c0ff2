//! Synchronous replication as an operator runs it: the mode switched while clients write, and what each
//! mode does when nobody is there to wait for.

use std::process::{Child, Stdio};

use serde_json::json;

use super::checks::{assert_sound, power_off, record};
use super::client::Pinned;
use super::cluster::{Member, Place, has_alarm, until};
use super::orders::done;

const ALONE: &str = "no_synchronous_standby";

/// What the server has in `synchronous_standby_names` when it waits for what cannot be.
const NOBODY: &str = "FIRST 1 (\"harmony:nobody\")";

/// Sets the mode in the files of these members, and has the agents read them.
fn switch(members: &mut [&mut Member], mode: &str) {
    for member in members {
        member.settings["synchronous"] = json!({"mode": mode});
        member.reload();
        member.until("the mode is known", |status| status["synchronous"]["mode"] == mode);
    }
}

/// Waits until lease, `cluster_state` and `/status` name these members, and PostgreSQL waits for this.
fn until_named(place: &Place, primary: &Member, set: &[&str], names: &str) {
    let wanted = (json!(set), names.to_owned());
    // A lease that names nobody does not mention it.
    let in_store = |key: &str| match record(place, key)["synchronous"].as_array() {
        Some(named) => json!(named),
        None => json!([]),
    };
    until("the set is named and waited for", || {
        let seen = [
            in_store("lease"),
            in_store("cluster_state"),
            primary.status()["synchronous"]["members"].clone(),
        ];
        let waits = primary.sql("show synchronous_standby_names")?;
        let good = seen.iter().all(|seen| *seen == wanted.0) && waits == wanted.1;
        good.then_some(()).ok_or_else(|| format!("{seen:?}, {waits:?} rather than {wanted:?}"))
    });
}

/// Begins a commit, and waits until it waits for a standby.
fn waiting_commit(member: &Member) -> Child {
    let mut client = member.psql("insert into t values (3)");
    let client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("a commit waits", || {
        let seen = member.sql(
            "select count(*) from pg_stat_activity
              where wait_event = 'SyncRep' and query = 'insert into t values (3)'",
        )?;
        (seen == "1").then_some(()).ok_or(seen)
    });
    client
}

/// It was acknowledged in the end.
fn until_acknowledged(mut commit: Child) {
    let ended = until("the commit that waited is acknowledged", || {
        commit.try_wait().unwrap().ok_or_else(|| "it still waits".to_owned())
    });
    assert!(ended.success());
}

#[test]
fn the_mode_changes_at_run_time_and_strict_waits_for_a_standby_whatever_happens() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let clients = Pinned::start(&[&a, &b]);
    until_named(&place, &a, &[], "");
    clients.until_acknowledges(0);

    // Standbys first, as the documentation says.
    switch(&mut [&mut b, &mut a], "on");
    until_named(&place, &a, &["b"], "FIRST 1 (\"b\")");
    assert_eq!(a.sql("select sync_state from pg_stat_replication").unwrap(), "sync");
    let told = done(&b, &["status"]);
    assert!(told.contains("synchronous on: every commit is on b"), "{told}");
    clients.until_acknowledges(0);

    // The standby goes: said in the lease first, then commits go on without it.
    assert!(b.stop().success(), "{}", b.log());
    until_named(&place, &a, &[], "");
    a.until_alarm(ALONE);
    clients.until_acknowledges(0);

    // Nobody is there, and now that counts.
    switch(&mut [&mut a], "strict");
    until_named(&place, &a, &[], NOBODY);
    let commit = waiting_commit(&a);
    assert!(has_alarm(&a.status(), ALONE), "{:#}", a.status());
    b.settings["synchronous"] = json!({"mode": "strict"});
    b.start();
    until_acknowledged(commit);
    until_named(&place, &a, &["b"], "FIRST 1 (\"b\")");
    a.until("somebody is there again", |status| !has_alarm(status, ALONE));
    clients.until_acknowledges(0);

    // A member that was named and goes stays named: nobody else has everything.
    power_off(&mut b);
    a.until_alarm(ALONE);
    let commit = waiting_commit(&a);
    until_named(&place, &a, &["b"], "FIRST 1 (\"b\")");
    b.start();
    until_acknowledged(commit);
    b.until_follows();
    clients.until_acknowledges(0);

    fail_over_and_go_on_alone(&place, &mut a, &mut b, &clients);
    a.start();
    a.until_follows();
    until_named(&place, &b, &["a"], "FIRST 1 (\"a\")");
    clients.until_acknowledges(1);

    switch(&mut [&mut a, &mut b], "off");
    until_named(&place, &b, &[], "");
    clients.until_acknowledges(1);
    clients.assert_one_after_the_other(&[0, 1]);
    assert_sound(&mut [&mut a, &mut b]);
}

/// The primary dies in `strict`: whoever takes over has every commit, and acknowledges none alone until an
/// operator says so.
fn fail_over_and_go_on_alone(place: &Place, a: &mut Member, b: &mut Member, clients: &Pinned) {
    power_off(a);
    b.until("it takes over", |status| status["state"] == "primary_healthy");
    let kept = b.sql("select count(*) from t where n = 2").unwrap();
    let acknowledged = clients.count(0);
    assert!(kept.parse::<usize>().unwrap() >= acknowledged, "{kept} of {acknowledged}");
    until_named(place, b, &["b"], NOBODY);
    let commit = waiting_commit(b);
    assert_eq!(clients.count(1), 0, "acknowledged, and on one disk only");
    // The runbook's way out.
    a.settings["synchronous"] = json!({"mode": "on"});
    switch(&mut [b], "on");
    until_acknowledged(commit);
    clients.until_acknowledges(1);
}

/// Commits wait for two standbys: the primary and one of them may die at once, and nothing is lost.
#[test]
fn with_two_standbys_two_machines_may_die_at_once() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let mut c = place.member("c");
    c.start();
    c.until_follows();
    let clients = Pinned::start(&[&a, &b, &c]);
    done(&a, &["config", "set", "synchronous.mode", "strict", "synchronous.standbys", "2"]);
    let both = json!(["b", "c"]);
    a.until("both are named", |status| status["synchronous"]["members"] == both);
    clients.until_acknowledges(0);
    power_off(&mut a);
    power_off(&mut b);
    c.until("it takes over", |status| status["state"] == "primary_healthy");
    let kept: usize = c.sql("select count(*) from t where n = 2").unwrap().parse().unwrap();
    let acknowledged = clients.count(0);
    assert!(acknowledged > 0 && kept >= acknowledged, "{kept} of {acknowledged}");
    // Nobody else has what it acknowledges from now on, so it acknowledges nothing.
    let commit = waiting_commit(&c);
    b.start();
    until_acknowledged(commit);
    c.until("b is named", |status| status["synchronous"]["members"] == json!(["b"]));
    a.start();
    c.until("both are named", |status| status["synchronous"]["members"] == json!(["a", "b"]));
    clients.until_acknowledges(2);
    clients.assert_one_after_the_other(&[0, 2]);
    assert_sound(&mut [&mut a, &mut b, &mut c]);
}
