//! Beginning, copying, following, promoting.

use std::time::Duration;

use harmony_agent::core::event::{Action, ActionOutcome, Condition, Done, Process};
use harmony_agent::core::ids::TimelineId;
use harmony_agent::database::Database;
use harmony_agent::database::local::{Local, SetupError};
use tokio_util::sync::CancellationToken;

use crate::support::postgres::{Member, Scene, pair, timed};

#[tokio::test]
async fn begins_starts_and_writes() {
    let scene = Scene::new();
    let a = scene.member("a");
    assert_eq!(a.look().await.process, Process::Absent);
    a.done(Action::Bootstrap).await;
    let stopped = a.look().await;
    assert_eq!(
        (stopped.process, &stopped.condition),
        (Process::StoppedPrimary, &Condition::Stopped)
    );
    timed("start", a.done(Action::StartPrimary)).await;
    a.query("create table t as select 1 as n").await;
    let seen = a.look().await;
    assert_eq!((seen.process, seen.condition), (Process::RunningPrimary, Condition::Ok));
    assert_eq!(seen.system, stopped.system);
    assert_eq!(seen.timeline, TimelineId(1));
    assert!(seen.lsn > stopped.lsn);
    let pid = a.pid();
    a.done(Action::StartPrimary).await;
    assert_eq!(a.pid(), pid, "a running primary is left as it is");
    let password =
        a.query("select rolpassword from pg_authid where rolname = 'harmony_replica'").await;
    assert!(password.starts_with("SCRAM-SHA-256$"), "{password}");
}

#[tokio::test]
async fn nothing_is_begun_over_data() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    let before = a.look().await.system;
    assert!(a.refused(Action::Bootstrap).await.contains("already"));
    a.fence(5_000, 5_000).await;
    assert!(a.refused(Action::Bootstrap).await.contains("already"));
    let clone = Action::Clone { upstream: a.upstream() };
    assert!(a.refused(clone).await.contains("already"));
    assert_eq!(a.look().await.system, before);
    std::fs::rename(&a.settings.data_dir, scene.path().join("a.aside-20260101T000000Z")).unwrap();
    assert!(a.refused(Action::Bootstrap).await.contains("earlier cluster"));
}

#[tokio::test]
async fn a_clone_streams_and_takes_another_upstream_without_a_restart() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    let c = scene.member("c");
    timed("clone", c.done(Action::Clone { upstream: a.upstream() })).await;
    c.until_streams_from(&a).await;
    let attached = a.until(|seen| seen.standbys.len() == 2).await.standbys;
    let names: Vec<&str> = attached.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    let pid = c.pid();
    // As a base backup by hand leaves it: it would win over what the agent writes.
    c.query("alter system set primary_conninfo = 'host=127.0.0.1 port=1'").await;
    timed("re-point", c.done(Action::Follow { upstream: Some(b.upstream()) })).await;
    c.until_streams_from(&b).await;
    assert_eq!(c.pid(), pid);
    c.done(Action::Follow { upstream: None }).await;
    c.until(|seen| seen.upstream.is_none() && !seen.streaming).await;
    assert!(a.refused(Action::Follow { upstream: Some(b.upstream()) }).await.contains("primary"));
}

#[tokio::test]
async fn a_promotion_is_quick_and_says_where_it_began() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    a.query("insert into t select generate_series(1, 1000)").await;
    b.until_has_all_of(&a).await;
    let proof = timed("fast stop and proof", a.fence(5_000, 5_000)).await;
    let began = tokio::time::Instant::now();
    let done = timed("promote", b.done(Action::Promote)).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    let Done::Promoted { timeline, lsn } = done else { panic!("{done:?}") };
    assert_eq!(timeline, TimelineId(2));
    assert!(proof.clean && lsn > proof.lsn, "{lsn} {proof:?}");
    b.query("insert into t values (0)").await;
    assert_eq!(b.query("select count(*) from t").await, "1001");
    let again = b.done(Action::Promote).await;
    assert_eq!(again, Done::Promoted { timeline, lsn });
    b.until(|seen| seen.process == Process::RunningPrimary && seen.timeline == timeline).await;
}

#[tokio::test]
async fn a_standbys_data_becomes_a_primary_only_on_a_timeline_of_its_own() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    a.fence(5_000, 5_000).await;
    b.fence(5_000, 5_000).await;
    assert_eq!(b.look().await.process, Process::StoppedStandby);
    b.done(Action::StartPrimary).await;
    let seen = b.look().await;
    assert_eq!((seen.process, seen.timeline), (Process::RunningPrimary, TimelineId(2)));
    let why = scene.member("nothing").refused(Action::StartPrimary).await;
    assert!(why.contains("no data directory"), "{why}");
}

#[tokio::test]
async fn the_server_outlives_the_adapter_and_death_is_noticed_at_once() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    let successor = Local::new(a.settings.clone()).unwrap();
    let seen = successor.observe(Duration::from_secs(1)).await;
    assert_eq!(seen.process, Process::RunningPrimary);
    let session = std::fs::read_to_string(format!("/proc/{}/stat", a.pid())).unwrap();
    let fields: Vec<&str> = session.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!(fields[3], a.pid().to_string(), "the server leads a session of its own");
    let died = successor.died();
    assert!(tokio::time::timeout(Duration::from_millis(200), died).await.is_err());
    Member::signal(a.pid(), rustix::process::Signal::QUIT);
    timed("died", tokio::time::timeout(Duration::from_secs(5), successor.died())).await.unwrap();
    let none = tokio::time::timeout(Duration::from_millis(300), successor.died()).await;
    assert!(none.is_err(), "none runs: pending");
}

#[tokio::test]
async fn a_cancelled_action_ends_and_leaves_nothing_behind() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    let b = scene.member("b");
    let cancel = CancellationToken::new();
    let soon = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(120)).await;
        soon.cancel();
    });
    let clone = Action::Clone { upstream: a.upstream() };
    let outcome = b.local.act(&clone, cancel).await;
    assert!(matches!(outcome, ActionOutcome::Unknown(_)), "{outcome:?}");
    assert_eq!(b.look().await.process, Process::Absent);
    b.done(clone).await;
    b.until_streams_from(&a).await;
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let scene = Scene::new();
    let refused = |change: &dyn Fn(&mut harmony_agent::database::local::Settings)| {
        let mut settings = scene.settings("a");
        change(&mut settings);
        Local::new(settings).unwrap_err()
    };
    let error = refused(&|settings| settings.bin_dir = "/nonexistent".into());
    assert!(matches!(error, SetupError::NoProgram { .. }), "{error}");
    let error = refused(&|settings| settings.os_user = Some("no-such-user-here".to_owned()));
    assert!(matches!(error, SetupError::NoUser { .. }), "{error}");
    let error = refused(&|settings| {
        settings.parameters.insert("Port".to_owned(), "1".to_owned());
    });
    assert!(matches!(error, SetupError::Parameter { .. }), "{error}");
    let error = refused(&|settings| settings.data_dir = "relative".into());
    assert!(matches!(error, SetupError::Path { .. }), "{error}");
    if crate::support::postgres::is_root() {
        assert_eq!(refused(&|settings| settings.os_user = None), SetupError::RootNeedsUser);
    }
}
