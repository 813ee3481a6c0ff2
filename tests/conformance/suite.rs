//! What every backend must keep, as functions over a [`Bench`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use harmony_agent::core::ids::Revision;
use harmony_agent::store::{
    Expected, HISTORY_DEPTH, Hint, Key, LONGEST_VALUE, OpenError, ReadError, Rejection, Store,
    Write, WriteOutcome,
};

/// Generous limit of one operation in tests; nothing is asserted about its length.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// One bucket of one backend, opened by several agents.
pub(super) trait Bench: Send + Sync {
    /// Another agent's handle.
    fn open(&self, member: &'static str) -> BoxFuture<'_, Result<Arc<dyn Store>, OpenError>>;

    /// Loses the bucket; what is opened afterwards is a new one.
    fn replace(&self) -> BoxFuture<'_, ()>;
}

/// Every test of the suite, by name.
pub(super) type Test = for<'a> fn(&'a dyn Bench) -> BoxFuture<'a, ()>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The suite.
        pub(super) const SUITE: &[(&str, Test)] =
            &[$((stringify!($name), |bench| Box::pin($name(bench)))),*];

        /// Makes a `#[test]` of each for a backend's `bench()`.
        macro_rules! each_test {
            ($bench:expr) => {
                $(#[tokio::test]
                async fn $name() {
                    crate::conformance::suite::run(stringify!($name), &$bench).await;
                })*
            };
        }
        pub(super) use each_test;
    };
}

tests!(
    a_key_is_created_once,
    a_stale_revision_is_refused,
    one_of_many_writers_wins,
    revisions_grow_across_handles,
    other_keys_do_not_disturb,
    an_operation_sent_again_is_the_same,
    a_superseded_operation_is_never_applied_again,
    history_keeps_the_last,
    a_listing_is_complete_and_ordered,
    the_journal_is_read_key_by_key_and_disturbs_nobody,
    too_long_a_value_is_rejected,
    hints_reach_every_handle,
    no_increment_is_lost,
    a_replaced_bucket_is_not_obeyed,
);

/// Runs one test of the suite.
pub(super) async fn run(name: &str, bench: &dyn Bench) {
    let (_, test) = SUITE.iter().find(|(known, _)| *known == name).unwrap();
    test(bench).await;
}

/// A write of a small value that carries its operation, as records do.
pub(super) fn write(key: &Key, expected: Option<Revision>, operation: &str) -> Write {
    let expected = expected.map_or(Expected::Absent, Expected::Revision);
    let value = format!("{{\"op_id\":{operation:?}}}").into_bytes();
    Write { key: key.clone(), expected, value, operation: operation.to_owned() }
}

/// Writes, and expects it to land.
pub(super) async fn put(
    store: &Arc<dyn Store>,
    key: &Key,
    expected: Option<Revision>,
    operation: &str,
) -> Revision {
    let outcome = store.compare_and_set(&write(key, expected, operation), LIMIT).await;
    let WriteOutcome::Applied { revision } = outcome else {
        panic!("{operation} on {key} expecting {expected:?}: {outcome:?}");
    };
    revision
}

/// The operation of the newest value, and its revision.
pub(super) async fn newest(store: &Arc<dyn Store>, key: &Key) -> Option<(String, Revision)> {
    let found = store.read(key, LIMIT).await.unwrap()?;
    let operation = harmony_agent::store::codec::operation_of(&found.value).unwrap();
    Some((operation, found.revision))
}

/// The key of a member's heartbeat.
pub(super) fn heartbeat(member: &str) -> Key {
    Key::Heartbeat(member.parse().unwrap())
}

async fn a_key_is_created_once(bench: &dyn Bench) {
    let (a, b) = (bench.open("a").await.unwrap(), bench.open("b").await.unwrap());
    assert_eq!(a.incarnation(), b.incarnation());
    assert_eq!(a.read(&Key::Lease, LIMIT).await.unwrap(), None);
    assert_eq!(a.list(LIMIT).await.unwrap(), []);
    let revision = put(&a, &Key::Lease, None, "a-1").await;
    let second = b.compare_and_set(&write(&Key::Lease, None, "b-1"), LIMIT).await;
    assert!(matches!(second, WriteOutcome::Refused { .. }), "{second:?}");
    assert_eq!(newest(&b, &Key::Lease).await, Some(("a-1".to_owned(), revision)));
    let statistics = b.statistics();
    assert_eq!((statistics.writes, statistics.conflicts), (0, 1));
    assert!(b.health().borrow().connected);
}

async fn a_stale_revision_is_refused(bench: &dyn Bench) {
    let a = bench.open("a").await.unwrap();
    let first = put(&a, &Key::Lease, None, "a-1").await;
    let second = put(&a, &Key::Lease, Some(first), "a-2").await;
    for (stale, operation) in
        [(Some(first), "a-3"), (None, "a-4"), (Some(Revision(second.0 + 1)), "a-5")]
    {
        let outcome = a.compare_and_set(&write(&Key::Lease, stale, operation), LIMIT).await;
        assert!(matches!(outcome, WriteOutcome::Refused { .. }), "{operation}: {outcome:?}");
        assert_eq!(newest(&a, &Key::Lease).await, Some(("a-2".to_owned(), second)));
    }
    let absent = write(&Key::ClusterState, Some(second), "a-6");
    let outcome = a.compare_and_set(&absent, LIMIT).await;
    assert!(matches!(outcome, WriteOutcome::Refused { .. }), "{outcome:?}");
}

async fn one_of_many_writers_wins(bench: &dyn Bench) {
    const ROUNDS: usize = 200;
    let members = ["a", "b", "c", "d", "e", "f"];
    let stores = join_all(members.map(|member| async { bench.open(member).await.unwrap() })).await;
    let mut current = None;
    for round in 0..ROUNDS {
        let attempts = stores.iter().zip(members).map(|(store, member)| async move {
            let write = write(&Key::Lease, current, &format!("{member}-{round}"));
            (store.compare_and_set(&write, LIMIT).await, write.operation)
        });
        let outcomes = join_all(attempts).await;
        let winners: Vec<_> = outcomes
            .iter()
            .filter_map(|(outcome, operation)| match outcome {
                WriteOutcome::Applied { revision } => Some((operation.clone(), *revision)),
                WriteOutcome::Refused { .. } => None,
                WriteOutcome::Unknown { .. }
                | WriteOutcome::NotSent { .. }
                | WriteOutcome::Rejected(_) => panic!("round {round}: {outcome:?}"),
            })
            .collect();
        assert_eq!(winners.len(), 1, "round {round}: {outcomes:?}");
        assert_eq!(newest(&stores[0], &Key::Lease).await.as_ref(), winners.first());
        current = winners.first().map(|(_, revision)| *revision);
    }
}

async fn revisions_grow_across_handles(bench: &dyn Bench) {
    let mut last = None;
    for life in 0..3 {
        let store = bench.open("a").await.unwrap();
        for number in 0..10 {
            let revision = put(&store, &Key::Lease, last, &format!("{life}-{number}")).await;
            assert!(last < Some(revision), "{last:?} then {revision}");
            last = Some(revision);
        }
    }
}

async fn other_keys_do_not_disturb(bench: &dyn Bench) {
    let a = bench.open("a").await.unwrap();
    let lease = put(&a, &Key::Lease, None, "a-1").await;
    put(&a, &heartbeat("b"), None, "a-2").await;
    put(&a, &Key::ClusterState, None, "a-3").await;
    put(&a, &Key::Lease, Some(lease), "a-4").await;
}

async fn an_operation_sent_again_is_the_same(bench: &dyn Bench) {
    let (a, b) = (bench.open("a").await.unwrap(), bench.open("b").await.unwrap());
    let once = write(&Key::Lease, None, "a-1");
    let first = a.compare_and_set(&once, LIMIT).await;
    for store in [&a, &b, &a] {
        // A fresh operation of ours that finds itself already there is settled by what a backend
        // can say: with its first revision, or refused at the revision it made itself.
        let again = store.compare_and_set(&once, LIMIT).await;
        match &again {
            WriteOutcome::Applied { .. } => assert_eq!(again, first),
            WriteOutcome::Refused { .. }
            | WriteOutcome::Unknown { .. }
            | WriteOutcome::NotSent { .. }
            | WriteOutcome::Rejected(_) => panic!("{again:?}, first {first:?}"),
        }
    }
    assert_eq!(a.history(&Key::Lease, LIMIT).await.unwrap().len(), 1);
}

async fn a_superseded_operation_is_never_applied_again(bench: &dyn Bench) {
    let (a, b) = (bench.open("a").await.unwrap(), bench.open("b").await.unwrap());
    let once = write(&Key::Lease, None, "a-1");
    let WriteOutcome::Applied { revision: first } = a.compare_and_set(&once, LIMIT).await else {
        panic!("the first write on an empty bucket did not land");
    };
    let mut last = put(&b, &Key::Lease, Some(first), "b-0").await;
    for number in 1..=u32::from(HISTORY_DEPTH) + 1 {
        let again = a.compare_and_set(&once, LIMIT).await;
        match again {
            WriteOutcome::Applied { revision } => assert_eq!(revision, first),
            WriteOutcome::Refused { .. } => {}
            WriteOutcome::Unknown { .. }
            | WriteOutcome::NotSent { .. }
            | WriteOutcome::Rejected(_) => panic!("{again:?}"),
        }
        assert_eq!(newest(&a, &Key::Lease).await.map(|(_, revision)| revision), Some(last));
        last = put(&b, &Key::Lease, Some(last), &format!("b-{number}")).await;
    }
}

async fn history_keeps_the_last(bench: &dyn Bench) {
    let a = bench.open("a").await.unwrap();
    assert_eq!(a.history(&Key::Lease, LIMIT).await.unwrap(), []);
    let mut made = Vec::new();
    for number in 0..u32::from(HISTORY_DEPTH) + 4 {
        let revision = put(&a, &Key::Lease, made.last().copied(), &format!("a-{number}")).await;
        put(&a, &heartbeat(&format!("m{number}")), None, &format!("h-{number}")).await;
        made.push(revision);
    }
    let kept = a.history(&Key::Lease, LIMIT).await.unwrap();
    let revisions: Vec<_> = kept.iter().map(|versioned| versioned.revision).collect();
    assert_eq!(revisions, made.split_off(4));
    let times: Vec<_> = kept.iter().map(|versioned| versioned.created).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times.first() < times.last(), "the store's clock stands still");
}

async fn a_listing_is_complete_and_ordered(bench: &dyn Bench) {
    let (a, b) = (bench.open("a").await.unwrap(), bench.open("b").await.unwrap());
    let mut keys = vec![heartbeat("z-9_x"), heartbeat("a"), Key::ClusterState, Key::Lease];
    for (number, key) in keys.iter().enumerate() {
        let first = put(&a, key, None, &format!("a-{number}")).await;
        put(&b, key, Some(first), &format!("b-{number}")).await;
    }
    keys.sort();
    let listed = b.list(LIMIT).await.unwrap();
    assert_eq!(listed.iter().map(|versioned| versioned.key.clone()).collect::<Vec<_>>(), keys);
    for versioned in listed {
        assert_eq!(a.read(&versioned.key, LIMIT).await.unwrap(), Some(versioned));
    }
    // A key that appears later, by another agent, is in the next listing.
    put(&a, &heartbeat("new"), None, "a-new").await;
    assert_eq!(b.list(LIMIT).await.unwrap().len(), keys.len() + 1);
}

async fn the_journal_is_read_key_by_key_and_disturbs_nobody(bench: &dyn Bench) {
    let (a, b) = (bench.open("a").await.unwrap(), bench.open("b").await.unwrap());
    let lease = put(&a, &Key::Lease, None, "a-1").await;
    let mut hints = b.changes();
    let places = [0, 9, 31].map(Key::Journal);
    for (number, key) in places.iter().enumerate() {
        let first = put(&a, key, None, &format!("j-{number}")).await;
        let second = b.compare_and_set(&write(key, None, "late"), LIMIT).await;
        assert!(matches!(second, WriteOutcome::Refused { .. }), "{second:?}");
        put(&b, key, Some(first), &format!("again-{number}")).await;
        assert_eq!(newest(&a, key).await.map(|(by, _)| by), Some(format!("again-{number}")));
    }
    for store in [&a, &b] {
        let listed = store.list(LIMIT).await.unwrap();
        assert_eq!(listed.into_iter().map(|it| it.key).collect::<Vec<_>>(), [Key::Lease]);
    }
    // Hints of one key after the other: none of the journal comes before that of the lease.
    put(&a, &Key::Lease, Some(lease), "a-2").await;
    let told = async {
        loop {
            match hints.recv().await.unwrap() {
                Hint::Changed(Key::Lease) => break,
                Hint::Changed(key) => assert!(!key.is_journal(), "told of {key}"),
                Hint::Resync => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, told).await.unwrap();
}

async fn too_long_a_value_is_rejected(bench: &dyn Bench) {
    let a = bench.open("a").await.unwrap();
    let mut write = write(&Key::Lease, None, "a-1");
    write.value = vec![b'x'; LONGEST_VALUE + 1];
    let outcome = a.compare_and_set(&write, LIMIT).await;
    let too_long = |rejection: &Rejection| matches!(rejection, Rejection::TooLong { .. });
    assert!(matches!(&outcome, WriteOutcome::Rejected(r) if too_long(r)), "{outcome:?}");
    write.value.pop();
    let outcome = a.compare_and_set(&write, LIMIT).await;
    assert!(matches!(outcome, WriteOutcome::Applied { .. }), "{outcome:?}");
    assert_eq!(a.read(&Key::Lease, LIMIT).await.unwrap().unwrap().value, write.value);
}

async fn hints_reach_every_handle(bench: &dyn Bench) {
    let (a, b) = (bench.open("a").await.unwrap(), bench.open("b").await.unwrap());
    let (mut at_a, mut at_b) = (a.changes(), b.changes());
    let mut last = None;
    for number in 0..20 {
        last = Some(put(&a, &Key::Lease, last, &format!("a-{number}")).await);
        for hints in [&mut at_a, &mut at_b] {
            let changed =
                async { while hints.recv().await.unwrap() != Hint::Changed(Key::Lease) {} };
            tokio::time::timeout(LIMIT, changed).await.unwrap();
        }
    }
}

/// Writers add one to a counter by compare-and-set and note what landed: the history of the key has
/// to be exactly one chain of what landed, or may have.
async fn no_increment_is_lost(bench: &dyn Bench) {
    const EACH: u32 = 40;
    let members = ["a", "b", "c", "d"];
    let stores = join_all(members.map(|member| async { bench.open(member).await.unwrap() })).await;
    let first = put(&stores[0], &Key::ClusterState, None, "0").await;
    let count = |store: Arc<dyn Store>, member: &'static str| async move {
        let mut landed = Vec::new();
        for number in 0.. {
            if landed.len() >= EACH as usize {
                break;
            }
            let (text, revision) = newest(&store, &Key::ClusterState).await.unwrap();
            let counted: u32 = text.split(' ').next().unwrap().parse().unwrap();
            let next = format!("{} {member} {number}", counted + 1);
            let write = write(&Key::ClusterState, Some(revision), &next);
            if let WriteOutcome::Applied { revision } = store.compare_and_set(&write, LIMIT).await {
                landed.push((revision, counted + 1));
            }
        }
        landed
    };
    let counting = stores.iter().zip(members).map(|(store, member)| count(store.clone(), member));
    let mut landed: Vec<_> = join_all(counting).await.into_iter().flatten().collect();
    landed.sort();
    assert!(landed.iter().all(|(revision, _)| *revision > first));
    let counted: Vec<_> = landed.iter().map(|(_, counted)| *counted).collect();
    let total = EACH * u32::try_from(members.len()).unwrap();
    assert_eq!(counted, (1..=total).collect::<Vec<_>>());
}

async fn a_replaced_bucket_is_not_obeyed(bench: &dyn Bench) {
    let a = bench.open("a").await.unwrap();
    let last = put(&a, &Key::Lease, None, "a-1").await;
    bench.replace().await;
    let b = bench.open("b").await.unwrap();
    assert_ne!(a.incarnation(), b.incarnation());
    // The same revision again, in another life: the comparison alone would let the old handle win.
    assert_eq!(put(&b, &Key::Lease, None, "b-1").await, last);
    until_incarnation_rejected(&a).await;
    let outcome = a.compare_and_set(&write(&Key::Lease, Some(last), "a-2"), LIMIT).await;
    let rejected = WriteOutcome::Rejected;
    assert!(
        matches!(&outcome, WriteOutcome::Rejected(Rejection::Incarnation { .. })),
        "{outcome:?}, not {:?}",
        rejected(Rejection::Other(String::new()))
    );
    assert!(matches!(a.read(&Key::Lease, LIMIT).await, Err(ReadError::Rejected(_))));
    assert_eq!(newest(&b, &Key::Lease).await, Some(("b-1".to_owned(), last)));
}

/// Waits until the handle has noticed that its bucket is gone or another one.
pub(super) async fn until_incarnation_rejected(store: &Arc<dyn Store>) {
    let noticed = async {
        loop {
            match store.list(LIMIT).await {
                Err(ReadError::Rejected(Rejection::Incarnation { .. })) => break,
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noticed).await.unwrap();
}
