//! One thread that owns the connection, because SQLite blocks. A job given up while it was still
//! waiting is not begun; one given up afterwards may have landed. A job that panics ends alone: its
//! transaction is rolled back, and the thread goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::bell;
use super::database::Database;
use crate::core::ids::{ClusterId, Incarnation};
use crate::core::time::Instant;
use crate::store::pulse::{Pulse, boot_time};
use crate::store::{Hint, OpenError, ReadError, Write, WriteOutcome};
use crate::supervise;

/// Said when a job ended without an answer.
const BROKE: &str = "the operation broke";

/// Jobs that may wait. An agent has a handful at once; more means that the disk hangs.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Database) + Send>;

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Decides the race between a caller who gives up and a job about to begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim(Arc<AtomicU8>);

impl Claim {
    /// The job's: from here on it may land. False when its caller has given up.
    pub(super) fn begin(&self) -> bool {
        self.settle(BEGUN)
    }

    /// The caller's: true when the job will not run.
    fn give_up(&self) -> bool {
        self.settle(GIVEN_UP)
    }

    fn settle(&self, to: u8) -> bool {
        match self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(settled) => settled == to,
        }
    }
}

/// Gives up when the caller's future is dropped.
struct Waiting(Claim);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// The thread's other end. The thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    // The mutex only makes it Sync; it is held for a `try_send`.
    jobs: Mutex<SyncSender<Job>>,
    path: Arc<PathBuf>,
    pulse: Arc<Pulse>,
}

impl Worker {
    /// Starts the thread and has it open the file.
    pub(super) async fn start(
        path: PathBuf,
        cluster: ClusterId,
        pulse: Arc<Pulse>,
        timeout: Duration,
    ) -> Result<(Self, Incarnation), OpenError> {
        let (jobs, queue) = sync_channel(QUEUE);
        let (opened, opening) = oneshot::channel();
        let (shared_path, thread_path) = (Arc::new(path.clone()), path);
        std::thread::Builder::new()
            .name("store".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || run(&thread_path, &cluster, timeout, opened, &queue))
            .map_err(|error| OpenError::Unavailable(format!("cannot start its thread: {error}")))?;
        let incarnation = match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(OpenError::Unavailable("its thread ended".to_owned())),
            Err(_) => return Err(OpenError::Unavailable(late(timeout))),
        };
        Ok((Self { jobs: Mutex::new(jobs), path: shared_path, pulse }, incarnation))
    }

    /// Asks a question, waiting at most `timeout` for the answer.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        timeout: Duration,
        question: impl FnOnce(&mut Database) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (answer, answered) = oneshot::channel();
        let claim = Claim::default();
        let _waiting = Waiting(claim.clone());
        let deadline = boot_time() + timeout;
        let queued = self.enqueue(Box::new(move |database| {
            database.wait_for_locks(deadline);
            if claim.begin() {
                let _gone = answer.send(question(database));
            }
        }));
        let result = match queued {
            Err(cause) => Err(ReadError::Unavailable(cause)),
            Ok(()) => match tokio::time::timeout(timeout, answered).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(ReadError::Unavailable(BROKE.to_owned())),
                Err(_) => Err(ReadError::Unavailable(late(timeout))),
            },
        };
        self.pulse.read(&result);
        result
    }

    /// Writes, waiting at most `timeout` for the outcome.
    pub(super) async fn write(&self, write: Write, timeout: Duration) -> WriteOutcome {
        let (answer, answered) = oneshot::channel();
        let claim = Claim::default();
        let waiting = Waiting(claim.clone());
        let deadline = boot_time() + timeout;
        let path = Arc::clone(&self.path);
        let pulse = Arc::clone(&self.pulse);
        let queued = self.enqueue(Box::new(move |database| {
            database.wait_for_locks(deadline);
            let outcome = database.write(&write, &claim);
            let applied = matches!(outcome, WriteOutcome::Applied { .. });
            let _gone = answer.send(outcome);
            if applied && !write.key.is_journal() {
                announce(database, &pulse);
                bell::ring(&path);
            }
        }));
        let outcome = match queued {
            Err(cause) => WriteOutcome::NotSent { cause },
            Ok(()) => match tokio::time::timeout(timeout, answered).await {
                Ok(Ok(outcome)) => outcome,
                lost => {
                    let cause = if lost.is_ok() { BROKE.to_owned() } else { late(timeout) };
                    if waiting.0.give_up() {
                        WriteOutcome::NotSent { cause }
                    } else {
                        WriteOutcome::Unknown { cause }
                    }
                }
            },
        };
        self.pulse.written(&outcome);
        outcome
    }

    /// What the bell does: has the thread tell which keys changed.
    pub(super) fn announcer(&self) -> impl Fn() + Send + Sync + 'static {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pulse = Arc::clone(&self.pulse);
        // However often it rings, one look is enough, and leaves the queue to those who wait for answers.
        let waiting = Arc::new(AtomicBool::new(false));
        move || {
            if waiting.swap(true, Ordering::SeqCst) {
                return;
            }
            let (told, begun) = (Arc::clone(&pulse), Arc::clone(&waiting));
            let job: Job = Box::new(move |database| {
                begun.swap(false, Ordering::SeqCst);
                database.wait_for_locks(Instant::ZERO);
                announce(database, &told);
            });
            if jobs.try_send(job).is_err() {
                waiting.store(false, Ordering::SeqCst);
                pulse.hint(Hint::Resync);
            }
        }
    }

    fn enqueue(&self, job: Job) -> Result<(), String> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => format!("{QUEUE} operations wait for the disk already"),
            TrySendError::Disconnected(_) => "its thread ended".to_owned(),
        })
    }
}

fn announce(database: &mut Database, pulse: &Pulse) {
    match database.changed() {
        Some(keys) => keys.into_iter().for_each(|key| pulse.hint(Hint::Changed(key))),
        None => pulse.hint(Hint::Resync),
    }
}

fn late(timeout: Duration) -> String {
    format!("no answer within {} ms", timeout.as_millis())
}

fn run(
    path: &std::path::Path,
    cluster: &ClusterId,
    wait: Duration,
    opened: oneshot::Sender<Result<Incarnation, OpenError>>,
    queue: &Receiver<Job>,
) {
    let mut database = match Database::open(path, cluster, boot_time() + wait) {
        Ok(database) => database,
        Err(error) => {
            let _gone = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(database.incarnation().clone())).is_err() {
        return;
    }
    while let Ok(job) = queue.recv() {
        run_job(job, &mut database);
    }
}

fn run_job(job: Job, database: &mut Database) {
    let ran = catch_unwind(AssertUnwindSafe(|| job(database)));
    if let Err(panic) = ran {
        let panic = supervise::words(panic.as_ref());
        tracing::error!(service = "store thread", panic, "an operation broke; going on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Expected, Key};

    #[tokio::test]
    async fn a_job_that_panics_ends_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let pulse = Arc::new(Pulse::new(true));
        let limit = Duration::from_secs(20);
        let (worker, _) = Worker::start(path, "pg".parse().unwrap(), pulse, limit).await.unwrap();
        let broken = worker.ask(limit, |_| -> Result<(), ReadError> { panic!("here") }).await;
        assert_eq!(broken, Err(ReadError::Unavailable(BROKE.to_owned())));
        let write = Write {
            key: Key::Lease,
            expected: Expected::Absent,
            value: b"{}".to_vec(),
            operation: "a-1".to_owned(),
        };
        let written = worker.write(write, limit).await;
        assert!(matches!(written, WriteOutcome::Applied { .. }), "{written:?}");
    }
}
