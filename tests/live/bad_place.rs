//! What is wrong with the place a member lives in — data directories, ports, passwords, settings — is
//! said in clear words, harms nobody, and is over once it is mended.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::checks::{LONG, assert_fails, assert_sound};
use super::cluster::{Member, Place};
use crate::support::postgres::need_root;

#[test]
fn data_that_is_not_ours_is_left_alone() {
    let place = Place::new();
    let (mut a, mut b) = (place.member("a"), place.member("b"));
    a.start();
    a.until_leads();

    // Somebody's files.
    let data = b.data_dir();
    fs::create_dir(&data).unwrap();
    fs::write(data.join("thesis.txt"), "all of it").unwrap();
    place.give_away(&data);
    b.start();
    b.until_alarm("database_broken");
    b.until_says("database cannot be run");
    std::thread::sleep(LONG);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(data.join("thesis.txt")).unwrap(), "all of it");
    fs::rename(&data, b.dir.join("thesis")).unwrap();
    b.until_follows();
    assert!(b.stop().success(), "{}", b.log());

    // Another cluster's database.
    let elsewhere = Place::new();
    let mut x = elsewhere.member("x");
    x.start();
    x.until_leads();
    x.sql("create table theirs (n int)").unwrap();
    assert!(x.stop().success(), "{}", x.log());
    fs::rename(&data, b.dir.join("ours")).unwrap();
    let copied = Command::new("cp").arg("-a").arg(x.data_dir()).arg(&data).status().unwrap();
    assert!(copied.success());
    let control = fs::read(data.join("global/pg_control")).unwrap();
    b.start();
    b.until_alarm("foreign_data");
    std::thread::sleep(LONG);
    assert_eq!(fs::read(data.join("global/pg_control")).unwrap(), control);
    assert!(b.sql("select 1").is_err(), "it was started");
    fs::rename(&data, b.dir.join("theirs")).unwrap();
    b.until_follows();
    a.until_leads();
    assert_sound(&mut [&mut a, &mut b]);
}

/// A process that has nothing to do with the member whose postmaster.pid names it.
struct Innocent(Child);

fn leave_stale_pid(place: &Place, member: &Member) -> Innocent {
    let innocent = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let file = member.data_dir().join("postmaster.pid");
    let stale = format!(
        "{}\n{}\n1700000000\n{}\n{}\n127.0.0.1\n  1234567     65536\nready   \n",
        innocent.id(),
        member.data_dir().display(),
        member.port,
        member.dir.join("socket").display()
    );
    fs::write(&file, stale).unwrap();
    place.give_away(&file);
    Innocent(innocent)
}

impl Innocent {
    fn assert_unharmed(mut self) {
        let ended = self.0.try_wait().unwrap();
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        assert_eq!(ended, None, "the innocent process was ended");
    }
}

#[test]
fn a_database_that_cannot_run_is_said_and_runs_once_it_can() {
    need_root();
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let data = b.data_dir();

    // Its port is somebody else's.
    assert!(b.stop().success(), "{}", b.log());
    let listener = TcpListener::bind(("127.0.0.1", b.port)).unwrap();
    b.start();
    b.until_says(&format!("port {}", b.port));
    assert!(b.runs());
    drop(listener);
    b.until_follows();

    // Its postmaster.pid names somebody who has nothing to do with it.
    assert!(b.stop().success(), "{}", b.log());
    let innocent = leave_stale_pid(&place, &b);
    b.start();
    b.until_follows();
    innocent.assert_unharmed();

    // It is somebody else's.
    assert!(b.stop().success(), "{}", b.log());
    std::os::unix::fs::chown(&data, Some(0), Some(0)).unwrap();
    b.start();
    b.until_alarm("database_broken");
    b.until_says("owner");
    let (uid, gid) = super::cluster::postgres_ids();
    std::os::unix::fs::chown(&data, Some(uid), Some(gid)).unwrap();
    b.until_follows();
    a.until_leads();
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_primary_that_cannot_start_is_said_and_starts_once_it_can() {
    let place = Place::new();
    let mut a = place.member("a");
    // From the very beginning, and beside data.
    for _ in 0..2 {
        let listener = TcpListener::bind(("127.0.0.1", a.port)).unwrap();
        a.start();
        a.until_says(&format!("running on port {}", a.port));
        a.until_alarm("database_broken");
        assert!(a.runs());
        drop(listener);
        a.until_leads();
        assert!(a.stop().success(), "{}", a.log());
        fs::remove_file(a.dir.join("agent.log")).unwrap();
    }
    // After a crash its postmaster.pid may name somebody who has nothing to do with it.
    a.start();
    a.until_leads();
    let server = a.postmaster();
    a.kill();
    kill_process(server, Signal::KILL).unwrap();
    let innocent = leave_stale_pid(&place, &a);
    a.start();
    a.until_leads();
    innocent.assert_unharmed();
    assert_sound(&mut [&mut a]);
}

#[test]
fn a_wrong_replication_password_is_said_and_mended() {
    let place = Place::new();
    let (mut a, mut b) = (place.member("a"), place.member("b"));
    a.start();
    a.until_leads();
    let password = b.dir.join("password");
    fs::write(&password, "wrong").unwrap();
    b.settings["database"]["local"]["replication_password_file"] = json!(password);
    b.start();
    b.until_alarm("rejoin_failed");
    b.until_says("password authentication failed");
    fs::copy(place.path().join("password"), &password).unwrap();
    b.until_follows();
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn settings_that_cannot_work_end_the_agent_at_once() {
    let place = Place::new();
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let secret = place.path().join("secret");
    let cases: [(&str, Value, &[&str]); 8] = [
        ("/lease", json!(1), &["lease"]),
        ("/timing/lease_duration", json!("300ms"), &["lease_duration 300ms"]),
        ("/timing/lease_duration", json!(3), &["timing.lease_duration"]),
        ("/timing/lease_durration", json!("1s"), &["timing.lease_duration"]),
        ("/cluster_id", json!(""), &["cluster_id"]),
        ("/cluster_id", json!("a b/../c"), &["cluster_id"]),
        ("/database/local/bin_dir", json!(empty), &["bin_dir"]),
        (
            "/database/local/replication_password_file",
            json!(secret),
            &["replication_password_file", "cannot be read"],
        ),
    ];
    for (number, (pointer, value, words)) in cases.into_iter().enumerate() {
        let mut member = place.member_as("a", &format!("m{number}"));
        let mut at = &mut member.settings;
        for name in pointer.split('/').skip(1) {
            at = &mut at[name];
        }
        *at = value;
        assert_fails(&member.run(), 78, words);
        assert!(!member.data_dir().exists(), "{pointer}");
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_harmony-agent"))
        .args(["run", "--config", "/nowhere/agent.toml"])
        .output()
        .unwrap();
    assert_fails(&missing, 66, &["/nowhere/agent.toml"]);
    assert!(!place.store().exists());
}
