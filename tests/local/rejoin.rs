//! Coming back: by start, by rewind, by clone; and not with another cluster's data.

use std::collections::BTreeSet;
use std::process::Command;

use harmony_agent::core::event::{Action, Done, Process};
use harmony_agent::core::ids::TimelineId;
use harmony_agent::database::Database;
use rustix::process::Signal;
use serde_json::json;

use crate::support::postgres::{Member, Scene, pair, timed};

#[tokio::test]
async fn after_a_clean_hand_over_a_start_is_enough() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    b.until_has_all_of(&a).await;
    // However busy the machine is: a stop that is cut short is another story.
    assert!(a.fence(20_000, 20_000).await.clean);
    b.done(Action::Promote).await;
    b.query("insert into t values (1)").await;
    let done = timed("rejoin by start", a.done(Action::Rejoin { upstream: b.upstream() })).await;
    assert_eq!(done, Done::Rejoined { by: "start" });
    a.until_has_all_of(&b).await;
    assert_eq!(a.query("select n from t").await, "1");
    assert!(a.aside().is_empty() && a.left().is_empty());
    // Again, on the running standby.
    let done = a.done(Action::Rejoin { upstream: b.upstream() }).await;
    assert_eq!(done, Done::Rejoined { by: "start" });
}

/// A standby's control file names the timeline it came from until its next restartpoint.
#[tokio::test]
async fn to_and_fro_within_a_checkpoint_needs_no_rewind_and_loses_nothing() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    let (mut old, mut new) = (&a, &b);
    for round in 1..=4 {
        old.query(&format!("insert into t values ({round})")).await;
        old.fence(5_000, 5_000).await;
        if round % 2 == 0 {
            new.done(Action::Promote).await;
        }
        // Begun while the new one is still a standby, in every other round.
        let rejoined = old.done(Action::Rejoin { upstream: new.upstream() });
        let done = if round % 2 == 0 {
            rejoined.await
        } else {
            tokio::join!(rejoined, new.done(Action::Promote)).0
        };
        assert_eq!(done, Done::Rejoined { by: "start" }, "round {round}");
        old.until_has_all_of(new).await;
        (old, new) = (new, old);
    }
    assert!(a.left().is_empty() && b.left().is_empty(), "nothing was written that is not there");
    assert_eq!(a.query("select count(*) from t").await, "4");
}

#[tokio::test]
async fn what_the_new_primary_does_not_have_is_rewound() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    b.done(Action::Promote).await;
    b.query("insert into t values (1)").await;
    a.query("insert into t select generate_series(10, 2000)").await;
    Member::signal(a.pid(), Signal::KILL);
    a.fence(0, 0).await;
    let steps = steps(&a);
    let done = timed("rejoin by rewind", a.done(Action::Rejoin { upstream: b.upstream() })).await;
    assert_eq!(done, Done::Rejoined { by: "rewind" });
    let steps = steps.await.unwrap();
    let named =
        ["keeping WAL that the primary does not have", "rewinding", "starting as a standby"];
    assert!(named.iter().all(|step| steps.contains(*step)), "{steps:?}");
    assert_kept(&a, 1_500);
    a.until_has_all_of(&b).await;
    assert_eq!(a.query("select n from t").await, "1");
    let seen = a.look().await;
    assert_eq!((seen.process, seen.timeline), (Process::RunningStandby, TimelineId(2)));
    assert!(a.aside().is_empty());
}

#[tokio::test]
async fn when_too_much_was_kept_already_it_rejoins_all_the_same() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    for number in 0..16 {
        std::fs::create_dir(scene.path().join(format!("a.left-1-0_{number}"))).unwrap();
    }
    b.done(Action::Promote).await;
    a.query("insert into t values (7)").await;
    a.fence(0, 0).await;
    let done = a.done(Action::Rejoin { upstream: b.upstream() }).await;
    assert_eq!(done, Done::Rejoined { by: "rewind" });
    a.until_has_all_of(&b).await;
    assert_eq!(a.left().len(), 16, "none is added, and none removed");
}

#[tokio::test]
async fn where_a_rewind_is_impossible_it_is_cloned_and_the_old_data_kept() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    b.done(Action::Promote).await;
    a.query("insert into t values (7)").await;
    a.fence(0, 0).await;
    for entry in std::fs::read_dir(a.settings.data_dir.join("pg_wal")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let done = timed("rejoin by clone", a.done(Action::Rejoin { upstream: b.upstream() })).await;
    assert_eq!(done, Done::Rejoined { by: "clone" });
    a.until_streams_from(&b).await;
    assert_eq!(a.query("select count(*) from t").await, "0");
    let aside = a.aside();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(aside[0].join("PG_VERSION").exists());
}

#[tokio::test]
async fn a_standby_that_waits_for_wal_that_is_gone_is_cloned() {
    let scene = Scene::new();
    let member = |name| {
        let mut settings = scene.settings(name);
        settings.wal_keep_mib = 0;
        Member::new(settings)
    };
    let (a, b) = (member("a"), member("b"));
    a.begin().await;
    b.done(Action::Clone { upstream: a.upstream() }).await;
    b.until_streams_from(&a).await;
    a.query("checkpoint").await;
    b.until_has_all_of(&a).await;
    b.query("checkpoint").await;
    for _ in 0..3 {
        a.query("create table t as select generate_series(1, 1000) as n").await;
        a.query("select pg_switch_wal()").await;
        // A standby that has removed a file must get at least here before it is consistent again.
        a.query("drop table t").await;
        b.until_has_all_of(&a).await;
    }
    b.fence(0, 0).await;
    let segments = wal_segments(&b);
    let (begun, lost) = segments.split_at(1);
    for segment in lost {
        std::fs::remove_file(b.settings.data_dir.join("pg_wal").join(segment)).unwrap();
    }
    // The primary needs none of it any more either.
    for _ in 0..2 {
        a.query("create table t (n int)").await;
        a.query("drop table t").await;
        a.query("select pg_switch_wal()").await;
        a.query("checkpoint").await;
    }
    assert!(lost.first().is_some_and(|next| !wal_segments(&a).contains(next)), "{lost:?}");
    let rejoin = Action::Rejoin { upstream: a.upstream() };
    let done = timed("rejoin where WAL is gone", b.done(rejoin)).await;
    assert_eq!(done, Done::Rejoined { by: "clone" }, "recovery began in {begun:?}");
    b.until_has_all_of(&a).await;
    assert_eq!(b.aside().len(), 1);
}

/// The steps that a member's action goes through, until it is over.
fn steps(member: &Member) -> tokio::task::JoinHandle<BTreeSet<String>> {
    let mut progress = member.local.progress();
    tokio::spawn(async move {
        let mut steps = BTreeSet::new();
        while progress.changed().await.is_ok() {
            let Some(step) = progress.borrow_and_update().as_ref().map(|it| it.step.clone()) else {
                break;
            };
            steps.insert(step);
        }
        steps
    })
}

/// What it wrote alone is kept, said of, and can be read: at least so many inserts.
fn assert_kept(member: &Member, inserts: usize) {
    let left = member.left();
    assert_eq!(left.len(), 1, "{left:?}");
    let note = std::fs::read_to_string(left[0].join("README.json")).unwrap();
    let note: serde_json::Value = serde_json::from_str(&note).unwrap();
    assert_eq!(note["timeline"], 1, "{note}");
    assert_eq!((&note["end_is_exact"], &note["not_kept"]), (&true.into(), &json!([])), "{note}");
    assert!(note["bytes"].as_u64().unwrap() > 50 * inserts as u64, "{note}");
    let told = Command::new(member.settings.bin_dir.join("pg_waldump"))
        .arg("--path")
        .arg(&left[0])
        .args(["--timeline", "1"])
        .args(["--start", note["fork"].as_str().unwrap(), "--end", note["end"].as_str().unwrap()])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let found = told.lines().filter(|line| line.contains("INSERT")).count();
    assert!(found >= inserts, "{found} of {inserts}");
    assert!(told.lines().any(|line| line.contains("COMMIT")), "the transaction is there");
}

/// Names of the WAL files, from the one that recovery begins with, in order.
fn wal_segments(member: &Member) -> Vec<String> {
    let program = member.settings.bin_dir.join("pg_controldata");
    let output =
        Command::new(program).env("LC_ALL", "C").arg(&member.settings.data_dir).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("REDO WAL file")).unwrap();
    let first = line.split_whitespace().last().unwrap();
    let entries = std::fs::read_dir(member.settings.data_dir.join("pg_wal")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name.len() == first.len() && name.as_str() >= first).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_standby_ahead_of_the_new_primary_is_brought_back() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    let c = scene.member("c");
    c.done(Action::Clone { upstream: a.upstream() }).await;
    c.until_streams_from(&a).await;
    // b falls behind, c gets more, and b is the one promoted.
    b.done(Action::Follow { upstream: None }).await;
    b.until(|seen| !seen.streaming).await;
    a.query("insert into t select generate_series(1, 500)").await;
    c.until_has_all_of(&a).await;
    a.fence(0, 0).await;
    b.done(Action::Promote).await;
    b.query("insert into t values (-1)").await;
    let done =
        timed("rejoin of a standby ahead", c.done(Action::Rejoin { upstream: b.upstream() }));
    assert_eq!(done.await, Done::Rejoined { by: "rewind" });
    c.until_has_all_of(&b).await;
    assert_eq!(c.query("select n from t").await, "-1");
    assert_kept(&c, 500);
}

#[tokio::test]
async fn another_clusters_data_is_not_touched() {
    let scene = Scene::new();
    let (a, foreign) = (scene.member("a"), scene.member("foreign"));
    a.begin().await;
    foreign.begin().await;
    foreign.fence(5_000, 5_000).await;
    let before = foreign.look().await;
    let why = foreign.refused(Action::Rejoin { upstream: a.upstream() }).await;
    assert!(why.contains("another cluster"), "{why}");
    assert_eq!(foreign.look().await, before);
    assert!(foreign.aside().is_empty());
}

#[tokio::test]
async fn an_interrupted_rewind_is_never_started() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    a.fence(5_000, 5_000).await;
    let mut beside = a.settings.data_dir.clone().into_os_string();
    beside.push(".harmony/rewind-0");
    // What is there when the agent is killed in the middle of it.
    std::fs::rename(&a.settings.data_dir, &beside).unwrap();
    assert_eq!(a.look().await.process, Process::Absent);
    b.done(Action::Promote).await;
    assert!(a.refused(Action::StartPrimary).await.contains("no data directory"));
    assert!(a.refused(Action::Bootstrap).await.contains("earlier cluster"));
    a.done(Action::Clone { upstream: b.upstream() }).await;
    a.until_streams_from(&b).await;
    assert_eq!(a.aside().len(), 1);
}

#[tokio::test]
async fn an_upstream_that_is_away_or_says_no_changes_nothing() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    a.fence(0, 0).await;
    b.fence(0, 0).await;
    let rejoin = Action::Rejoin { upstream: b.upstream() };
    let why = a.refused(rejoin.clone()).await;
    assert!(why.contains("cannot ask b"), "{why}");
    b.done(Action::StartPrimary).await;
    let mut settings = a.settings.clone();
    let wrong = scene.path().join("wrong");
    std::fs::write(&wrong, "not it\n").unwrap();
    settings.replication_password_file = Some(wrong);
    let other = Member::new(settings);
    let why = other.refused(rejoin).await;
    assert!(why.contains("password") && !why.contains("not it"), "{why}");
    let c = {
        let mut settings = other.settings.clone();
        settings.data_dir = scene.path().join("c");
        Member::new(settings)
    };
    let why = c.refused(Action::Clone { upstream: b.upstream() }).await;
    assert!(why.contains("password"), "{why}");
    assert_eq!(c.look().await.process, Process::Absent);
    assert_eq!(a.look().await.process, Process::StoppedPrimary);
}
