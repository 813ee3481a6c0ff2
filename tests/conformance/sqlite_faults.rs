//! What only the file can suffer: other processes, and people with a shell.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use harmony_agent::store::{
    Key, OpenError, ReadError, Rejection, Settings, Store, WriteOutcome, open, sqlite,
};

use super::local::InFile;
use super::suite::{Bench, LIMIT, newest, put, until_incarnation_rejected, write};

const CHILD: &str = "HARMONY_TEST_SQLITE_CHILD";

async fn opened(file: &InFile) -> Arc<dyn Store> {
    file.open("a").await.unwrap()
}

fn rejected_with(result: Result<Arc<dyn Store>, OpenError>, part: &str) {
    match result {
        Err(OpenError::Rejected(why)) if why.to_string().contains(part) => {}
        other => panic!("{other:?} should be rejected with {part:?}"),
    }
}

/// Not a test by itself: the writer that the next test starts and kills.
#[tokio::test]
async fn child_that_writes() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let settings = Settings::Sqlite(sqlite::Settings { path: path.into() });
    let (cluster, member) = ("pg".parse().unwrap(), "child".parse().unwrap());
    // Whoever writes as fast as it can may keep others waiting for longer than a limit.
    let store = loop {
        match open(&cluster, &member, &settings, LIMIT).await {
            Ok(store) => break store,
            Err(OpenError::Unavailable(why)) => eprintln!("not opened: {why}"),
            Err(OpenError::Rejected(why)) => panic!("{why}"),
        }
    };
    let id = std::process::id();
    for number in 0.. {
        let at = match store.read(&Key::Lease, LIMIT).await {
            Ok(found) => found.map(|found| found.revision),
            Err(ReadError::Unavailable(why)) => {
                eprintln!("not read: {why}");
                continue;
            }
            Err(ReadError::Rejected(why)) => panic!("{why}"),
        };
        let write = write(&Key::Lease, at, &format!("{id}-{number}"));
        if let WriteOutcome::Applied { revision } = store.compare_and_set(&write, LIMIT).await {
            println!("\napplied {revision}");
        }
    }
}

#[tokio::test]
async fn a_killed_writer_loses_nothing_it_was_told_of() {
    let file = InFile::new();
    let store = opened(&file).await;
    for _ in 0..5 {
        let children: Vec<_> = (0..2)
            .map(|_| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["conformance::sqlite_faults::child_that_writes", "--exact"])
                    .arg("--nocapture")
                    .env(CHILD, file.path())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for (mut child, told) in children.into_iter().zip([20, 35]) {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut applied = lines.map_while(Result::ok).filter_map(|line| {
                line.strip_prefix("applied ").and_then(|revision| revision.parse::<u64>().ok())
            });
            let some = applied.nth(told).expect("it writes until it is killed");
            child.kill().unwrap();
            let last = applied.last().unwrap_or(some);
            child.wait().unwrap();
            let (_, found) = newest(&store, &Key::Lease).await.unwrap();
            assert!(found.0 >= last, "{last} was applied, {found} is the newest");
        }
    }
    assert!(
        matches!(opened(&file).await.history(&Key::Lease, LIMIT).await, Ok(kept) if kept.len() == 8)
    );
}

#[tokio::test]
async fn hints_cross_processes() {
    let file = InFile::new();
    let store = opened(&file).await;
    let mut hints = store.changes();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["conformance::sqlite_faults::child_that_writes", "--exact", "--nocapture"])
        .env(CHILD, file.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..10 {
        tokio::time::timeout(LIMIT, hints.recv()).await.unwrap().ok();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_write_given_up_while_locked_out_never_lands() {
    let file = InFile::new();
    let store = opened(&file).await;
    let other = rusqlite::Connection::open(file.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let late = write(&Key::Lease, None, "late");
    let outcome = store.compare_and_set(&late, Duration::from_millis(200)).await;
    assert!(matches!(outcome, WriteOutcome::NotSent { .. }), "{outcome:?}");
    // Given up by dropping the call.
    let dropped = store.compare_and_set(&late, LIMIT);
    assert!(tokio::time::timeout(Duration::from_millis(200), dropped).await.is_err());
    other.execute_batch("COMMIT").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(store.read(&Key::Lease, LIMIT).await.unwrap(), None);
    put(&store, &Key::Lease, None, "in-time").await;
}

#[tokio::test]
async fn another_file_under_the_name_is_another_store() {
    let file = InFile::new();
    let store = opened(&file).await;
    put(&store, &Key::Lease, None, "a-1").await;
    let copy = file.0.path().join("copy.db");
    std::fs::copy(file.path(), &copy).unwrap();
    std::fs::rename(&copy, file.path()).unwrap();
    until_incarnation_rejected(&store).await;
    file.delete();
    until_incarnation_rejected(&store).await;
    let outcome = store.compare_and_set(&write(&Key::ClusterState, None, "a-2"), LIMIT).await;
    assert!(
        matches!(outcome, WriteOutcome::Rejected(Rejection::Incarnation { .. })),
        "{outcome:?}"
    );
    assert!(!file.path().exists(), "the file was made again");
}

/// Moves the file away and back until it is dropped, with the file in its place.
struct Mover(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Mover {
    fn start(file: &InFile) -> Self {
        const STAY: Duration = Duration::from_millis(2);
        let end = Arc::new(AtomicBool::new(false));
        let (here, there) = (file.path(), file.0.path().join("moved.db"));
        let ended = Arc::clone(&end);
        let work = move || {
            while !ended.load(Ordering::Relaxed) {
                std::fs::rename(&here, &there).unwrap();
                std::thread::sleep(STAY);
                std::fs::rename(&there, &here).unwrap();
                std::thread::sleep(STAY);
            }
        };
        Self(end, Some(std::thread::spawn(work)))
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_said_not_to_have_landed_has_not_when_the_file_is_back() {
    let file = InFile::new();
    let store = opened(&file).await;
    let mut at = put(&store, &Key::Lease, None, "a-0").await;
    let _mover = Mover::start(&file);
    for number in 1..200 {
        let write = write(&Key::Lease, Some(at), &format!("a-{number}"));
        let outcome = store.compare_and_set(&write, LIMIT).await;
        let found = loop {
            if let Ok(found) = store.read(&Key::Lease, LIMIT).await {
                break found.unwrap().revision;
            }
        };
        match outcome {
            WriteOutcome::Applied { revision } => assert_eq!(found, revision),
            WriteOutcome::Unknown { .. } => {}
            WriteOutcome::Refused { .. }
            | WriteOutcome::NotSent { .. }
            | WriteOutcome::Rejected(_) => assert_eq!(found, at, "{outcome:?}, but it is there"),
        }
        at = found;
    }
}

#[tokio::test]
async fn an_older_state_put_in_place_is_not_obeyed() {
    let file = InFile::new();
    let store = opened(&file).await;
    let first = put(&store, &Key::Lease, None, "a-1").await;
    let second = put(&store, &Key::Lease, Some(first), "a-2").await;
    let other = rusqlite::Connection::open(file.path()).unwrap();
    let back = format!(
        "DELETE FROM revisions WHERE revision = {second};
         UPDATE sqlite_sequence SET seq = {first} WHERE name = 'revisions';"
    );
    other.execute_batch(&back).unwrap();
    let read = store.read(&Key::Lease, LIMIT).await;
    assert!(matches!(read, Err(ReadError::Rejected(Rejection::Incarnation { .. }))), "{read:?}");
}

#[tokio::test]
async fn what_is_no_store_of_ours_is_rejected() {
    let file = InFile::new();
    std::fs::write(file.path(), "this is not a database ".repeat(100)).unwrap();
    rejected_with(file.open("a").await, "not a store");
    file.delete();
    rusqlite::Connection::open(file.path()).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    rejected_with(file.open("a").await, "another program");
    file.delete();
    drop(opened(&file).await);
    let member = "a".parse().unwrap();
    let settings = Settings::Sqlite(sqlite::Settings { path: file.path() });
    let other = open(&"other".parse().unwrap(), &member, &settings, LIMIT).await;
    rejected_with(other, "belongs to cluster");
    let nowhere = Settings::Sqlite(sqlite::Settings { path: file.path().join("no/store.db") });
    rejected_with(open(&"pg".parse().unwrap(), &member, &nowhere, LIMIT).await, "directory");
}

#[tokio::test]
async fn damage_is_told_and_not_obeyed() {
    let file = InFile::new();
    let store = opened(&file).await;
    put(&store, &Key::Lease, None, "a-1").await;
    drop(store);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut bytes = std::fs::read(file.path()).unwrap();
    for byte in bytes.iter_mut().skip(4096) {
        *byte = 0xA5;
    }
    std::fs::write(file.path(), bytes).unwrap();
    let reopened = file.open("a").await;
    assert!(matches!(reopened, Err(OpenError::Rejected(_))), "{reopened:?}");
}
