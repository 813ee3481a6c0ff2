//! The bell: an empty file beside the database, touched after each commit. Whoever watches it
//! learns of a change in about a millisecond without polling; without it they learn at their next
//! read.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use tokio::io::unix::AsyncFd;
use tokio_util::task::AbortOnDropHandle;

use crate::store::Hint;
use crate::store::pulse::Pulse;
use crate::supervise::{self, End};

/// The listener's name in logs.
const NAME: &str = "store bell";

/// Time until a bell that was taken away is hung up again.
const REHANG: Duration = Duration::from_secs(1);

fn path_of(database: &Path) -> PathBuf {
    let mut name = OsString::from(database.as_os_str());
    name.push(".bell");
    PathBuf::from(name)
}

/// Tells every process that watches. A bell that cannot be rung only makes them slower.
pub(super) fn ring(database: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    if let Err(error) = utimensat(CWD, path_of(database), &times, AtFlags::empty()) {
        tracing::debug!(%error, "cannot ring the store's bell");
    }
}

/// Calls `announce` whenever the bell rings, until the handle is dropped.
pub(super) fn listen(
    database: &Path,
    announce: impl Fn() + Send + Sync + 'static,
    pulse: Arc<Pulse>,
) -> AbortOnDropHandle<()> {
    let bell = path_of(database);
    let announce = Arc::new(announce);
    supervise::keep(NAME, move || attend(bell.clone(), Arc::clone(&announce), Arc::clone(&pulse)))
}

async fn attend(bell: PathBuf, announce: Arc<impl Fn()>, pulse: Arc<Pulse>) -> End {
    let mut told = false;
    loop {
        match hang(&bell) {
            Ok(ear) => {
                told = false;
                // What changed while there was no ear was not heard.
                pulse.hint(Hint::Resync);
                while let Ok(Rung::Changed) = heard(&ear).await {
                    announce();
                }
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "cannot watch the store's bell file: changes are seen late");
            }
            Err(_) => {}
        }
        tokio::time::sleep(REHANG).await;
    }
}

#[expect(deprecated, reason = "its replacement is unsafe; an OwnedFd keeps its descriptor valid")]
fn hang(bell: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    File::options().create(true).append(true).open(bell)?;
    let ear = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&ear, bell, WatchFlags::ATTRIB | WatchFlags::DELETE_SELF)?;
    AsyncFd::new(ear)
}

enum Rung {
    Changed,
    Gone,
}

async fn heard(ear: &AsyncFd<OwnedFd>) -> io::Result<Rung> {
    loop {
        let mut ready = ear.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut events = inotify::Reader::new(ear.get_ref(), &mut buffer);
        let (mut any, mut gone) = (false, false);
        loop {
            match events.next() {
                Ok(event) => {
                    any = true;
                    gone |= event.events().intersects(ReadFlags::DELETE_SELF | ReadFlags::IGNORED);
                }
                Err(error) if error == rustix::io::Errno::AGAIN => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        if gone {
            return Ok(Rung::Gone);
        }
        if any {
            return Ok(Rung::Changed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_listener_that_panics_listens_again() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("store.db");
        let pulse = Arc::new(Pulse::new(true));
        let mut hints = pulse.changes();
        let calls = AtomicU32::new(0);
        let (heard, mut hearing) = tokio::sync::mpsc::unbounded_channel();
        let announce = move || {
            assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "the first time");
            heard.send(()).unwrap();
        };
        let _listener = listen(&database, announce, pulse);
        let limit = Duration::from_secs(20);
        let again = async {
            assert_eq!(hints.recv().await.unwrap(), Hint::Resync);
            ring(&database);
            assert_eq!(hints.recv().await.unwrap(), Hint::Resync, "it did not come back");
            ring(&database);
            hearing.recv().await.unwrap();
        };
        tokio::time::timeout(limit, again).await.unwrap();
    }
}
