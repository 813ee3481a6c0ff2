//! What is wrong with the store — records, its file, names in it, its servers — is said in clear
//! words, harms nobody, and is over once it is mended.

use std::fs;
use std::time::Duration;
use tokio::time::Instant;

use harmony_agent::core::ids::{Epoch, Incarnation, Revision};
use harmony_agent::core::records::{ClusterState, Header, Key, Lease, Record, Slot};
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

    fn value(&self, key: &str) -> Vec<u8> {
        let newest = "SELECT value FROM revisions WHERE key = ?1 ORDER BY revision DESC";
        self.0.query_row(newest, [key], |row| row.get(0)).unwrap()
    }

    fn forget(&self, key: &str) {
        self.0.execute("DELETE FROM revisions WHERE key = ?1", [key]).unwrap();
    }

    fn lease(&self) -> (Header, Lease) {
        let value = self.value("lease");
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

    let half = b"{\"schema\":\"1.0.0\",\"lease\":{\"holder\":".to_vec();
    for (damage, words) in [(half, "not JSON"), (vec![b'x'; 1 << 20], "longer than any record")] {
        let broken = hand.write("lease", &damage);
        until_fenced(&a);
        b.until_alarm("record_invalid");
        until_disobeyed(&b, "lease", words);
        a.until_leads();
        b.until_follows();
        b.until("the lease is valid again", |s| !has_alarm(s, "record_invalid"));

        assert!(hand.revision("lease") > broken);
        assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());
        assert_eq!(count(&a), 1);
    }
    assert_sound(&mut [&mut a, &mut b]);
}

/// Waits until a member has said that this record is not obeyed, and why.
fn until_disobeyed(member: &Member, key: &str, words: &str) {
    let said = |line: &str| [key, words, "not obeyed"].iter().all(|words| line.contains(words));
    until(words, || member.log().lines().any(said).then_some(()).ok_or_else(|| member.log()));
}

/// The record in other words, as somebody else could have written it.
fn reworded<T>(hand: &Hand, key: &str, record: impl Fn(T) -> Record, foreign: bool) -> Vec<u8>
where
    T: for<'de> serde::Deserialize<'de>,
{
    let (revision, created) = (Revision(1), StoreTime(1));
    let value = hand.value(key);
    let versioned = Versioned { key: Key::parse(key).unwrap(), value, revision, created };
    let name = key.split('.').next().unwrap();
    let Slot::Valid { record: found, header, .. } =
        codec::decode::<T>(&versioned, name, &hand.incarnation())
    else {
        panic!("{key} is not valid: {:?}", String::from_utf8_lossy(&versioned.value))
    };
    let incarnation =
        if foreign { "another-life".parse().unwrap() } else { header.incarnation.clone() };
    codec::encode(&Header { incarnation, ..header }, &record(found))
}

/// What else is wrong beside the lease: who mends it, the agents or a person.
#[test]
fn a_bad_record_beside_the_lease_changes_nothing_but_the_alarm() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let hand = Hand::on(&place);
    let epoch = a.status()["epoch"].clone();
    let writer = a.writer();

    let half = |key: &str| hand.value(key)[..40].to_vec();
    let later = |key: &str| {
        let text = String::from_utf8(hand.value(key)).unwrap();
        text.replace("\"1.0.0\"", "\"2.0.0\"").into_bytes()
    };
    let foreign = |key: &str| match key {
        "cluster_state" => reworded(&hand, key, Record::ClusterState, true),
        _ => reworded(&hand, key, Record::Heartbeat, true),
    };
    let lower = |key: &str| {
        let lower = |state: ClusterState| {
            let epoch = Epoch(state.epoch.0 - 1);
            Record::ClusterState(ClusterState { epoch, ..state })
        };
        reworded(&hand, key, lower, false)
    };
    type Case<'a> = (&'a str, &'a dyn Fn(&str) -> Vec<u8>, Option<&'a str>, bool);
    let cases: [Case<'_>; 7] = [
        // Key, what is there now, why it is not obeyed, and whether a person has to mend it.
        ("cluster_state", &half, Some("not JSON"), false),
        ("cluster_state", &later, Some("2.0.0"), true),
        ("cluster_state", &foreign, Some("another-life"), true),
        ("cluster_state", &lower, None, false),
        ("heartbeat.b", &half, Some("not JSON"), false),
        ("heartbeat.b", &later, Some("2.0.0"), false),
        ("heartbeat.b", &foreign, Some("another-life"), false),
    ];
    for (key, wrong, words, by_hand) in cases {
        let (good, bad) = (hand.value(key), wrong(key));
        let written = hand.write(key, &bad);
        if let Some(words) = words {
            until_disobeyed(&a, key, words);
        }
        if by_hand {
            for member in [&a, &b] {
                member.until_alarm("record_invalid");
                until_disobeyed(member, key, words.unwrap());
            }
            std::thread::sleep(LONG);
            assert_eq!(hand.revision(key), written, "{key} {words:?}: overwritten");
            hand.write(key, &good);
        }
        let mended = || (hand.value(key) != bad).then_some(()).ok_or_else(|| a.log());
        until(&format!("{key} is mended"), mended);
        for member in [&a, &b] {
            member.until("every record is valid again", |s| !has_alarm(s, "record_invalid"));
        }
        assert_eq!(a.until_leads()["epoch"], epoch, "{key} {words:?}");
        b.until_follows();
    }
    let (written, gap) = writer.stop();
    assert!(written > 10 && gap < Duration::from_secs(1), "{written} commits, {gap:?} without");
    assert_eq!(count(&a), written);
    assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());
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
            until_disobeyed(member, "", words);
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
    let (binary, version) = nats::old_binary();
    let server = nats::Server::start_binary(binary, "");
    let mut a = place.member("a");
    on_nats(&mut a, &server);
    a.start();
    assert_waits(&mut a);
    a.until_says(&format!("version {version}"));
    assert_sound(&mut [&mut a]);
}
