//! Prints how long operations take; asserts nothing, and is no part of the tests.

use std::sync::Arc;
use std::time::Duration;

use harmony_agent::store::{Hint, Key, Store};
use tokio::time::Instant;

use super::local::InFile;
use super::on_nats::{connect, settings};
use super::suite::{Bench, LIMIT, put};
use crate::support::nats::{Cluster, Server};

fn told(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100));
}

async fn measure(name: &str, a: Arc<dyn Store>, b: Arc<dyn Store>) {
    let (mut last, mut writes, mut seen, mut lists) = (None, Vec::new(), Vec::new(), Vec::new());
    let mut hints = b.changes();
    for number in 0..300 {
        let begun = Instant::now();
        let hinted = async {
            while hints.recv().await != Ok(Hint::Changed(Key::Lease)) {}
            begun.elapsed()
        };
        let written = async {
            let revision = put(&a, &Key::Lease, last, &format!("{name}-{number}")).await;
            (revision, begun.elapsed())
        };
        let ((revision, took), hint) = tokio::join!(written, hinted);
        last = Some(revision);
        writes.push(took);
        seen.push(hint);
        let begun = Instant::now();
        a.list(LIMIT).await.unwrap();
        lists.push(begun.elapsed());
    }
    told(&format!("{name} compare-and-set"), writes);
    told(&format!("{name} hint, from the call"), seen);
    told(&format!("{name} list"), lists);
}

#[tokio::test]
#[ignore = "a benchmark: run it with just bench-stores"]
async fn latencies() {
    let file = InFile::new();
    measure("sqlite", file.open("a").await.unwrap(), file.open("b").await.unwrap()).await;
    let server = Server::start("");
    let one = settings(vec![server.url()], 1);
    let pair = (connect("pg", "a", &one).await.unwrap(), connect("pg", "b", &one).await.unwrap());
    measure("nats x1", pair.0, pair.1).await;
    let cluster = Cluster::start();
    let three = settings(cluster.urls(), 3);
    let pair = (connect("pg", "a", &three).await, connect("pg", "b", &three).await);
    measure("nats x3", pair.0.unwrap(), pair.1.unwrap()).await;
}
