//! Synchronous replication: a requirement is reported in effect only when it is, in every process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harmony_agent::core::event::{Action, Done};
use harmony_agent::core::ids::Lsn;
use harmony_agent::core::synchronous::Requirement;
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use crate::support::postgres::{Member, Scene, pair, timed};

fn all(names: &[&str]) -> Requirement {
    Requirement::All(names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<_>>())
}

async fn require(member: &Member, requirement: Requirement) -> Lsn {
    let what = format!("require {requirement}");
    let done = timed(&what, member.done(Action::Require { requirement })).await;
    let Done::Required { lsn } = done else { panic!("{done:?}") };
    lsn
}

/// Whether a commit is acknowledged within half a second.
async fn commits(member: &Member) -> bool {
    let insert = member.sql("insert into t values (1)");
    timeout(Duration::from_millis(500), insert).await.is_ok_and(|done| done.is_ok())
}

async fn names(member: &Member) -> String {
    member.query("show synchronous_standby_names").await
}

#[tokio::test]
async fn commits_wait_for_those_required_and_for_nobody_else() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    require(&a, Requirement::Unsatisfiable).await;
    assert!(!commits(&a).await, "nobody can confirm that");
    let lsn = require(&a, all(&["b"])).await;
    assert!(commits(&a).await);
    b.until(|seen| seen.lsn >= lsn).await;
    let lsn = require(&a, all(&["b", "c"])).await;
    assert_eq!(names(&a).await, "FIRST 2 (\"c\", \"b\")");
    assert!(lsn > Lsn(0) && !commits(&a).await, "c is not there");
    require(&a, Requirement::Nobody).await;
    assert!(commits(&a).await);
    assert_eq!(names(&a).await, "");
}

/// Writers are busy while it takes effect, and the standby stands still: whatever is begun after the
/// answer has to wait.
#[tokio::test]
async fn once_it_is_answered_no_session_is_left_that_does_not_wait() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    let a = Arc::new(a);
    let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (a, stop, committed) = (Arc::clone(&a), Arc::clone(&stop), Arc::clone(&committed));
            tokio::spawn(async move {
                let mut latest = None;
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    if commits(&a).await {
                        latest = Some(begun);
                        committed.fetch_add(1, Ordering::SeqCst);
                    }
                }
                latest
            })
        })
        .collect();
    while committed.load(Ordering::SeqCst) < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for child in b.children() {
        Member::signal(child, Signal::STOP);
    }
    require(&a, all(&["b"])).await;
    let answered = Instant::now();
    tokio::time::sleep(Duration::from_millis(700)).await;
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        let latest = writer.await.unwrap();
        assert!(latest.is_none_or(|begun| begun < answered), "a commit did not wait");
    }
    for child in b.children() {
        Member::signal(child, Signal::CONT);
    }
}

#[tokio::test]
async fn it_outlives_stops_rewinds_and_copies_and_wins_over_alter_system() {
    let scene = Scene::new();
    let (a, b) = pair(&scene).await;
    a.query("alter system set synchronous_standby_names = 'somebody'").await;
    require(&a, all(&["b"])).await;
    assert!(commits(&a).await);
    a.fence(10_000, 20_000).await;
    assert_eq!(require(&a, Requirement::Unsatisfiable).await, Lsn(0));
    b.done(Action::Promote).await;
    a.done(Action::Rejoin { upstream: b.upstream() }).await;
    a.until_streams_from(&b).await;
    assert_eq!(names(&a).await, "FIRST 1 (\"harmony:nobody\")");
    // As a standby, in advance.
    require(&a, all(&["b"])).await;
    assert_eq!(names(&a).await, "FIRST 1 (\"b\")");
    assert_eq!(names(&b).await, "", "a copy of another server's files says nothing");
    // Another agent beside it knows what was asked for, and proves it anew.
    let again = Member::new(a.settings.clone());
    require(&again, all(&["b"])).await;
    require(&again, Requirement::Nobody).await;
    assert_eq!(names(&a).await, "");
}

/// What waits for no standby's disk is not taken for synchronous, wherever it is set.
#[tokio::test]
async fn a_server_whose_commits_wait_for_no_standby_is_refused() {
    let scene = Scene::new();
    let (a, _b) = pair(&scene).await;
    a.query("alter system set synchronous_commit = local").await;
    let requirement = all(&["b"]);
    let why = a.refused(Action::Require { requirement: requirement.clone() }).await;
    assert!(why.contains("synchronous_commit is local"), "{why}");
    assert_eq!(names(&a).await, "");
    a.query("alter system reset synchronous_commit").await;
    require(&a, requirement.clone()).await;
    let mut settings = a.settings.clone();
    settings.parameters.insert("Synchronous_Commit".to_owned(), "remote_write".to_owned());
    let why = Member::new(settings).refused(Action::Require { requirement }).await;
    assert!(why.contains("remote_write") && why.contains("database.local.parameters"), "{why}");
}
