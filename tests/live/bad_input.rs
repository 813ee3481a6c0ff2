//! What is wrong with the store — records, its file, names in it, its servers — is said in clear
//! words, harms nobody, and is over once it is mended.

use std::fs;
use std::time::Duration;
use tokio::time::Instant;

use harmony_agent::core::ids::{Epoch, Incarnation, Revision};
use harmony_agent::core::records::{Header, Key, Lease, Record, Slot};
use harmony_agent::core::time::StoreTime;
use harmony_agent::store::{Versioned, codec};
use rusqlite::{Connection, params};
use serde_json::json;

use super::checks::{
    LONG, assert_fails, assert_nobody_writes, assert_sound, count, until_fenced, until_healed,
};
use super::cluster::{Member, Place, has_alarm, until};
use crate::support::nats;

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
