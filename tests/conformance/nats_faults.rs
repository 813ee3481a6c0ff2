//! What only servers and networks can do.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use harmony_agent::core::ids::Revision;
use harmony_agent::store::nats::Settings;
use harmony_agent::store::{
    Expected, Hint, Key, OpenError, ReadError, Rejection, Store, WriteOutcome,
};

use super::on_nats::{connect, password, settings};
use super::suite::{LIMIT, heartbeat, newest, put, until_incarnation_rejected, write};
use crate::support::nats::{Cluster, Server, old_binary};
use crate::support::proxy::{Mode, Proxy};

const SHORT: Duration = Duration::from_millis(1500);

pub(super) async fn one(server: &Server) -> Arc<dyn Store> {
    connect("pg", "a", &settings(vec![server.url()], 1)).await.unwrap()
}

pub(super) async fn until_connected(store: &Arc<dyn Store>, connected: bool) {
    let mut health = store.health();
    let limit = Duration::from_secs(30);
    let reached = health.wait_for(|health| health.connected == connected);
    tokio::time::timeout(limit, reached).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_old_server_is_refused() {
    let (binary, version) = old_binary();
    let server = Server::start_binary(binary, "");
    let opened = connect("pg", "a", &settings(vec![server.url()], 1)).await;
    let Err(OpenError::Rejected(why)) = opened else { panic!("{opened:?}") };
    assert!(why.to_string().contains(&format!("version {version}")), "{why}");
}

#[tokio::test]
async fn an_unsafe_bucket_is_refused() {
    let server = Server::start("");
    let client = async_nats::connect(server.url()).await.unwrap();
    let config = jetstream::stream::Config {
        name: "KV_harmony_pg".to_owned(),
        subjects: vec!["$KV.harmony_pg.>".to_owned()],
        allow_rollup: true,
        allow_direct: true,
        ..Default::default()
    };
    jetstream::new(client).create_stream(config).await.unwrap();
    let opened = connect("pg", "a", &settings(vec![server.url()], 1)).await;
    let Err(OpenError::Rejected(why)) = opened else { panic!("{opened:?}") };
    for setting in ["allow_rollup_hdrs is true", "allow_direct is true", "deny_delete is false"] {
        assert!(why.to_string().contains(setting), "{why}");
    }
}

/// Accounts as documented: an agent writes its own heartbeat and the shared records, nothing else.
fn accounts() -> String {
    let agent = |member: &str| {
        format!(
            "{{ user: {member}, password: secret, permissions: {{
                publish {{ allow: [ \"$KV.harmony_pg.heartbeat.{member}\",
                    \"$KV.harmony_pg.cluster_state\", \"$JS.API.STREAM.INFO.KV_harmony_pg\",
                    \"$JS.API.STREAM.MSG.GET.KV_harmony_pg\" ] }}
                subscribe {{ allow: [ \"_INBOX_pg_{member}.>\", \"ev.harmony_pg.>\" ] }} }} }}"
        )
    };
    format!(
        "accounts {{ PG {{ jetstream: enabled, users: [ {{ user: admin, password: secret }}, {}, {} ] }} }}",
        agent("a"),
        agent("b")
    )
}

fn secret_in(directory: &Path, text: &str) -> std::path::PathBuf {
    let file = directory.join("password");
    fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn what_is_not_allowed_is_rejected_and_not_unknown() {
    let server = Server::start(&accounts());
    let directory = tempfile::tempdir().unwrap();
    let file = secret_in(directory.path(), "secret");
    let base = settings(vec![server.url()], 1);
    let by = |user: &str| password(&base, user, file.clone());
    let admin = connect("pg", "admin", &by("admin")).await.unwrap();
    let a = connect("pg", "a", &by("a")).await.unwrap();
    put(&a, &heartbeat("a"), None, "a-1").await;
    for key in [Key::Lease, heartbeat("b")] {
        let outcome = a.compare_and_set(&write(&key, None, &format!("a-{key}")), SHORT).await;
        let denied = matches!(&outcome, WriteOutcome::Rejected(Rejection::Permission(_)));
        assert!(denied, "{key}: {outcome:?}");
        assert_eq!(admin.read(&key, LIMIT).await.unwrap(), None);
    }
    // Another cluster's bucket is neither seen nor made.
    let other = connect("other", "a", &by("a")).await;
    assert!(matches!(other, Err(OpenError::Rejected(Rejection::Permission(_)))), "{other:?}");
    fs::write(&file, "wrong").unwrap();
    let settings = harmony_agent::store::Settings::Nats(by("b"));
    let (cluster, member) = ("pg".parse().unwrap(), "b".parse().unwrap());
    let wait = Duration::from_secs(4);
    let refused = harmony_agent::store::open(&cluster, &member, &settings, wait).await;
    assert!(matches!(refused, Err(OpenError::Rejected(Rejection::Permission(_)))), "{refused:?}");
}

#[tokio::test]
async fn nobody_can_wipe_the_bucket() {
    let server = Server::start("");
    let store = one(&server).await;
    put(&store, &Key::Lease, None, "a-1").await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = jetstream::new(client);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    let publish = context
        .publish_with_headers("$KV.harmony_pg.heartbeat.x", headers, "x".into())
        .await
        .unwrap();
    assert!(publish.await.is_err(), "a rollup was accepted");
    let stream = context.get_stream("KV_harmony_pg").await.unwrap();
    assert!(stream.purge().await.is_err(), "a purge was accepted");
    assert!(stream.delete_message(1).await.is_err(), "a deletion was accepted");
    assert!(newest(&store, &Key::Lease).await.is_some());
}

#[tokio::test]
async fn what_was_not_sent_never_lands() {
    let mut server = Server::start("");
    let store = one(&server).await;
    let first = put(&store, &Key::Lease, None, "a-1").await;
    server.kill();
    until_connected(&store, false).await;
    let late = write(&Key::Lease, Some(first), "late");
    let outcome = store.compare_and_set(&late, SHORT).await;
    assert!(matches!(outcome, WriteOutcome::NotSent { .. }), "{outcome:?}");
    server.spawn();
    server.await_ready();
    until_connected(&store, true).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(newest(&store, &Key::Lease).await, Some(("a-1".to_owned(), first)));
    let next = put(&store, &Key::Lease, Some(first), "a-2").await;
    assert!(next > first, "revisions go on after a crash of the server");
    assert!(store.statistics().reconnects >= 1);
}

#[tokio::test]
async fn a_frozen_server_leaves_a_doubt_that_is_settled() {
    let server = Server::start("");
    let store = one(&server).await;
    let first = put(&store, &Key::Lease, None, "a-1").await;
    server.freeze();
    let doubted = write(&Key::Lease, Some(first), "doubted");
    let outcome = store.compare_and_set(&doubted, SHORT).await;
    assert!(matches!(outcome, WriteOutcome::Unknown { .. }), "{outcome:?}");
    server.thaw();
    let settled = store.compare_and_set(&doubted, LIMIT).await;
    let WriteOutcome::Applied { revision } = settled else { panic!("{settled:?}") };
    assert_eq!(newest(&store, &Key::Lease).await, Some(("doubted".to_owned(), revision)));
    assert_eq!(store.history(&Key::Lease, LIMIT).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_is_never_a_refusal() {
    let server = Server::start("");
    let proxy = Proxy::start(server.port()).await;
    let store = connect("pg", "a", &settings(vec![proxy.url()], 1)).await.unwrap();
    let direct = connect("pg", "b", &settings(vec![server.url()], 1)).await.unwrap();
    let first = put(&store, &Key::Lease, None, "a-1").await;
    proxy.set(Mode::LoseReplies);
    let doubted = write(&Key::Lease, Some(first), "doubted");
    let outcome = store.compare_and_set(&doubted, SHORT).await;
    assert!(matches!(outcome, WriteOutcome::Unknown { .. }), "{outcome:?}");
    // It landed, and somebody else built on it.
    let (_, landed) = newest(&direct, &Key::Lease).await.unwrap();
    assert!(landed > first);
    let newer = put(&direct, &Key::Lease, Some(landed), "b-1").await;
    proxy.set(Mode::Pass);
    let settled = store.compare_and_set(&doubted, LIMIT).await;
    assert_eq!(settled, WriteOutcome::Applied { revision: landed });
    assert_eq!(newest(&store, &Key::Lease).await, Some(("b-1".to_owned(), newer)));
    assert_eq!(store.history(&Key::Lease, LIMIT).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_answer_lost_for_a_moment_is_settled_within_the_call() {
    let server = Server::start("");
    let proxy = Proxy::start(server.port()).await;
    let store = connect("pg", "a", &settings(vec![proxy.url()], 1)).await.unwrap();
    proxy.set(Mode::LoseReplies);
    let write = write(&Key::Lease, None, "a-1");
    let (outcome, ()) = tokio::join!(store.compare_and_set(&write, LIMIT), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.set(Mode::Pass);
    });
    assert!(matches!(outcome, WriteOutcome::Applied { .. }), "{outcome:?}");
    assert_eq!(store.history(&Key::Lease, LIMIT).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_half_open_link_is_noticed_and_left() {
    let server = Server::start("");
    let proxy = Proxy::start(server.port()).await;
    let urls = vec![proxy.url(), server.url()];
    let store = connect("pg", "a", &settings(urls, 1)).await.unwrap();
    let mut hints = store.changes();
    let before = proxy.accepted();
    proxy.set(Mode::LoseAll);
    let resync = async { while hints.recv().await.unwrap() != Hint::Resync {} };
    tokio::time::timeout(Duration::from_secs(30), resync).await.unwrap();
    put(&store, &Key::Lease, None, "a-1").await;
    assert!(store.statistics().reconnects >= 1, "still on the first of {before} connections");
}

/// A server that was restored to when the lease was first written, and a member that has seen the
/// second time, which gave the revision returned.
async fn restored() -> (Server, Arc<dyn Store>, [Revision; 2]) {
    let mut server = Server::start("");
    let store = one(&server).await;
    let first = put(&store, &Key::Lease, None, "a-1").await;
    server.stop();
    let kept = tempfile::tempdir().unwrap();
    copy(&server.data(), kept.path());
    server.spawn();
    server.await_ready();
    until_connected(&store, true).await;
    let second = put(&store, &Key::Lease, Some(first), "a-2").await;
    server.stop();
    fs::remove_dir_all(server.data()).unwrap();
    copy(kept.path(), &server.data());
    server.spawn();
    server.await_ready();
    (server, store, [first, second])
}

#[tokio::test]
async fn a_restored_backup_is_not_obeyed() {
    let (_server, store, [first, _]) = restored().await;
    until_incarnation_rejected(&store).await;
    let outcome = store.compare_and_set(&write(&Key::Lease, Some(first), "a-3"), SHORT).await;
    assert!(
        matches!(outcome, WriteOutcome::Rejected(Rejection::Incarnation { .. })),
        "{outcome:?}"
    );
}

/// Nor when somebody who had seen nothing of what was lost has written so much that the bucket as a
/// whole is past it.
#[tokio::test]
async fn a_restored_backup_is_not_obeyed_however_much_is_written_to_it() {
    let (server, store, [_, second]) = restored().await;
    let other = one(&server).await;
    let mut last = None;
    for number in 0..=second.0 {
        last = Some(put(&other, &heartbeat("b"), last, &format!("b-{number}")).await);
    }
    until_incarnation_rejected(&store).await;
    let read = store.read(&Key::Lease, SHORT).await;
    let Err(ReadError::Rejected(why)) = read else { panic!("{read:?}") };
    assert!(why.to_string().contains("lease at an older revision than before"), "{why}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn ten_thousand_timeouts_leave_nothing_behind() {
    let server = Server::start("");
    let store = one(&server).await;
    server.freeze();
    // What the server sent before it stood still may still be on its way.
    while store.read(&Key::Lease, SHORT).await.is_ok() {}
    for _ in 0..10_000 {
        let read = store.read(&Key::Lease, Duration::from_nanos(1)).await;
        assert!(matches!(read, Err(ReadError::Unavailable(_))), "{read:?}");
    }
    let told = format!("{store:?}");
    assert!(told.contains("replies: Mutex { data: {}"), "requests are still waited for");
    server.thaw();
    put(&store, &Key::Lease, None, "a-1").await;
}

/// One agent writes while `trouble` happens; nothing that was Applied may be missing from the chain
/// of revisions, and afterwards writing goes on.
async fn write_through(settings: &Settings, trouble: impl Future<Output = ()>) {
    let store = connect("pg", "a", settings).await.unwrap();
    put(&store, &Key::Lease, None, "0").await;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let writing = async {
        let mut applied: Vec<Revision> = Vec::new();
        let mut number = 0;
        while !*stopped.borrow_and_update() {
            number += 1;
            let Ok(Some(found)) = store.read(&Key::Lease, SHORT).await else { continue };
            assert!(applied.last() <= Some(&found.revision), "{applied:?} then {found:?}");
            let write = write(&Key::Lease, Some(found.revision), &format!("w-{number}"));
            match store.compare_and_set(&write, SHORT).await {
                WriteOutcome::Applied { revision } => applied.push(revision),
                WriteOutcome::Refused { .. } => {
                    // Only an own write of unknown outcome can have come in between.
                    assert!(matches!(write.expected, Expected::Revision(_)));
                }
                WriteOutcome::Unknown { .. } | WriteOutcome::NotSent { .. } => {}
                rejected @ WriteOutcome::Rejected(_) => panic!("{rejected:?}"),
            }
        }
        applied
    };
    let (applied, ()) = tokio::join!(writing, async {
        trouble.await;
        stop.send(true).unwrap();
    });
    assert!(applied.is_sorted_by(|a, b| a < b), "{applied:?}");
    let (_, last) = newest(&store, &Key::Lease).await.unwrap();
    assert!(applied.last() <= Some(&last));
    let again = put(&store, &Key::Lease, Some(last), "afterwards").await;
    assert!(again > last);
}

#[tokio::test]
async fn a_cluster_keeps_what_was_applied_through_crashes_and_loss_of_quorum() {
    let mut cluster = Cluster::start();
    let settings = settings(cluster.urls(), 3);
    let seconds = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    write_through(&settings, async {
        for number in 0..3 {
            seconds(2).await;
            cluster.servers[number].kill();
            seconds(8).await;
            cluster.servers[number].spawn();
            cluster.servers[number].await_ready();
        }
        seconds(2).await;
        cluster.servers[0].freeze();
        cluster.servers[1].freeze();
        seconds(8).await;
        cluster.servers[0].thaw();
        cluster.servers[1].thaw();
        seconds(12).await;
    })
    .await;
}
