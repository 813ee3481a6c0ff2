//! One server of three is cut off from the others by the network. It and its clients run on: what is
//! read there is never newer or older than it was, and nothing written there counts.

use std::sync::Arc;
use std::time::Duration;

use harmony_agent::core::ids::Revision;
use harmony_agent::store::{Key, Store, Write, WriteOutcome};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::on_nats::{PATIENCE, connect, settings};
use super::suite::{LIMIT, heartbeat, newest, put, write};
use crate::support::nats::Cluster;
use crate::support::proxy::{Mode, Proxy};

const SHORT: Duration = Duration::from_millis(1500);
const STREAM: &str = "KV_harmony_pg";

/// The cluster, and a store on either side of the cut.
struct Sides {
    cluster: Cluster,
    links: Vec<Proxy>,
    cut_off: Arc<dyn Store>,
    majority: Arc<dyn Store>,
}

impl Sides {
    async fn start() -> Self {
        let (cluster, links) = Cluster::start_with_links().await;
        let urls = cluster.urls();
        let end = Instant::now() + PATIENCE;
        let majority = loop {
            match connect("pg", "b", &settings(urls[1..].to_vec(), 3)).await {
                Ok(store) => break store,
                // The leader has not heard of the third server yet.
                Err(why) if why.to_string().contains("no suitable peers") => {
                    assert!(Instant::now() < end, "{why}");
                    sleep(Duration::from_millis(200)).await;
                }
                Err(why) => panic!("{why}"),
            }
        };
        let cut_off = connect("pg", "a", &settings(urls[..1].to_vec(), 3)).await.unwrap();
        Self { cluster, links, cut_off, majority }
    }

    fn set(&self, mode: Mode) {
        self.links.iter().for_each(|link| link.set(mode));
    }

    /// Makes the server called so the leader of the bucket, and waits until all three have all of it.
    async fn make_leader(&self, server: &str) {
        let client = async_nats::connect(self.cluster.urls()).await.unwrap();
        let ask = async |subject: String, question: Value| -> Value {
            let answer = client.request(subject, question.to_string().into()).await;
            answer.map_or(Value::Null, |answer| serde_json::from_slice(&answer.payload).unwrap())
        };
        let end = Instant::now() + PATIENCE;
        loop {
            let found = ask(format!("$JS.API.STREAM.INFO.{STREAM}"), json!({})).await;
            let replicas = found["cluster"]["replicas"].as_array();
            let current = replicas
                .is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["current"] == true));
            if current && found["cluster"]["leader"] == server {
                return;
            }
            assert!(Instant::now() < end, "{server} does not lead: {found}");
            if current {
                let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}");
                ask(subject, json!({"placement": {"preferred": server}})).await;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Sends a write again until its outcome is known, as agents do.
async fn insist(store: &Arc<dyn Store>, write: &Write) -> WriteOutcome {
    let end = Instant::now() + PATIENCE;
    loop {
        let outcome = store.compare_and_set(write, SHORT).await;
        let open = matches!(outcome, WriteOutcome::Unknown { .. } | WriteOutcome::NotSent { .. });
        if !open || Instant::now() > end {
            return outcome;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The operations of a key's revisions, oldest first.
async fn operations(store: &Arc<dyn Store>, key: &Key) -> Vec<String> {
    let mut history = store.history(key, LIMIT).await.unwrap();
    history.sort_by_key(|found| found.revision);
    let operation = |value: &[u8]| harmony_agent::store::codec::operation_of(value).unwrap();
    history.iter().map(|found| operation(&found.value)).collect()
}

/// The majority goes on: three writes, one upon the other.
async fn go_on(store: &Arc<dyn Store>, mut last: Revision) -> Revision {
    for operation in ["b-1", "b-2", "b-3"] {
        let outcome = insist(store, &write(&Key::Lease, Some(last), operation)).await;
        let WriteOutcome::Applied { revision } = outcome else {
            panic!("{operation}: {outcome:?}")
        };
        last = revision;
    }
    last
}

/// Reads and writes on the cut-off side until so many reads in a row have failed; tells how many were
/// answered.
async fn meanwhile_cut_off(
    store: &Arc<dyn Store>,
    before: Revision,
    writes: &[&Write],
    failures: u32,
) -> u32 {
    let (mut answered, mut failed) = (0, 0);
    let end = Instant::now() + PATIENCE;
    while failed < failures {
        assert!(Instant::now() < end, "it is cut off and still answers");
        for write in writes {
            let outcome = store.compare_and_set(write, SHORT).await;
            let open =
                matches!(outcome, WriteOutcome::Unknown { .. } | WriteOutcome::NotSent { .. });
            assert!(open, "{write:?} without a majority: {outcome:?}");
        }
        match store.read(&Key::Lease, SHORT).await {
            Ok(found) => {
                assert_eq!(found.unwrap().revision, before);
                (answered, failed) = (answered + 1, 0);
            }
            Err(_) => failed += 1,
        }
    }
    answered
}

/// Nothing of the majority is lost, and what was doubted is applied once, or refused for good.
async fn assert_healed(sides: &Sides, [doubted, own]: &[&Write; 2], last: Revision) {
    let (a, b) = (&sides.cut_off, &sides.majority);
    let outcome = insist(a, doubted).await;
    assert!(matches!(outcome, WriteOutcome::Refused { .. }), "{outcome:?}");
    assert_eq!(newest(a, &Key::Lease).await, Some(("b-3".to_owned(), last)));
    let outcome = insist(a, own).await;
    assert!(matches!(outcome, WriteOutcome::Applied { .. }), "{outcome:?}");
    put(a, &Key::Lease, Some(last), "a-3").await;
    for store in [a, b] {
        let lease = operations(store, &Key::Lease).await;
        assert_eq!(lease, ["before", "b-1", "b-2", "b-3", "a-3"]);
        assert_eq!(operations(store, &heartbeat("a")).await, ["a-2"]);
    }
}

/// Cuts off the first server while `leader` leads; how many reads were answered on its side.
async fn cut_off_while_leads(leader: &str) -> u32 {
    let sides = Sides::start().await;
    let (a, b) = (&sides.cut_off, &sides.majority);
    let before = put(b, &Key::Lease, None, "before").await;
    assert_eq!(newest(a, &Key::Lease).await, Some(("before".to_owned(), before)));
    sides.make_leader(leader).await;

    sides.set(Mode::LoseAll);
    let doubted = write(&Key::Lease, Some(before), "a-1");
    let own = write(&heartbeat("a"), None, "a-2");
    let writes = [&doubted, &own];
    let (answered, last) = tokio::join!(meanwhile_cut_off(a, before, &writes, 5), go_on(b, before));
    // The others have long gone on: now nothing at all may be answered.
    assert_eq!(meanwhile_cut_off(a, before, &writes, 3).await, 0);
    assert_eq!(newest(b, &Key::Lease).await, Some(("b-3".to_owned(), last)));

    sides.set(Mode::Pass);
    assert_healed(&sides, &writes, last).await;
    answered
}

#[tokio::test]
async fn a_follower_cut_off_answers_nothing() {
    assert_eq!(cut_off_while_leads("s1").await, 0);
}

/// It does not know at once that it leads nobody: until then it answers what it had. Such a read
/// decides nothing (`Store`, promise 5): only a write does, and none of its writes counts.
#[tokio::test]
async fn a_leader_cut_off_has_no_write_of_its_own_counted() {
    let answered = cut_off_while_leads("s0").await;
    println!("{answered} reads were answered by the leader that was");
}

/// Compares and sets as fast as it can; what was applied.
async fn increments(store: &Arc<dyn Store>, name: &str, end: Instant) -> Vec<Revision> {
    let (mut applied, mut number) = (Vec::new(), 0);
    while Instant::now() < end {
        number += 1;
        let Ok(Some(found)) = store.read(&Key::Lease, SHORT).await else { continue };
        let write = write(&Key::Lease, Some(found.revision), &format!("{name}-{number}"));
        match store.compare_and_set(&write, SHORT).await {
            WriteOutcome::Applied { revision } => {
                assert!(revision > found.revision, "{revision:?} upon {found:?}");
                applied.push(revision);
            }
            WriteOutcome::Refused { .. }
            | WriteOutcome::Unknown { .. }
            | WriteOutcome::NotSent { .. } => {}
            rejected @ WriteOutcome::Rejected(_) => panic!("{rejected:?}"),
        }
    }
    applied
}

#[tokio::test]
async fn a_link_that_flaps_lets_nobody_win_twice() {
    let sides = Sides::start().await;
    let (a, b) = (&sides.cut_off, &sides.majority);
    put(b, &Key::Lease, None, "before").await;
    let end = Instant::now() + Duration::from_secs(22);
    let flapping = async {
        for _ in 0..10 {
            sides.set(Mode::LoseAll);
            sleep(Duration::from_millis(700)).await;
            sides.set(Mode::Pass);
            sleep(Duration::from_millis(1300)).await;
        }
    };
    let (of_a, of_b, ()) = tokio::join!(increments(a, "a", end), increments(b, "b", end), flapping);
    println!("applied: {} by a, {} by b", of_a.len(), of_b.len());
    let mut all = [of_a, of_b].concat();
    all.sort_unstable();
    assert!(!all.is_empty() && all.is_sorted_by(|one, next| one < next), "{all:?}");
    let (operation, last) = newest(a, &Key::Lease).await.unwrap();
    assert_eq!(newest(b, &Key::Lease).await, Some((operation, last)));
    assert!(all.last() <= Some(&last), "{last:?} is older than {:?}", all.last());
    put(a, &Key::Lease, Some(last), "afterwards").await;
}
