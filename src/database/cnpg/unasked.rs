//! A promotion that nobody asked us for, and that got past the bar: when PostgreSQL had just been started, or when a
//! person took the bar away.
//!
//! `pg_ctl promote` writes a file before it tells PostgreSQL, and PostgreSQL removes `standby.signal` before it
//! lets anybody write. The kernel tells us of both, and everything of PostgreSQL is killed at once.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::Shared;
use super::bar::PROMOTE;
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::postmaster::Instance;
use crate::supervise::End;

/// How often it is looked at without a sign of the kernel's.
const LOOK: Duration = Duration::from_millis(500);

/// How often it is looked at where the kernel does not tell.
const OFTEN: Duration = Duration::from_millis(20);

/// How long one try to kill it may take.
const KILL: Duration = Duration::from_millis(500);

/// Watches for such promotions, and puts the bar back as soon as PostgreSQL removes it.
pub(super) async fn serve(shared: Arc<Shared>) -> End {
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
    let mut asked = false;
    loop {
        let watched = watch(&shared, &signs).await;
        // What was asked for and could not be ended is not forgotten.
        asked = look(&shared, asked).await;
        let pause = sleep(if watched.is_ok() { LOOK } else { OFTEN });
        tokio::select! {
            ready = signs.readable() => if let Ok(mut ready) = ready {
                asked |= tells_of_promotion(signs.get_ref());
                ready.clear_ready();
            },
            () = pause => {}
        }
    }
}

/// There may be no directory yet, or another one by now; the same one is not watched twice.
async fn watch(shared: &Arc<Shared>, signs: &Arc<AsyncFd<OwnedFd>>) -> Step<()> {
    let (watched, signs) = (Arc::clone(shared), Arc::clone(signs));
    let flags =
        inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM;
    blocking(move || {
        let added = inotify::add_watch(signs.get_ref(), watched.server.place.data_dir(), flags);
        added.map(|_| ()).map_err(unknown)
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

/// Somebody has asked PostgreSQL to promote itself: the file was made, which the bar is not (it is moved).
fn tells_of_promotion(signs: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(signs, &mut buffer);
    let mut asked = false;
    while let Ok(event) = reader.next() {
        let made = event.events().contains(inotify::ReadFlags::CREATE);
        asked |=
            made && event.file_name().is_some_and(|name| name.to_bytes() == PROMOTE.as_bytes());
    }
    asked
}

/// Looks whether something is promoted that is not to be, in any case if somebody has `asked` for it, and ends it;
/// whether it is to be ended still.
async fn look(shared: &Arc<Shared>, asked: bool) -> bool {
    let looked = Arc::clone(shared);
    let ended = blocking(move || {
        let part = &looked.part;
        let is_due = (asked && part.is_stray()) || part.is_promoted_unasked();
        let is_due = is_due && part.shut();
        if is_due {
            end(&looked)?;
        }
        let cluster = looked.last_read().map(|read| read.cluster);
        part.keep(cluster.as_deref());
        Ok(is_due)
    });
    match ended.await {
        Ok(false) => false,
        Ok(true) => {
            tracing::warn!("CloudNativePG promoted this instance, which has no lease: killed");
            shared.nudge.notify_one();
            false
        }
        Err(failure) => {
            tracing::warn!(why = failure.text(), "what is promoted could not be ended");
            true
        }
    }
}

/// Kills it; it stays down until it is to be a standby again.
fn end(shared: &Shared) -> Step<()> {
    let mut instance = Instance::new(shared.server.place.data_dir()).map_err(unknown)?;
    shared.part.learn();
    instance.kill(KILL).map(|_| ()).map_err(unknown)
}

fn unknown(error: impl fmt::Display) -> Failure {
    Failure::Unknown(error.to_string())
}
