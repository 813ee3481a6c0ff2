//! A promotion that nobody asked us for: CloudNativePG has this instance act by itself, after `kubectl cnpg
//! promote`, for a node that is drained, or as its own failover.
//!
//! `pg_ctl promote` writes a file before it tells PostgreSQL, and PostgreSQL removes `standby.signal` before it
//! lets anybody write. The kernel tells us of both, and all of PostgreSQL's processes are stopped by a signal, until the agent has the lease and lets them go on, or until that takes too long and they
//! are killed. What is left is the moment between the two (ADR 25).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::part::{Data, Want};
use crate::core::event::{Condition, Observation, Process};
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::postmaster::Instance;
use crate::supervise::End;

/// How long it is kept stopped. Whoever acted before hands over within a moment when its agent lives; when it does
/// not, its lease has to end first, and somebody else takes it.
const HOLD: Duration = Duration::from_secs(10);

/// How often it is looked at without a sign of the kernel's.
const LOOK: Duration = Duration::from_millis(500);

/// What PostgreSQL's own tool writes before it tells the server.
const PROMOTE: &[u8] = b"promote";

/// How often it is looked at where the kernel does not tell.
const OFTEN: Duration = Duration::from_millis(20);

/// How long one try to kill it may take.
const KILL: Duration = Duration::from_millis(500);

/// Since when it is stopped, and what it was before.
#[derive(Debug, Default)]
pub(super) struct Pending {
    since: Mutex<Option<Instant>>,
    standby: Mutex<Option<Observation>>,
}

impl Pending {
    /// A promotion is stopped halfway.
    pub(super) fn is_on(&self) -> bool {
        self.since().is_some()
    }

    /// Nothing of it is left.
    pub(super) fn over(&self) {
        self.set(None);
    }

    fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// What is seen of the server: while it is stopped what it was, a standby that nobody writes to.
    pub(super) fn instead(&self, seen: Observation) -> Observation {
        let mut standby = self.standby.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_on() {
            let was = standby.clone();
            return was.map_or(seen, |was| Observation {
                condition: Condition::Slow,
                streaming: false,
                ..was
            });
        }
        *standby = (seen.process == Process::RunningStandby).then(|| seen.clone());
        seen
    }
}

/// Watches for such promotions.
pub(super) async fn serve(shared: Arc<Shared>) -> End {
    // An agent before us may have stopped it, and ended.
    let found = Arc::clone(&shared);
    let left = blocking(move || Ok(is_left_stopped(&found))).await;
    if left.unwrap_or(false) {
        tracing::warn!("a promotion is stopped halfway by an agent that ended");
        shared.pending.set(Some(Instant::now()));
    }
    let signs = match signs() {
        Ok(signs) => Arc::new(signs),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not tell of promotions: looking for them often");
            loop {
                look(&shared, false).await;
                sleep(OFTEN).await;
            }
        }
    };
    loop {
        let watched = watch(&shared, &signs).await;
        look(&shared, false).await;
        let pause = sleep(if watched.is_ok() { LOOK } else { OFTEN });
        tokio::select! {
            ready = signs.readable() => if let Ok(mut ready) = ready {
                let asked = tells_of_promotion(signs.get_ref());
                ready.clear_ready();
                look(&shared, asked).await;
            },
            () = pause => {}
        }
    }
}

/// There may be no directory yet, or another one by now; the same one is not watched twice.
async fn watch(shared: &Arc<Shared>, signs: &Arc<AsyncFd<OwnedFd>>) -> Step<()> {
    let (watched, signs) = (Arc::clone(shared), Arc::clone(signs));
    let flags = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::MOVED_FROM;
    blocking(move || {
        let added = inotify::add_watch(signs.get_ref(), watched.server.place.data_dir(), flags);
        added.map(|_| ()).map_err(|error| Failure::Unknown(error.to_string()))
    })
    .await
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; an OwnedFd keeps the promise that one asks for"
)]
fn signs() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    AsyncFd::with_interest(inotify::init(flags)?, Interest::READABLE)
}

/// Somebody has asked PostgreSQL to promote itself: the file is there for a moment only.
fn tells_of_promotion(signs: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(signs, &mut buffer);
    let mut asked = false;
    while let Ok(event) = reader.next() {
        let came =
            event.events().intersects(inotify::ReadFlags::CREATE | inotify::ReadFlags::MOVED_TO);
        asked |= came && event.file_name().is_some_and(|name| name.to_bytes() == PROMOTE);
    }
    asked
}

/// Looks after what is stopped, or whether something is to be: in any case if somebody has `asked` for it.
async fn look(shared: &Arc<Shared>, asked: bool) {
    if let Some(since) = shared.pending.since() {
        if since.elapsed() >= HOLD {
            tracing::warn!(after = ?HOLD, "the lease did not come: ending what CloudNativePG promoted");
            let ended = end(shared).await;
            ended.unwrap_or_else(|failure| tracing::warn!(why = failure.text(), "it lives"));
        }
        return;
    }
    let looked = Arc::clone(shared);
    let stopped = blocking(move || {
        if !(asked && looked.part.is_stray()) && !looked.part.is_promoted_unasked() {
            return Ok(false);
        }
        if signal(&looked, Signal::STOP)? == 0 {
            return Err(Failure::Unknown("no process of it was found".to_owned()));
        }
        looked.pending.set(Some(Instant::now()));
        Ok(true)
    });
    match stopped.await {
        Ok(false) => {}
        Ok(true) => {
            tracing::warn!(
                "CloudNativePG promotes this instance, which has no lease: stopped until it has"
            );
            shared.nudge.notify_one();
        }
        Err(failure) => {
            tracing::warn!(why = failure.text(), "what is promoted could not be stopped")
        }
    }
}

/// Lets it go on: we have the lease.
pub(super) async fn resume(shared: &Arc<Shared>) -> Step<()> {
    let resumed = Arc::clone(shared);
    blocking(move || signal(&resumed, Signal::CONT)).await?;
    shared.pending.set(None);
    tracing::info!("the lease is there: the promotion goes on");
    Ok(())
}

/// Ends it: somebody else has the lease. Its port is held from then on.
pub(super) async fn end(shared: &Arc<Shared>) -> Step<()> {
    let ended = Arc::clone(shared);
    blocking(move || {
        let unknown = |error: &dyn std::fmt::Display| Failure::Unknown(error.to_string());
        let mut instance =
            Instance::new(ended.server.place.data_dir()).map_err(|error| unknown(&error))?;
        ended.part.learn();
        instance.kill(KILL).map_err(|error| unknown(&error))?;
        ended.part.wants(Want::Shut);
        let cluster = ended.last_read().map(|read| read.cluster);
        ended.part.keep(cluster.as_deref());
        ended.pending.set(None);
        Ok(())
    })
    .await
}

fn is_left_stopped(shared: &Shared) -> bool {
    let postmaster = Instance::new(shared.server.place.data_dir())
        .and_then(|mut instance| instance.postmaster());
    let is_stopped = postmaster.is_ok_and(|found| found.is_some_and(|found| found.stopped));
    is_stopped && shared.part.data() == Data::Running
}

/// How many processes were found.
fn signal(shared: &Shared, signal: Signal) -> Step<usize> {
    let sent = Instance::new(shared.server.place.data_dir())
        .and_then(|mut instance| instance.signal(signal));
    sent.map_err(|error| Failure::Unknown(format!("cannot signal the server: {error}")))
}
