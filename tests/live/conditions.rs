//! A database that lives but does not work, and one that only works hard: what is done about each is
//! what was configured, and busy is never taken for dead.

use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::checks::{LONG, assert_sound, count};
use super::client::Pinned;
use super::cluster::{Member, Place, found, has_alarm, until};
use crate::support::disk::Disk;
use crate::support::postgres::need_root;

/// Hung is said soon.
fn impatient(settings: &mut Value) {
    settings["database"]["local"]["hung_after"] = json!("1s");
    settings["database"]["local"]["write_probe_interval"] = json!("500ms");
}

/// For a good while the member leads in the epoch it had; the other one does not want to.
fn assert_goes_on(a: &Member, b: Option<&Member>, epoch: &Value) {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        let status = a.status();
        assert_eq!(
            (&status["state"], &status["epoch"]),
            (&json!("primary_healthy"), epoch),
            "{}",
            a.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    if let Some(b) = b {
        assert!(!b.log().contains("acquire_sent"), "{}", b.log());
    }
}

fn until_calm(member: &Member, alarm: &str) {
    member.until("the alarm is over", |status| !has_alarm(status, alarm));
}

#[test]
fn a_hung_database_is_an_alarm() {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(impatient);
    let epoch = a.status()["epoch"].clone();
    a.signal_server(Signal::STOP);
    a.until_alarm("database_hung");
    assert_goes_on(&a, Some(&b), &epoch);
    a.signal_server(Signal::CONT);
    until_calm(&a, "database_hung");
    assert_eq!(a.until_leads()["epoch"], epoch);
    b.until_follows();
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_hung_database_is_handed_over_if_somebody_can_take_it() {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(|settings| {
        impatient(settings);
        settings["failover"] = json!({"on_hung": "fail_over"});
    });
    let epoch = a.status()["epoch"].clone();
    let clients = Pinned::start(&[&a, &b]);
    clients.until_acknowledges(0);
    assert!(b.stop().success(), "{}", b.log());
    a.until_alarm("no_candidate");
    a.signal_server(Signal::STOP);
    a.until_alarm("database_hung");
    assert_goes_on(&a, None, &epoch);

    b.start();
    clients.until_acknowledges(1);
    a.until_says("\"reason\":\"database_hung\"");
    b.until_leads();
    a.until_follows();
    clients.assert_one_after_the_other(&[0, 1]);
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_full_disk_is_an_alarm_or_handed_over() {
    need_root();
    let place = Place::new();
    let (mut a, mut b) = (place.member("a"), place.member("b"));
    for member in [&mut a, &mut b] {
        impatient(&mut member.settings);
        let local = &mut member.settings["database"]["local"];
        local["wal_keep"] = json!("32MiB");
        local["parameters"]["min_wal_size"] = json!("32MB");
        local["parameters"]["max_wal_size"] = json!("64MB");
    }
    let path = a.dir.join("disk");
    std::fs::create_dir(&path).unwrap();
    place.give_away(&path);
    let disk = Disk::mount(&path, "200m");
    a.settings["database"]["local"]["data_dir"] = json!(path.join("data"));
    found(&mut a, &mut b);
    let epoch = a.status()["epoch"].clone();
    let clients = Pinned::start(&[&a, &b]);
    clients.until_acknowledges(0);

    disk.fill();
    a.until_alarm("database_disk_full");
    assert_goes_on(&a, Some(&b), &epoch);
    disk.free();
    until_calm(&a, "database_disk_full");
    clients.until_acknowledges(0);
    assert_eq!(a.until_leads()["epoch"], epoch);

    a.settings["failover"] = json!({"on_disk_full": "fail_over"});
    a.reload();
    disk.fill();
    clients.until_acknowledges(1);
    a.until_says("\"reason\":\"database_disk_full\"");
    disk.free();
    a.until_follows();
    b.until_leads();
    clients.assert_one_after_the_other(&[0, 1]);
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_full_state_directory_promotes_nobody_and_is_said() {
    need_root();
    let place = Place::new();
    let (mut a, mut b, mut c) = (place.member("a"), place.member("b"), place.member("c"));
    let full = Disk::mount(&c.dir.join("state"), "16k");
    full.fill();
    let ended = c.run();
    assert_eq!(ended.status.code(), Some(73), "{}", c.log());
    c.until_says("No space left on device");
    c.until_says(c.dir.join("state").to_str().unwrap());
    assert!(!c.data_dir().exists());

    for member in [&mut a, &mut b] {
        member.settings["timing"] = json!({"promote_timeout": "1s", "cool_down": "1s"});
    }
    let disk = Disk::mount(&b.dir.join("state"), "64k");
    found(&mut a, &mut b);
    let epoch = a.status()["epoch"].as_u64().unwrap();
    disk.fill();
    let server = a.postmaster();
    a.kill();
    kill_process(server, Signal::KILL).unwrap();
    b.until_alarm("floor_not_written");
    b.until_says("release_sent");
    assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());
    assert!(!b.is_writable());
    disk.free();
    until_calm(&b, "floor_not_written");
    let status = b.until_leads();
    assert!(status["epoch"].as_u64().unwrap() > epoch + 1, "{status:#}");
    assert_sound(&mut [&mut b]);
}

/// Clients that keep a connection each, until no more are let in.
fn crowd(member: &Member) -> Crowd {
    let mut crowd = Crowd(Vec::new());
    until("every connection is taken", || {
        for _ in 0..4 {
            // Its server process goes with it, because it is idle.
            let mut client = member.session();
            client.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            crowd.0.push(client.spawn().unwrap());
        }
        match member.sql("select 1") {
            Err(said) if said.contains("too many clients") => Ok(()),
            said => Err(format!("{said:?}")),
        }
    });
    crowd
}

struct Crowd(Vec<Child>);

impl Drop for Crowd {
    fn drop(&mut self) {
        for client in &mut self.0 {
            // It may have been refused and have ended.
            let _ended = client.kill();
            let _ended = client.wait();
        }
    }
}

#[test]
fn no_connection_left_is_not_death() {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(|settings| {
        impatient(settings);
        settings["database"]["local"]["parameters"]["max_connections"] = json!("10");
        settings["timing"] = json!({"lease_duration": "3s"});
    });
    // Whatever only waits for a connection has to give up in the time of this test.
    a.settings["timing"]["start_timeout"] = json!("2s");
    let (epoch, server) = (a.status()["epoch"].clone(), a.postmaster());
    let taken = crowd(&a);
    assert_goes_on(&a, Some(&b), &epoch);
    // An agent that has no connection yet finds none.
    a.kill();
    let more = crowd(&a);
    a.start();
    a.until_alarm("connections_exhausted");
    let status = a.until("it goes on", |status| status["state"] == "primary_healthy");
    assert_goes_on(&a, Some(&b), &status["epoch"]);
    drop((taken, more));
    until_calm(&a, "connections_exhausted");
    a.until_leads();
    assert_eq!(a.postmaster(), server);
    b.until_follows();
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_server_that_does_not_let_the_agent_in_goes_on() {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(|settings| {
        settings["timing"] = json!({"lease_duration": "3s"});
    });
    // Whatever only waits for it has to give up in the time of this test.
    for member in [&mut a, &mut b] {
        member.settings["timing"]["start_timeout"] = json!("2s");
    }
    let servers = [a.postmaster(), b.postmaster()];
    let mut rules = Vec::new();
    for (member, server) in [&a, &b].into_iter().zip(servers) {
        let path = member.data_dir().join("pg_hba.conf");
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("local all all reject\n{good}")).unwrap();
        kill_process(server, Signal::HUP).unwrap();
        until("it lets nobody in", || member.sql("select 1").err().ok_or_else(String::new));
        rules.push((path, good));
    }
    for member in [&mut b, &mut a] {
        member.kill();
        member.start();
    }
    a.until_alarm("database_denied");
    a.until_says("does not let the agent in");
    a.until_says("pg_hba.conf rejects");
    let status = a.until("it goes on", |status| status["state"] == "primary_healthy");
    assert_goes_on(&a, Some(&b), &status["epoch"]);
    for ((path, good), server) in rules.into_iter().zip(servers) {
        std::fs::write(&path, good).unwrap();
        kill_process(server, Signal::HUP).unwrap();
    }
    until_calm(&a, "database_denied");
    a.until_leads();
    b.until_follows();
    assert_eq!([a.postmaster(), b.postmaster()], servers);
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn hard_work_is_not_death() {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(|settings| {
        impatient(settings);
        // What the machine has to do besides must not decide this.
        settings["profile"] = json!("standard");
    });
    let epoch = a.status()["epoch"].clone();
    a.sql("create table big as select g, repeat('x', 200) x from generate_series(1, 60000) g")
        .unwrap();
    let work = [
        "update big set x = repeat('y', 300)",
        "vacuum full big",
        "select count(*) from generate_series(1, 4000000) g, pg_sleep(1)",
        "begin; lock table big in share mode; select pg_sleep(3)",
        "checkpoint; insert into big select g, 'z' from generate_series(1, 20000) g; checkpoint",
        "checkpoint; checkpoint; checkpoint; checkpoint",
    ];
    let mut work: Vec<Child> = work
        .iter()
        .map(|sql| a.psql(sql).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    until("the work is done", || {
        let status = a.status();
        assert_eq!(
            (&status["state"], &status["epoch"]),
            (&json!("primary_healthy"), &epoch),
            "{}",
            a.log()
        );
        assert_eq!(status["alarms"], json!([]), "{}", a.log());
        let done = work.iter_mut().all(|client| client.try_wait().unwrap().is_some());
        done.then_some(()).ok_or_else(|| "it goes on".to_owned())
    });
    for client in work {
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    b.until_follows();
    assert!(!b.log().contains("acquire_sent"), "{}", b.log());
    assert_eq!(count(&a), 0);
    assert_sound(&mut [&mut a, &mut b]);
}
