//! No room, in each of the places where NATS counts it: told as what it is, nothing is lost, and
//! writing goes on once there is room.

use std::sync::Arc;

use async_nats::jetstream::{self, stream};
use harmony_agent::core::ids::Revision;
use harmony_agent::store::{Key, Rejection, Store, Write, WriteOutcome};

use super::nats_faults::one;
use super::suite::{LIMIT, heartbeat, newest, put, write};
use crate::support::nats::{Server, change_stream};

const STREAM: &str = "KV_harmony_pg";

fn long(key: &Key, expected: Option<Revision>, name: &str) -> Write {
    // Unlike any other's, as those of records are.
    Write { value: format!("{name:x>20000}").into_bytes(), ..write(key, expected, name) }
}

/// Writes until the store refuses; tells what it said.
async fn until_refused(store: &Arc<dyn Store>, key: &Key) -> Rejection {
    let mut expected = newest(store, key).await.map(|(_, revision)| revision);
    for number in 0..1000 {
        let write = long(key, expected, &format!("{key}-{number}"));
        match store.compare_and_set(&write, LIMIT).await {
            WriteOutcome::Applied { revision } => expected = Some(revision),
            WriteOutcome::Rejected(why) => return why,
            other @ (WriteOutcome::Refused { .. }
            | WriteOutcome::Unknown { .. }
            | WriteOutcome::NotSent { .. }) => panic!("{other:?}"),
        }
    }
    panic!("there was room for all of it");
}

/// The store is full, tells it, still answers, and takes writes again after `mend`.
async fn full_and_mended(store: &Arc<dyn Store>, lease: Revision, mend: impl Future<Output = ()>) {
    let why = until_refused(store, &heartbeat("a")).await;
    assert!(matches!(why, Rejection::Full(_)), "{why:?}");
    assert!(why.to_string().contains("the store is full"), "{why}");
    let trouble = store.health().borrow().trouble.clone().unwrap();
    assert!(trouble.contains("the store is full"), "{trouble}");
    assert_eq!(newest(store, &Key::Lease).await, Some(("a-1".to_owned(), lease)));

    mend.await;
    put(store, &Key::Lease, Some(lease), "a-2").await;
    let trouble = store.health().borrow().trouble.clone();
    assert_eq!(trouble, None);
}

#[tokio::test]
async fn a_full_stream() {
    let server = Server::start("");
    let store = one(&server).await;
    let lease = put(&store, &Key::Lease, None, "a-1").await;
    change_stream(&server.url(), STREAM, "max_bytes", 50_000).await;
    full_and_mended(&store, lease, async {
        change_stream(&server.url(), STREAM, "max_bytes", 8 << 20).await;
    })
    .await;
}

/// Puts something else beside the bucket until nothing more goes in.
async fn fill(url: &str) -> stream::Stream {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let config = stream::Config {
        name: "FILLER".to_owned(),
        subjects: vec!["filler".to_owned()],
        ..Default::default()
    };
    let filler = context.create_stream(config).await.unwrap();
    for _ in 0..100_000 {
        let publish = context.publish("filler", vec![b'x'; 60_000].into()).await.unwrap();
        if publish.await.is_err() {
            return filler;
        }
    }
    panic!("it is never full");
}

#[tokio::test]
async fn a_full_account() {
    let server = Server::start(
        "accounts { PG { jetstream: { max_file: 12MB }, users: [ { user: pg, password: pg } ] } }
         no_auth_user: pg",
    );
    let store = one(&server).await;
    let lease = put(&store, &Key::Lease, None, "a-1").await;
    let filler = fill(&server.url()).await;
    full_and_mended(&store, lease, async {
        filler.purge().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_full_server() {
    let server = Server::start_small(12);
    let store = one(&server).await;
    let lease = put(&store, &Key::Lease, None, "a-1").await;
    let filler = fill(&server.url()).await;
    full_and_mended(&store, lease, async {
        filler.purge().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_record_longer_than_the_stream_takes() {
    let server = Server::start("");
    let store = one(&server).await;
    change_stream(&server.url(), STREAM, "max_msg_size", 10_000).await;
    let outcome = store.compare_and_set(&long(&Key::Lease, None, "a-1"), LIMIT).await;
    let WriteOutcome::Rejected(why @ Rejection::TooLong { .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(why.to_string().contains("20000 bytes is longer"), "{why}");
    put(&store, &Key::Lease, None, "a-2").await;

    change_stream(&server.url(), STREAM, "max_msg_size", 33 << 10).await;
    let outcome = store.compare_and_set(&long(&heartbeat("a"), None, "a-3"), LIMIT).await;
    assert!(matches!(outcome, WriteOutcome::Applied { .. }), "{outcome:?}");
}
