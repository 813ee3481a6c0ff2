//! The processes of one PostgreSQL instance on this machine: find them, kill them, prove them gone.
//!
//! A dead postmaster is no fence: its backends may commit until they notice. So the proof is about
//! every process: no live `postgres` works in the data directory, everything that was signalled has
//! been seen to exit, and nothing is attached to the instance's shared memory.
//!
//! What belongs to the instance: a process whose working directory *is* the data directory (device
//! and inode, not name) and whose command or executable is postgres; and such a process's postgres
//! children, wherever they work. Archive and restore shells also work there, but cannot commit, and
//! are left alone.
//!
//! Nothing here allocates after [`Instance::new`], and the first round of signals needs neither the
//! disk nor the data directory once it was seen: the watchdog has to kill on a machine that has run
//! out of memory or whose storage hangs.

#[doc(hidden)]
pub mod decoders;
mod pid_file;
pub mod port;
mod table;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};

use crate::core::time::Instant;
use pid_file::PidFile;
use port::Listening;
use table::{Home, Table};

/// Processes whose exit is awaited at a time; what is beyond is found by the next round.
const HELD: usize = 4096;
/// Bytes of a child list or of the shared memory table read at once.
const TEXT: usize = 64 * 1024;
/// How long one round waits for exits before it looks again.
const ROUND: Duration = Duration::from_millis(50);
/// Rounds without a find before nothing is believed to be left. `/proc` is not read atomically: a
/// postmaster may fork behind the reader and die ahead of it; its child then is in the next reading.
const QUIET_ROUNDS: u32 = 2;

/// This machine's `CLOCK_BOOTTIME`.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// One PostgreSQL instance, named by its data directory.
#[derive(Debug)]
pub struct Instance {
    data_dir: CString,
    pid_path: CString,
    table: Table,
    text: Box<[u8]>,
    held: Vec<Held>,
    /// The data directory as last seen; outlives its deletion, as its processes may.
    home: Option<Home>,
    /// `postmaster.pid` as last read; outlives its deletion, as the shared memory may.
    file: Option<PidFile>,
}

/// The server's main process.
#[derive(Debug)]
pub struct Postmaster {
    /// Its process id, in this process's namespace.
    pub pid: i32,
    /// Becomes readable when it exits; safe to signal, whatever became of the number.
    pub pidfd: OwnedFd,
    /// Stopped by a signal or held by a debugger: it starts no process for a new connection.
    pub stopped: bool,
}

/// Proof that nothing of the instance is left that could commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Killed {
    /// Processes killed; zero when there was nothing to kill.
    pub killed: u32,
}

/// Why there is no proof. Everything found has been sent SIGKILL nevertheless.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// Something still lives: a process in an uninterruptible wait, or one we may not signal.
    #[error("{left} processes of the instance are left, {attached} attached to its shared memory")]
    Survivors {
        /// Processes still seen.
        left: usize,
        /// Attachments of the shared memory segment.
        attached: u64,
        /// The last refusal of a signal, if there was one.
        #[source]
        cause: Option<io::Error>,
    },
    /// The process table, the data directory or the shared memory table could not be read.
    #[error("cannot look for the processes of the instance")]
    Blind(#[source] io::Error),
}

#[derive(Debug)]
struct Held {
    pid: i32,
    pidfd: OwnedFd,
}

/// What one round of the kill saw.
#[derive(Debug, Default)]
struct Round {
    found: usize,
    struck: u32,
    refused: Option<Errno>,
}

impl Instance {
    /// The instance in `data_dir`, which need not exist yet. Allocates all that is ever needed.
    ///
    /// Fails when `/proc` cannot be opened or the path has a NUL byte.
    pub fn new(data_dir: &Path) -> io::Result<Self> {
        let mut instance = Self {
            data_dir: CString::new(data_dir.as_os_str().as_bytes())?,
            pid_path: CString::new(data_dir.join("postmaster.pid").as_os_str().as_bytes())?,
            table: Table::open()?,
            text: vec![0; TEXT].into_boxed_slice(),
            held: Vec::with_capacity(HELD),
            home: None,
            file: None,
        };
        instance.refresh()?;
        Ok(instance)
    }

    /// The running postmaster that `postmaster.pid` names, or `None`: no file, or a stale one.
    ///
    /// Stale means that the number belongs to nobody, to a zombie, to something that is not
    /// postgres, works elsewhere, or is the child of another process of this instance. The start
    /// time in the file is wall time, which steps; a step must not make a live postmaster look dead,
    /// so it is not compared.
    pub fn postmaster(&mut self) -> io::Result<Option<Postmaster>> {
        self.refresh()?;
        // A file left from before says nothing about now.
        let Some(file) = PidFile::read(&self.pid_path, &mut self.text)? else { return Ok(None) };
        let (Some(home), Some(pid)) = (self.home, Pid::from_raw(file.pid.max(0))) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at after the pidfd pinned it: what is seen is what would be signalled.
        let Some(process) = self.table.process(file.pid)? else { return Ok(None) };
        if !process.is_live_postgres() || !self.table.is_home(file.pid, home)? {
            return Ok(None);
        }
        let parent = self.table.process(process.parent)?;
        let parent_is_ours = parent.is_some_and(|p| p.is_live_postgres())
            && self.table.is_home(process.parent, home)?;
        if parent_is_ours || exited(&pidfd) {
            return Ok(None);
        }
        Ok(Some(Postmaster { pid: file.pid, pidfd, stopped: process.stopped }))
    }

    /// Where the server listens, or did when it ended without a shutdown; `None` after a shutdown.
    ///
    /// # Errors
    /// `postmaster.pid` cannot be read.
    pub fn listening(&self) -> io::Result<Option<Listening>> {
        Listening::read(&self.pid_path)
    }

    /// Live processes of the instance, the postmaster included; zombies are not counted.
    pub fn remnants(&mut self) -> io::Result<usize> {
        self.refresh()?;
        let Some(home) = self.home else { return Ok(0) };
        let mut live = 0;
        self.table.scan(home, |_, _| live += 1)?;
        Ok(live)
    }

    /// Kills every process of the instance and proves it, within `limit` of `CLOCK_BOOTTIME`.
    ///
    /// Signals at least once, however short the limit. Safe to repeat; an instance that is down
    /// already gives its proof with zero kills. It does not hinder anyone from starting the instance
    /// again.
    pub fn kill(&mut self, limit: Duration) -> Result<Killed, KillError> {
        let end = now() + limit;
        self.held.clear();
        // First with what is known already: a hanging disk must not delay the signals.
        let mut killed = self.round().map_or(0, |round| round.struck);
        let mut quiet = 0;
        loop {
            let (round, blind) = match self.look_again().and_then(|()| self.round()) {
                Ok(round) => (round, None),
                Err(error) => (Round { found: 1, ..Round::default() }, Some(error)),
            };
            killed += round.struck;
            self.wait(end);
            let attached = self.attached();
            if round.found == 0 && self.held.is_empty() && matches!(attached, Ok(0)) {
                quiet += 1;
                if quiet >= QUIET_ROUNDS {
                    return Ok(Killed { killed });
                }
                continue;
            }
            quiet = 0;
            if now() >= end {
                return Err(self.failure(&round, blind, attached));
            }
            // Refused signals and attachments have no descriptor to wait on.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Looks at the directory and its `postmaster.pid`, and keeps what was known when they are gone.
    fn refresh(&mut self) -> io::Result<()> {
        if let Some(home) = Home::of(&self.data_dir)? {
            self.home = Some(home);
        }
        if let Some(file) = PidFile::read(&self.pid_path, &mut self.text)? {
            self.file = Some(file);
        }
        Ok(())
    }

    /// A directory once seen is known for good: storage that fails now does not stand in the way of
    /// the proof, which is about processes.
    fn look_again(&mut self) -> Result<(), Errno> {
        match self.refresh() {
            Err(error) if self.home.is_none() => {
                Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Strikes everything the process table shows now.
    fn round(&mut self) -> Result<Round, Errno> {
        let Some(home) = self.home else { return Ok(Round::default()) };
        let mut round = Round::default();
        let (held, text) = (&mut self.held, &mut self.text);
        self.table.scan(home, |table, pid| {
            round.found += 1;
            strike(table, home, pid, held, text, &mut round);
        })?;
        Ok(round)
    }

    /// Waits until all that was struck has exited, at most one round.
    fn wait(&mut self, end: Instant) {
        let until = end.min(now() + ROUND);
        for held in &self.held {
            let left = until.since(now());
            let left = Timespec::try_from(left).unwrap_or_default();
            let mut fds = [PollFd::new(&held.pidfd, PollFlags::IN)];
            // An interrupted wait is only a short one: the exit is asked for below.
            let _ = poll(&mut fds, Some(&left));
        }
        self.held.retain(|held| !exited(&held.pidfd));
    }

    fn attached(&mut self) -> Result<u64, Errno> {
        match self.file.and_then(|file| file.shared_memory) {
            Some(segment) => segment.attached(self.table.root(), &mut self.text),
            None => Ok(0),
        }
    }

    fn failure(
        &self,
        round: &Round,
        blind: Option<Errno>,
        attached: Result<u64, Errno>,
    ) -> KillError {
        match (blind, attached) {
            (Some(error), _) | (None, Err(error)) => KillError::Blind(error.into()),
            (None, Ok(attached)) => KillError::Survivors {
                left: round.found.max(self.held.len()),
                attached,
                cause: round.refused.map(io::Error::from),
            },
        }
    }
}

/// Kills one process of the instance, and its postgres children before they lose their parent:
/// a backend whose function changed directory is only found through it. The stop keeps a postmaster
/// from forking, and from recovering from its children's deaths, in between.
fn strike(
    table: &Table,
    home: Home,
    pid: i32,
    held: &mut Vec<Held>,
    text: &mut [u8],
    round: &mut Round,
) {
    let known = held.iter().any(|h| h.pid == pid);
    if known || held.len() == HELD {
        return;
    }
    let is_ours = || table.is_home(pid, home).unwrap_or(false);
    let Some(pidfd) = pin(pid, is_ours, round) else { return };
    let _ = pidfd_send_signal(&pidfd, Signal::STOP);
    let children = table.children(pid, text).unwrap_or(0);
    for child in table::numbers(&text[..children]) {
        let known = held.iter().any(|h| h.pid == child);
        if known || held.len() + 1 >= HELD {
            continue;
        }
        let is_child = || matches!(table.process(child), Ok(Some(p)) if p.parent == pid && p.is_live_postgres());
        if let Some(pidfd) = pin(child, is_child, round) {
            shoot(Held { pid: child, pidfd }, held, round);
        }
    }
    shoot(Held { pid, pidfd }, held, round);
}

/// Opens the process and checks *then* that it is meant: whatever the number meant before.
fn pin(pid: i32, is_meant: impl Fn() -> bool, round: &mut Round) -> Option<OwnedFd> {
    match pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()) {
        Ok(pidfd) => is_meant().then_some(pidfd),
        Err(Errno::SRCH) => None,
        Err(error) => {
            round.refused = Some(error);
            None
        }
    }
}

fn shoot(target: Held, held: &mut Vec<Held>, round: &mut Round) {
    match pidfd_send_signal(&target.pidfd, Signal::KILL) {
        Ok(()) => {
            round.struck += 1;
            held.push(target);
        }
        Err(Errno::SRCH) => {}
        Err(error) => round.refused = Some(error),
    }
}

fn exited(pidfd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut fds, Some(&at_once)) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests;
