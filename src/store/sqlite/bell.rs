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

/// Time until a bell that was taken away is hung up again.
const REHANG: Duration = Duration::from_secs(1);

fn path_of(database: &Path) -> PathBuf {
    let mut name = OsString::from(database.as_os_str());
    name.push(".bell");
    PathBuf::from(name)
}

/// Tells every process that watches. A bell that cannot be rung only makes them slower.
pub(super) fn ring(database: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW.into() };
    let times = Timestamps { last_access: now, last_modification: now };
    if let Err(error) = utimensat(CWD, path_of(database), &times, AtFlags::empty()) {
        tracing::debug!(%error, "cannot ring the store's bell");
    }
}

/// Calls `announce` whenever the bell rings, until the handle is dropped.
pub(super) fn listen(
    database: &Path,
    announce: impl Fn() + Send + 'static,
    pulse: Arc<Pulse>,
) -> io::Result<AbortOnDropHandle<()>> {
    let bell = path_of(database);
    let mut ear = hang(&bell)?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            match heard(&ear).await {
                Ok(Rung::Changed) => announce(),
                Ok(Rung::Gone) | Err(_) => {
                    tokio::time::sleep(REHANG).await;
                    if let Ok(hung) = hang(&bell) {
                        ear = hung;
                        pulse.hint(Hint::Resync);
                    }
                }
            }
        }
    })))
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
