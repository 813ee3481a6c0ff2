//! `member list|show|remove|drain` on a store that no agent writes to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use harmony_agent::core::event::State;
use harmony_agent::core::ids::{Epoch, Lsn, MemberId, TimelineId};
use harmony_agent::core::records::{
    Address, ClusterState, Header, Heartbeat, Key, Lease, MemberSettings, Position, Record,
    Snapshot,
};
use harmony_agent::store::{self, Expected, Settings, Store, Write, WriteOutcome, codec, sqlite};

use super::{output, text};

const LIMIT: Duration = Duration::from_secs(5);

/// A cluster that was described once: `a` leads, `b` and `c` follow, `d` is known and has not reported.
struct Place {
    directory: tempfile::TempDir,
    store: Arc<dyn Store>,
    writes: u64,
}

fn name(member: &str) -> MemberId {
    member.parse().unwrap()
}

fn address(member: &str) -> Address {
    Address { host: format!("{member}.example"), port: 5432, http: None }
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::Sqlite(sqlite::Settings { path: Self::path(&directory) });
        let (cluster_id, member) = ("main".parse().unwrap(), name("a"));
        let store = store::open(&cluster_id, &member, &settings, LIMIT).await.unwrap();
        let mut place = Self { directory, store, writes: 0 };
        place.put(Key::ClusterState, Record::ClusterState(cluster())).await;
        for member in ["b", "c"] {
            place.reports(member, |_| {}).await;
        }
        place.leads("a").await;
        place
    }

    fn path(directory: &tempfile::TempDir) -> PathBuf {
        directory.path().join("store.sqlite")
    }

    async fn put(&mut self, key: Key, record: Record) {
        self.writes += 1;
        let listing = self.store.list(LIMIT).await.unwrap();
        let found = listing.iter().find(|it| it.key == key);
        let expected = found.map_or(Expected::Absent, |it| Expected::Revision(it.revision));
        let operation = format!("test-{}", self.writes);
        let header = Header {
            incarnation: self.store.incarnation(),
            operation: operation.clone(),
            member: name("a"),
            boot: "test".parse().unwrap(),
        };
        let value = codec::encode(&header, &record);
        let write = Write { key, expected, value, operation };
        let outcome = self.store.compare_and_set(&write, LIMIT).await;
        assert!(matches!(outcome, WriteOutcome::Applied { .. }), "{outcome:?}");
    }

    async fn leads(&mut self, member: &str) {
        let lease = Lease {
            holder: name(member),
            boot: format!("boot-{member}").parse().unwrap(),
            instance: format!("instance-{member}").parse().unwrap(),
            epoch: Epoch(3),
            seq: self.writes,
            status: State::PrimaryHealthy,
            lease_duration: Duration::from_secs(1),
            database: position(),
            address: address(member),
            described: None,
            token: None,
            synchronous: BTreeSet::new(),
            released: None,
        };
        self.put(Key::Lease, Record::Lease(lease)).await;
    }

    async fn reports(&mut self, member: &str, change: impl FnOnce(&mut Heartbeat)) {
        let mut heartbeat = Heartbeat {
            boot: format!("boot-{member}").parse().unwrap(),
            instance: format!("instance-{member}").parse().unwrap(),
            seq: self.writes,
            status: State::ReplicaWatching,
            epoch: Epoch(3),
            database: position(),
            address: address(member),
            priority: 1,
            site: "north".parse().ok(),
            streaming: true,
            lag: 0,
            ineligible: None,
            doubtful: None,
        };
        change(&mut heartbeat);
        self.put(Key::Heartbeat(name(member)), Record::Heartbeat(heartbeat)).await;
    }

    async fn snapshot(&self) -> Snapshot {
        codec::snapshot(&self.store.list(LIMIT).await.unwrap(), &self.store.incarnation())
    }

    async fn cluster(&self) -> ClusterState {
        self.snapshot().await.cluster.record().cloned().unwrap()
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let store = format!("store.sqlite.path={}", Self::path(&self.directory).display());
        let settings = ["--cluster-id=main", "--member=a", "--profile=fast", "--data-dir=/nowhere"];
        let bin_dir = "database.local.bin_dir=/usr/bin";
        let all = [&["member"], arguments, &settings, &["--set", &store, "--set", bin_dir]];
        output(&all.concat())
    }

    fn done(&self, arguments: &[&str]) -> String {
        let ended = self.ask(arguments);
        assert!(ended.status.success(), "{arguments:?}: {}", text(&ended.stderr));
        text(&ended.stdout)
    }

    async fn refused(&self, arguments: &[&str], words: &[&str]) {
        let before = self.snapshot().await;
        let ended = self.ask(arguments);
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(75), "{arguments:?}: {said}");
        for words in words {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(self.snapshot().await, before, "{arguments:?}");
    }
}

fn position() -> Position {
    let (timeline, lsn) = (TimelineId(2), Lsn(0x3000_0060));
    Position { system: None, timeline, lsn, replayed: lsn }
}

fn cluster() -> ClusterState {
    let settings = |member: &&str| {
        let instance = format!("instance-{member}").parse().unwrap();
        (
            name(member),
            MemberSettings { instance, address: address(member), priority: 1, site: None },
        )
    };
    ClusterState {
        epoch: Epoch(3),
        primary: name("a"),
        system: None,
        timeline: TimelineId(2),
        members: ["a", "b", "c", "d"].iter().map(settings).collect(),
        drained: BTreeSet::new(),
        removed: BTreeMap::new(),
        paused: None,
        order: None,
        answer: None,
        settings: Default::default(),
        synchronous: Vec::new(),
        last_transition: String::new(),
    }
}

#[tokio::test]
async fn members_are_shown_as_the_store_has_them() {
    let mut place = Place::new().await;
    // What others write is not ours to trust.
    place.reports("c", |c| c.ineligible = Some("\u{1b}[2Jbehind".to_owned())).await;
    place.reports("b", |b| b.doubtful = Some("its webhook is away".to_owned())).await;
    let said = place.done(&["list"]);
    let line = |member: &str| said.lines().find(|line| line.trim().starts_with(member)).unwrap();
    for (member, words) in [
        ("a", &["primary", "primary_healthy", "a.example:5432"][..]),
        (
            "b",
            &["replica", "replica_watching", "north", "yes; for now by", "webhook is away", "0 B"],
        ),
        ("c", &["no: \u{fffd}[2Jbehind"]),
        ("d", &["unknown", "no: has not reported"]),
    ] {
        words.iter().for_each(|words| assert!(line(member).contains(words), "{words}: {said}"));
    }
    let rows: serde_json::Value = serde_json::from_str(&place.done(&["list", "--json"])).unwrap();
    assert_eq!(rows[1]["member"], "b");
    assert_eq!(rows[1]["ineligible"], serde_json::Value::Null);
    let sheet = place.done(&["show", "b"]);
    for words in ["instance-b", "30000060", "north", "drained            no"] {
        assert!(sheet.contains(words), "{words}: {sheet}");
    }
    let row: serde_json::Value =
        serde_json::from_str(&place.done(&["show", "a", "--json"])).unwrap();
    assert_eq!((&row["primary"], &row["admitted"]), (&true.into(), &"instance-a".into()));
    place.refused(&["show", "x"], &["no member x", "a, b, c, d"]).await;
}

#[tokio::test]
async fn a_member_is_removed_when_it_is_silent_and_not_the_primary() {
    let mut place = Place::new().await;
    place.refused(&["remove", "a", "--yes"], &["a is the primary", "switchover"]).await;
    place.refused(&["remove", "x", "--yes"], &["no member x", "a, b, c, d"]).await;
    place.refused(&["remove", "b", "--yes"], &["the agent of b reported", "stop it"]).await;
    let unasked = place.ask(&["remove", "d"]);
    assert_eq!(unasked.status.code(), Some(64), "{}", text(&unasked.stderr));
    assert!(place.cluster().await.members.contains_key(&name("d")));
    // It never reported.
    assert!(place.done(&["remove", "d", "--yes"]).contains("d is removed"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    place.reports("b", |_| {}).await;
    place.leads("a").await;
    place.done(&["remove", "c", "--yes"]);
    place.refused(&["remove", "b", "--yes"], &["the agent of b reported"]).await;
    place.refused(&["remove", "c", "--yes"], &["no member c", "a, b"]).await;
    let cluster = place.cluster().await;
    assert_eq!(cluster.members.keys().map(MemberId::as_str).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(cluster.removed, [(name("c"), "boot-c".parse().unwrap())].into());
    let listed = place.done(&["list"]);
    assert!(!listed.contains("c.example"), "{listed}");
}

#[tokio::test]
async fn a_member_is_drained_unless_nobody_could_replace_it() {
    let mut place = Place::new().await;
    place.reports("c", |c| c.streaming = false).await;
    place.refused(&["drain", "x"], &["no member x"]).await;
    place.refused(&["drain", "x", "--off"], &["no member x"]).await;
    assert!(place.done(&["drain", "b", "--off"]).contains("b was not drained"));
    // The primary: somebody has to say yes, and would be told to whom.
    let unasked = place.ask(&["drain", "a"]);
    assert_eq!(unasked.status.code(), Some(64));
    assert!(text(&unasked.stderr).contains("b takes over"), "{}", text(&unasked.stderr));
    assert!(place.cluster().await.drained.is_empty());

    let only = place.ask(&["drain", "b"]);
    assert!(only.status.success() && text(&only.stderr).contains("nobody could take over"));
    assert!(place.done(&["drain", "b"]).contains("drained already"));
    let listed = place.done(&["list"]);
    assert!(listed.contains("no: drained"), "{listed}");
    place.refused(&["drain", "a", "--yes"], &["nobody could take over from it"]).await;
    place.done(&["drain", "b", "--off"]);
    assert!(place.cluster().await.drained.is_empty());

    // No agent carries the order out: it is withdrawn, and the member stays drained.
    let ended = place.ask(&["drain", "a", "--yes"]);
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(69), "{said}");
    assert!(said.contains("withdrawn") && said.contains("a stays drained"), "{said}");
    let cluster = place.cluster().await;
    assert_eq!((cluster.order, cluster.drained.contains(&name("a"))), (None, true));
}
