//! What is wrong around an agent — records, the store's file, names, servers, data directories,
//! settings — is said in clear words, harms nobody, and is over once it is mended.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokio::time::Instant;

use harmony_agent::core::ids::{Epoch, Incarnation, Revision};
use harmony_agent::core::records::{Header, Key, Lease, Record, Slot};
use harmony_agent::core::time::StoreTime;
use harmony_agent::store::{Versioned, codec};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::cluster::{Member, Place, has_alarm, until};
use crate::support::nats;
use crate::support::postgres::is_root;

/// Several times the lease duration and margin of the profile: who wanted to promote would have.
const LONG: Duration = Duration::from_secs(3);

/// The store's file, as somebody with an editor sees it.
struct Hand(Connection);

impl Hand {
    fn on(place: &Place) -> Self {
        let connection = Connection::open(place.store()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        Self(connection)
    }

    fn incarnation(&self) -> Incarnation {
        let text: String =
            self.0.query_one("SELECT incarnation FROM meta", [], |row| row.get(0)).unwrap();
        text.parse().unwrap()
    }

    /// Writes as nobody should: on whatever is there. Returns the revision.
    fn write(&self, key: &str, value: &[u8]) -> u64 {
        let operation = format!("by hand {}", uuid::Uuid::new_v4());
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let created = since_boot.tv_sec * 1_000_000_000 + since_boot.tv_nsec;
        self.0
            .execute(
                "INSERT INTO revisions (key, value, operation, created, wall)
                 VALUES (?1, ?2, ?3, ?4, 'now')",
                params![key, value, operation, created],
            )
            .unwrap();
        self.0.last_insert_rowid().try_into().unwrap()
    }

    fn revision(&self, key: &str) -> u64 {
        let newest = "SELECT max(revision) FROM revisions WHERE key = ?1";
        let newest: i64 = self.0.query_one(newest, [key], |row| row.get(0)).unwrap();
        newest.try_into().unwrap()
    }

    fn forget(&self, key: &str) {
        self.0.execute("DELETE FROM revisions WHERE key = ?1", [key]).unwrap();
    }

    fn lease(&self) -> (Header, Lease) {
        let newest = "SELECT value FROM revisions WHERE key = 'lease' ORDER BY revision DESC";
        let value: Vec<u8> = self.0.query_row(newest, [], |row| row.get(0)).unwrap();
        let (revision, created) = (Revision(1), StoreTime(1));
        let versioned = Versioned { key: Key::Lease, value, revision, created };
        match codec::decode::<Lease>(&versioned, "lease", &self.incarnation()) {
            Slot::Valid { record, header, .. } => (header, record),
            slot @ (Slot::Absent | Slot::Invalid { .. }) => panic!("{slot:?}"),
        }
    }

    fn write_lease(&self, header: &Header, lease: &Lease) -> u64 {
        let operation = format!("by-hand-{}", uuid::Uuid::new_v4());
        let header = Header { operation, ..header.clone() };
        self.write("lease", &codec::encode(&header, &Record::Lease(lease.clone())))
    }
}

/// Waits until one of the two leads and the other follows, the one that leads first.
pub(super) fn until_healed<'a>(a: &'a Member, b: &'a Member) -> (&'a Member, &'a Member) {
    let leads = |status: &Value| status["state"] == "primary_healthy" && status["writable"] == true;
    let (primary, standby) = until("the cluster heals", || match (a.status(), b.status()) {
        (said, _) if leads(&said) => Ok((a, b)),
        (_, said) if leads(&said) => Ok((b, a)),
        (one, other) => Err(format!("{one:#}\n{other:#}\n{}\n{}", a.log(), b.log())),
    });
    primary.until_leads();
    standby.until_follows();
    (primary, standby)
}

/// For a good while nobody accepts writes.
pub(super) fn assert_nobody_writes(members: &[&Member]) {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        for member in members {
            assert!(
                !member.is_writable(),
                "{} is writable\n{}",
                member.dir.display(),
                member.log()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(super) fn until_fenced(member: &Member) {
    until("the primary fences", || {
        (!member.is_writable()).then_some(()).ok_or_else(|| member.log())
    });
}

pub(super) fn assert_sound(members: &mut [&mut Member]) {
    for member in members {
        assert!(member.runs(), "the agent ended\n{}", member.log());
        let log = member.log();
        assert!(!log.contains("panicked") && !log.contains("service broke"), "{log}");
    }
}

pub(super) fn count(member: &Member) -> u32 {
    member.sql("select count(*) from t").unwrap().parse().unwrap()
}

#[test]
fn garbage_beside_the_lease_is_an_alarm_and_no_more() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let hand = Hand::on(&place);
    let epoch = a.status()["epoch"].clone();
    let writer = a.writer();
    let garbage = vec![b'x'; 1 << 20];

    hand.write("heartbeat.ghost", &garbage);
    hand.write("heartbeat.b", &garbage);
    hand.write("cluster_state", &garbage);
    for member in [&a, &b] {
        member.until_alarm("record_invalid");
        member.until_says("longer than any record");
    }
    b.until_says("heartbeat.ghost");
    std::thread::sleep(LONG);

    let (written, gap) = writer.stop();
    assert!(written > 10 && gap < Duration::from_secs(1), "{written} commits, {gap:?} without");
    assert_eq!(count(&a), written);
    assert_eq!(a.until_leads()["epoch"], epoch);
    b.until_follows();
    hand.forget("heartbeat.ghost");
    for member in [&a, &b] {
        member.until("every record is valid again", |s| !has_alarm(s, "record_invalid"));
    }
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_damaged_lease_is_mended_by_its_holder_alone() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    a.sql("insert into t values (1)").unwrap();
    let hand = Hand::on(&place);

    let broken = hand.write("lease", b"{\"schema\":\"1.0.0\",\"lease\":{\"holder\":");
    until_fenced(&a);
    b.until_says("not JSON");
    a.until_leads();
    b.until_follows();

    assert!(hand.revision("lease") > broken);
    assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());
    assert_eq!(count(&a), 1);
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_lease_that_must_not_be_obeyed_is_left_to_a_person() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    a.sql("insert into t values (1)").unwrap();
    let hand = Hand::on(&place);
    let later = |header: &Header, lease: &Lease| {
        let value = codec::encode(header, &Record::Lease(lease.clone()));
        let value = String::from_utf8(value).unwrap().replace("\"1.0.0\"", "\"2.0.0\"");
        hand.write("lease", value.as_bytes())
    };
    let lower = |header: &Header, lease: &Lease| {
        let lease = Lease { epoch: Epoch(lease.epoch.0 - 1), ..lease.clone() };
        hand.write_lease(header, &lease)
    };
    let foreign = |header: &Header, lease: &Lease| {
        let incarnation = "another-life".parse().unwrap();
        hand.write_lease(&Header { incarnation, ..header.clone() }, lease)
    };
    type Case<'a> = (&'a dyn Fn(&Header, &Lease) -> u64, &'a str);
    let cases: [Case<'_>; 3] = [(&later, "2.0.0"), (&lower, "epoch"), (&foreign, "another-life")];
    for (wrong, words) in cases {
        let (primary, standby) = until_healed(&a, &b);
        let (header, lease) = hand.lease();
        let written = wrong(&header, &lease);

        until_fenced(primary);
        for member in [primary, standby] {
            until(words, || {
                let said = |line: &&str| line.contains("not obeyed") && line.contains(words);
                member
                    .log()
                    .lines()
                    .any(|line| said(&line))
                    .then_some(())
                    .ok_or_else(|| member.log())
            });
        }
        assert_nobody_writes(&[primary, standby]);
        assert_eq!(hand.revision("lease"), written, "{words}: somebody wrote the lease");

        hand.write_lease(&header, &lease);
        let (primary, _) = until_healed(&a, &b);
        assert_eq!(count(primary), 1);
    }
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn another_store_in_the_place_of_ours_is_not_obeyed() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    a.sql("insert into t values (1)").unwrap();
    let (store, away) = (place.path().join("store"), place.path().join("store.away"));

    // Taken away.
    fs::rename(&store, &away).unwrap();
    until_fenced(&a);
    for member in [&a, &b] {
        member.until_alarm("store_rejects");
        member.until_says("store refuses to be read");
    }
    // Made anew, by an agent that starts and finds none.
    fs::create_dir(&store).unwrap();
    b.kill();
    b.start();
    b.until_alarm("store_not_obeyed");
    b.until_says("not obeyed");
    assert_nobody_writes(&[&a, &b]);
    assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());

    // The right one is put back.
    b.kill();
    fs::rename(&store, place.path().join("store.wrong")).unwrap();
    fs::rename(&away, &store).unwrap();
    b.start();
    let (primary, _) = until_healed(&a, &b);
    assert_eq!(count(primary), 1);
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn the_second_agent_with_a_name_goes() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let epoch = a.status()["epoch"].clone();
    let writer = a.writer();

    let mut same = place.member_as("a", "same");
    same.settings["state_dir"] = a.settings["state_dir"].clone();
    same.settings["database"] = a.settings["database"].clone();
    let began = Instant::now();
    let ended = same.run();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_fails(&ended, 75, &["locked by another agent"]);

    let mut other = place.member_as("a", "other");
    assert_fails(&other.run(), 78, &["give every member a name of its own"]);
    assert!(!other.data_dir().exists(), "the second made a database");

    let mut second = place.member_as("b", "second");
    assert_fails(&second.run(), 78, &["give every member a name of its own"]);

    std::thread::sleep(LONG);
    let (written, gap) = writer.stop();
    assert!(written > 10 && gap < Duration::from_secs(1), "{written} commits, {gap:?} without");
    assert_eq!(a.until_leads()["epoch"], epoch);
    b.until_follows();
    assert_eq!(count(&a), written);
    assert_sound(&mut [&mut a, &mut b]);
}

pub(super) fn on_nats(member: &mut Member, server: &nats::Server) {
    member.settings["store"] =
        json!({"backend": "nats", "nats": {"servers": [server.url()], "replicas": 1}});
}

/// Alive, not ready, and without a database that accepts writes.
pub(super) fn assert_waits(member: &mut Member) {
    until("it lives", || {
        member
            .get("/livez")
            .and_then(|(code, body)| (code == 200).then_some(()).ok_or_else(|| body.to_string()))
    });
    assert_nobody_writes(&[member]);
    let (code, body) = member.get("/livez").unwrap();
    assert_eq!(code, 200, "{body}");
    let (code, body) = member.get("/readyz").unwrap();
    assert_eq!(code, 503, "{body}");
    assert!(member.runs());
}

#[test]
fn a_store_that_is_not_there_yet_is_waited_for() {
    let place = Place::new();
    let mut server = nats::Server::start("");
    server.kill();
    let mut a = place.member("a");
    on_nats(&mut a, &server);
    a.start();
    assert_waits(&mut a);
    a.until_says("store not opened");
    assert!(!a.data_dir().exists(), "a database without a store");

    server.spawn();
    server.await_ready();
    a.until_leads();
    a.sql("create table t (n int)").unwrap();
    a.sql("insert into t values (1)").unwrap();

    // The same beside data, which must not be opened on nobody's word.
    assert!(a.stop().success(), "{}", a.log());
    server.kill();
    a.start();
    assert_waits(&mut a);
    server.spawn();
    server.await_ready();
    a.until_leads();
    assert_eq!(count(&a), 1);
    assert_sound(&mut [&mut a]);
}

#[test]
fn a_store_that_does_not_let_us_in_says_so() {
    let place = Place::new();
    let server = nats::Server::start("authorization { user: harmony, password: right }");
    let mut a = place.member("a");
    on_nats(&mut a, &server);
    let password = place.path().join("nats.password");
    fs::write(&password, "wrong").unwrap();
    a.settings["store"]["nats"]["user"] = json!("harmony");
    a.settings["store"]["nats"]["password_file"] = json!(password);
    a.start();
    assert_waits(&mut a);
    a.until_says("store not opened");
    until("the reason", || {
        let log = a.log().to_lowercase();
        log.contains("authorization").then_some(()).ok_or(log)
    });
    a.until_says("store.nats.password_file");
    // Credentials are read again at every try.
    fs::write(&password, "right").unwrap();
    a.until_leads();
    assert_sound(&mut [&mut a]);
}

#[test]
fn a_server_too_old_is_named() {
    let place = Place::new();
    let server = nats::Server::start_binary(nats::old_binary(), "");
    let mut a = place.member("a");
    on_nats(&mut a, &server);
    a.start();
    assert_waits(&mut a);
    a.until_says("2.9");
    assert_sound(&mut [&mut a]);
}

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

#[test]
fn a_database_that_cannot_run_is_said_and_runs_once_it_can() {
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
    let mut innocent = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let stale = format!(
        "{}\n{}\n1700000000\n{}\n{}\n127.0.0.1\n  1234567     65536\nready   \n",
        innocent.id(),
        data.display(),
        b.port,
        b.dir.join("socket").display()
    );
    fs::write(data.join("postmaster.pid"), stale).unwrap();
    place.give_away(&data.join("postmaster.pid"));
    b.start();
    b.until_follows();
    let ended = innocent.try_wait().unwrap();
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    assert_eq!(ended, None, "the innocent process was ended");

    // It is somebody else's.
    if is_root() {
        assert!(b.stop().success(), "{}", b.log());
        std::os::unix::fs::chown(&data, Some(0), Some(0)).unwrap();
        b.start();
        b.until_alarm("database_broken");
        b.until_says("owner");
        let (uid, gid) = super::cluster::postgres_ids();
        std::os::unix::fs::chown(&data, Some(uid), Some(gid)).unwrap();
        b.until_follows();
    }
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
    a.start();
    a.until_leads();
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

fn assert_fails(ended: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(code), "{text}");
    for words in words {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
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
