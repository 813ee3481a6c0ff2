//! `history` over a real store's file.

use std::path::Path;
use std::time::Duration;

use harmony_agent::core::event::State;
use harmony_agent::core::ids::{Epoch, Lsn, MemberId, Revision};
use harmony_agent::core::journal::{
    Asked, AtRisk, Contender, Demotion, Ending, Evidence, Fence, Phase, ReleaseTold, Report, key,
};
use harmony_agent::core::records::{Header, Position, Record};
use harmony_agent::store::{Expected, Store, Write, WriteOutcome, codec, sqlite};

use super::{program, text};

const LIMIT: Duration = Duration::from_secs(10);

fn member(name: &str) -> MemberId {
    name.parse().unwrap()
}

fn report(epoch: u64) -> Report {
    let contender = |name: &str, place, against: Option<&str>| Contender {
        member: member(name),
        place,
        timeline: Default::default(),
        lsn: Lsn(0x300_0060),
        behind: 0,
        priority: 1,
        synchronous: false,
        age_ms: None,
        against: against.map(str::to_owned),
    };
    Report {
        epoch: Epoch(epoch),
        holder: member("b"),
        reason: "lease_released".to_owned(),
        outcome: Ending::Opened,
        at: "2026-11-21T12:00:00Z".to_owned(),
        evidence: Some(Evidence {
            holder: member("a"),
            epoch: Epoch(epoch - 1),
            revision: Some(Revision(77)),
            seq: 12,
            status: State::PrimaryYielding,
            database: Position::default(),
            lease_duration_ms: 15_000,
            unchanged_ms: Some(3),
            access_ms: Some(60_000),
            store_ms: Some(250),
            witness: None,
            release: Some(ReleaseTold {
                to: Some(member("b")),
                reason: "switchover".to_owned(),
                lsn: Some(Lsn(0x300_0060)),
                timeline: Default::default(),
            }),
            fence: Some(Fence {
                why: "switchover".to_owned(),
                rung: "fast".to_owned(),
                clean: true,
                took_ms: 57,
                demotion: Some(Demotion {
                    outcome: "applied".to_owned(),
                    token: true,
                    took_ms: 4_321,
                }),
            }),
        }),
        asked: Some(Asked {
            id: "1".to_owned(),
            wish: "switchover".to_owned(),
            to: Some(member("b")),
            // A terminal must not obey what somebody called himself.
            by: "eve\u{1b}[2J".to_owned(),
        }),
        contenders: vec![contender("b", Some(0), None), contender("c", None, Some("lag"))],
        at_risk: Some(AtRisk { bytes: 0, exact: true }),
        synchronous: Vec::new(),
        phases: vec![Phase { name: "promoted".to_owned(), took_ms: 43, budget_ms: Some(30_000) }],
        writable_ms: Some(88),
    }
}

async fn open(directory: &Path) -> sqlite::Sqlite {
    let settings = sqlite::Settings { path: directory.join("store.db") };
    sqlite::Sqlite::open(&"main".parse().unwrap(), &settings, LIMIT).await.unwrap()
}

async fn put(store: &sqlite::Sqlite, report: Report) {
    let key = key(report.epoch);
    let operation = format!("boot-{}", report.epoch);
    let header = Header {
        incarnation: store.incarnation(),
        operation: operation.clone(),
        member: member("b"),
        boot: "boot".parse().unwrap(),
    };
    let value = codec::encode(&header, &Record::Journal(Box::new(report)));
    let write = Write { key, expected: Expected::Absent, value, operation };
    let outcome = store.compare_and_set(&write, LIMIT).await;
    assert!(matches!(outcome, WriteOutcome::Applied { .. }), "{outcome:?}");
}

fn history(directory: &Path, arguments: &[&str]) -> std::process::Output {
    let store = format!("store.sqlite.path={}", directory.join("store.db").display());
    let bin = format!("database.local.bin_dir={}", directory.display());
    let data = format!("database.local.data_dir={}", directory.join("data").display());
    let state = format!("state_dir={}", directory.display());
    let mut command = program(arguments);
    command.args(["--cluster-id", "main", "--member", "a"]);
    for setting in [&store, &bin, &data, &state] {
        command.args(["--set", setting]);
    }
    command.output().unwrap()
}

#[tokio::test]
async fn the_journal_is_listed_and_each_report_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let store = open(directory).await;
    let empty = history(directory, &["history"]);
    assert_eq!(empty.status.code(), Some(0), "{}", text(&empty.stderr));
    assert!(text(&empty.stdout).contains("the journal is empty"), "{}", text(&empty.stdout));
    put(&store, report(7)).await;
    let given_up = Report {
        outcome: Ending::GivenUp("promotion_failed".to_owned()),
        writable_ms: None,
        ..report(8)
    };
    put(&store, given_up).await;

    let listed = history(directory, &["history"]);
    let listed = text(&listed.stdout);
    for part in ["EPOCH", "lease_released", "NOT OPENED: promotion_failed", "0.088 s", "eve"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    assert!(!listed.contains('\u{1b}'), "{listed:?}");
    let epochs = [listed.find("\n 8"), listed.find("\n 7")];
    assert!(epochs[0] < epochs[1] && epochs[0].is_some(), "the newest first: {listed}");

    let told = history(directory, &["history", "show", "7"]);
    let told = text(&told.stdout);
    for part in [
        "epoch 7: b became the primary",
        "asked for: switchover to b, by eve",
        "revision 77, duration 15.000 s; unchanged for 0.003 s",
        "0.250 s from the lease",
        "released the lease to b: switchover; its log ends at 0/3000060",
        "stopped for switchover: fast (clean), in 0.057 s",
        "made a standby in 4.321 s, and gave out a token",
        "Nothing was at risk",
        "b: number 1 in line",
        "c: not in line",
        "against it: lag",
        "promoted: 0.043 s (budget 30.000 s)",
        "writable 0.088 s after",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }

    let json = history(directory, &["history", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["reports"][1]["evidence"]["fence"]["took_ms"], 57);
    assert_eq!(json["reports"][0]["outcome"]["given_up"], "promotion_failed");
    let one = history(directory, &["history", "show", "7", "--json"]);
    let one: serde_json::Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(one, json["reports"][1]);

    let none = history(directory, &["history", "show", "9"]);
    assert_eq!(none.status.code(), Some(66));
    assert!(text(&none.stderr).contains("epochs 7 to 8"), "{}", text(&none.stderr));
}
