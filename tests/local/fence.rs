//! Every rung of the ladder, and what must not defeat it.

use std::time::Duration;

use harmony_agent::core::event::{Action, ActionOutcome, Ladder, Process};
use harmony_agent::database::Database;
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use crate::support::postgres::{Member, Scene, pair, timed};

#[tokio::test]
async fn each_rung_is_proven_and_named() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    let fast = timed("fast stop and proof", a.fence(10_000, 20_000)).await;
    assert!(fast.clean && fast.rung == "fast", "{fast:?}");
    assert_eq!(a.look().await.lsn, fast.lsn);
    let down = timed("proof when down", a.fence(10_000, 20_000)).await;
    assert_eq!(down.rung, "down");
    assert_eq!((down.clean, down.lsn, down.timeline), (true, fast.lsn, fast.timeline));
    a.done(Action::StartPrimary).await;
    let immediate = timed("immediate stop and proof", a.fence(0, 5_000)).await;
    assert!(!immediate.clean && immediate.rung == "immediate", "{immediate:?}");
    a.done(Action::StartPrimary).await;
    let kill = timed("kill and proof", a.fence(0, 0)).await;
    assert!(!kill.clean && kill.rung == "kill", "{kill:?}");
    assert!(a.sql("select 1").await.is_err());
    a.done(Action::StartPrimary).await;
    a.query("select 1").await;
}

#[tokio::test]
async fn nothing_there_is_fenced_too() {
    let scene = Scene::new();
    let proof = scene.member("a").fence(1_000, 1_000).await;
    assert_eq!((proof.rung, proof.clean), ("down", false));
}

#[tokio::test]
async fn a_stopped_postmaster_is_killed() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    Member::signal(a.pid(), Signal::STOP);
    let proof =
        timed("kill of a stopped postmaster (200 + 200 ms ladder)", a.fence(200, 400)).await;
    assert_eq!((proof.rung, proof.clean), ("kill", false));
}

#[tokio::test]
async fn a_stopped_backend_is_killed() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    for child in a.children() {
        Member::signal(child, Signal::STOP);
    }
    let proof = a.fence(300, 300).await;
    assert_eq!(proof.rung, "kill");
}

#[tokio::test]
async fn backends_that_outlive_the_postmaster_are_seen_and_killed() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    let busy = "do $$ begin loop perform 1; end loop; end $$";
    let client = a.sql(busy);
    tokio::pin!(client);
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut client).await.is_err());
    let backends = a.children();
    for child in &backends {
        Member::signal(*child, Signal::STOP);
    }
    Member::signal(a.pid(), Signal::KILL);
    a.until(|seen| seen.process == Process::Remnants).await;
    assert!(a.refused(Action::StartPrimary).await.contains("fence first"));
    let proof = timed("remnants killed and proven", a.fence(5_000, 5_000)).await;
    assert_eq!((proof.rung, proof.clean), ("kill", false));
    for child in backends {
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let alive = state.contains("(postgres)") && !state.contains(") Z");
        assert!(!alive, "{state}");
    }
    assert_eq!(a.look().await.process, Process::StoppedPrimary);
    drop(b);
}

#[tokio::test]
async fn no_start_happens_behind_a_fence() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    a.fence(5_000, 5_000).await;
    b.fence(5_000, 5_000).await;
    let ladder = Ladder { fast: Duration::from_secs(1), immediate: Duration::from_secs(2) };
    for delay in [0, 1, 2, 3, 5, 8, 13, 30, 60] {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let start = a.local.act(&Action::StartPrimary, cancel);
        let fence = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            stop.cancel();
            a.local.act(&Action::Fence { ladder }, CancellationToken::new()).await
        };
        let (_, fenced) = tokio::join!(start, fence);
        assert!(matches!(fenced, ActionOutcome::Applied(_)), "{fenced:?}");
        tokio::time::sleep(Duration::from_millis(150)).await;
        let seen = a.look().await;
        assert!(!seen.process.is_running(), "after {delay} ms: {seen:?}");
    }
}
