//! The store's own tasks, made to panic: each comes back, and nothing is lost but time.

use std::sync::Arc;
use std::time::Duration;

use harmony_agent::store::{Hint, Key, ReadError, Rejection, Store};
use harmony_agent::supervise::trial;
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;

use super::nats_faults::{one, until_connected};
use super::on_nats::delete_stream;
use super::suite::{LIMIT, put};
use crate::support::nats::Server;

/// Much less than the pause before a task comes back.
const MOMENT: Duration = Duration::from_millis(50);

async fn until_hinted(hints: &mut Receiver<Hint>, wanted: &Hint) {
    let hinted = async { while hints.recv().await.unwrap() != *wanted {} };
    timeout(LIMIT, hinted).await.unwrap();
}

#[tokio::test]
async fn the_sorter_of_replies_comes_back_on_the_same_connection() {
    let server = Server::start("");
    let store = one(&server).await;
    let first = put(&store, &Key::Lease, None, "a-1").await;

    trial::break_once("nats replies");
    let read = store.read(&Key::Lease, MOMENT).await;
    assert!(matches!(read, Err(ReadError::Unavailable(_))), "it is not broken: {read:?}");

    put(&store, &Key::Lease, Some(first), "a-2").await;
    assert_eq!(store.statistics().reconnects, 0);
}

#[tokio::test]
async fn the_listener_for_changes_comes_back() {
    let server = Server::start("");
    let store = one(&server).await;
    let mut hints = store.changes();
    let first = put(&store, &Key::Lease, None, "a-1").await;
    until_hinted(&mut hints, &Hint::Changed(Key::Lease)).await;

    trial::break_once("nats hints");
    let second = put(&store, &Key::Lease, Some(first), "a-2").await;
    until_hinted(&mut hints, &Hint::Resync).await;

    put(&store, &Key::Lease, Some(second), "a-3").await;
    until_hinted(&mut hints, &Hint::Changed(Key::Lease)).await;
}

#[tokio::test]
async fn the_look_at_the_bucket_comes_back() {
    let server = Server::start("");
    let store = one(&server).await;
    put(&store, &Key::Lease, None, "a-1").await;

    trial::break_once("nats bucket watch");
    tokio::task::yield_now().await;
    delete_stream(&[server.url()], "KV_harmony_pg").await;
    // A read of one key does not look at the bucket itself.
    let noticed = async {
        loop {
            let read = store.read(&Key::Lease, LIMIT).await;
            if matches!(read, Err(ReadError::Rejected(Rejection::Incarnation { .. }))) {
                break;
            }
            tokio::time::sleep(MOMENT).await;
        }
    };
    timeout(Duration::from_secs(60), noticed).await.unwrap();
}

/// Killed while the client library connects anew, its task is gone for good.
async fn without_its_task(server: &mut Server, store: &Arc<dyn Store>) {
    server.kill();
    trial::break_once("nats connection");
    until_connected(store, false).await;
}

#[tokio::test]
async fn a_connection_whose_task_is_gone_is_made_anew() {
    let mut server = Server::start("");
    let store = one(&server).await;
    let first = put(&store, &Key::Lease, None, "a-1").await;

    without_its_task(&mut server, &store).await;
    server.spawn();
    server.await_ready();
    until_connected(&store, true).await;

    // The listener for changes comes back after a pause: until then they are missed.
    let mut hints = store.changes();
    let (mut last, mut number) = (first, 2);
    let writing = async {
        loop {
            last = put(&store, &Key::Lease, Some(last), &format!("a-{number}")).await;
            number += 1;
            tokio::time::sleep(MOMENT).await;
        }
    };
    tokio::select! {
        () = until_hinted(&mut hints, &Hint::Changed(Key::Lease)) => {}
        () = writing => {}
    }
    assert!(store.statistics().reconnects >= 1);
}
