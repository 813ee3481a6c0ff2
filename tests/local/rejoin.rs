//! Coming back: by start, by rewind, by clone; and not with another cluster's data.

use harmony_agent::core::event::{Action, Done, Process};
use harmony_agent::core::ids::TimelineId;
use rustix::process::Signal;

use crate::support::postgres::{Member, Scene, pair, timed};

#[tokio::test]
async fn after_a_clean_hand_over_a_start_is_enough() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    a.fence(5_000, 5_000).await;
    b.done(Action::Promote).await;
    b.query("insert into t values (1)").await;
    let done = timed("rejoin by start", a.done(Action::Rejoin { upstream: b.upstream() })).await;
    assert_eq!(done, Done::Rejoined { by: "start" });
    a.until_has_all_of(&b).await;
    assert_eq!(a.query("select n from t").await, "1");
    assert!(a.aside().is_empty());
    // Again, on the running standby.
    let done = a.done(Action::Rejoin { upstream: b.upstream() }).await;
    assert_eq!(done, Done::Rejoined { by: "start" });
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
    let done = timed("rejoin by rewind", a.done(Action::Rejoin { upstream: b.upstream() })).await;
    assert_eq!(done, Done::Rejoined { by: "rewind" });
    a.until_has_all_of(&b).await;
    assert_eq!(a.query("select n from t").await, "1");
    let seen = a.look().await;
    assert_eq!((seen.process, seen.timeline), (Process::RunningStandby, TimelineId(2)));
    assert!(a.aside().is_empty());
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
