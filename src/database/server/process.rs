//! The server's process: started so that it outlives the agent, watched, never started behind a fence.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

use super::outcome::{Failure, Step};
use super::place::{Place, suffixed};
use super::tool::{clean_environment, last_lines};
use crate::postmaster::Instance;

/// How much of the log is looked at for what a failed start said.
const TAIL: u64 = 8 * 1024;

/// The server this agent started, and the order between starts and fences.
#[derive(Debug, Default)]
pub(in crate::database) struct Launcher {
    state: Arc<Mutex<Launches>>,
}

#[derive(Debug, Default)]
struct Launches {
    /// Number of fences so far. A start begun before a fence must not happen after it.
    fences: u64,
    /// The last process started, until its end was seen.
    running: Option<Running>,
    /// What the last one said when it ended, unless it was told to.
    last_words: Option<LastWords>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    pidfd: OwnedFd,
    /// Where the log ended before the start.
    log_from: u64,
    /// It got as far as answering.
    was_ready: bool,
}

/// How a server we started ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::database) struct LastWords {
    /// Exit status and end of the log.
    pub(in crate::database) text: String,
    /// It had been up.
    pub(in crate::database) was_ready: bool,
}

/// Permission to start, void after the next fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::database) struct Permit(u64);

impl Launcher {
    fn lock(&self) -> MutexGuard<'_, Launches> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Permission for the starts of an action that begins now.
    pub(in crate::database) fn permit(&self) -> Permit {
        Permit(self.lock().fences)
    }

    /// Permission after a fence of the same action; refused when there was another one.
    pub(in crate::database) fn renew(&self, old: Permit) -> Step<Permit> {
        let fences = self.lock().fences;
        if fences == old.0 + 1 {
            return Ok(Permit(fences));
        }
        Err(Failure::Unknown("a fence began after this action".to_owned()))
    }

    /// Voids all permits. False when a start is under way that cannot be waited for.
    pub(in crate::database) fn void(&self) -> bool {
        match self.state.try_lock() {
            Ok(mut state) => {
                state.fences += 1;
                true
            }
            Err(TryLockError::Poisoned(state)) => {
                state.into_inner().fences += 1;
                true
            }
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// A second descriptor of the process we started, while it lives.
    pub(in crate::database) fn living(&self) -> Option<OwnedFd> {
        let mut state = self.lock();
        state.reap();
        state.running.as_ref().and_then(|running| running.pidfd.try_clone().ok())
    }

    /// How the last one ended, if by itself.
    pub(in crate::database) fn last_words(&self, place: &Place) -> Option<LastWords> {
        let mut state = self.lock();
        if let Some((status, running)) = state.reap()
            && !status.success()
        {
            let text = match tail(place, running.log_from) {
                words if words.is_empty() => {
                    format!(
                        "the server ended with {status} and said nothing in {}",
                        place.log().display()
                    )
                }
                words => format!("the server ended with {status}: {words}"),
            };
            state.last_words = Some(LastWords { text, was_ready: running.was_ready });
        }
        state.last_words.clone()
    }

    /// The server answered: what an earlier start said no longer matters.
    pub(in crate::database) fn ready(&self) {
        let mut state = self.lock();
        state.last_words = None;
        if let Some(running) = &mut state.running {
            running.was_ready = true;
        }
    }

    /// It was stopped on purpose.
    pub(in crate::database) fn forget(&self) {
        let mut state = self.lock();
        state.reap();
        state.last_words = None;
    }

    /// Starts the server. Blocks for the time of a fork and an exec.
    pub(in crate::database) fn start(&self, place: &Place, permit: Permit) -> Step<()> {
        let mut state = self.lock();
        state.check(permit)?;
        state.reap();
        if state.running.is_some() {
            return Err(Failure::Refused("the server started before has not ended".to_owned()));
        }
        clear_stale_locks(place)?;
        let log = place.open_log()?;
        let log_from = log.metadata().map_or(0, |meta| meta.len());
        let child = spawn(place, &log)?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd =
            id.ok_or(rustix::io::Errno::SRCH).and_then(|id| pidfd_open(id, PidfdFlags::empty()));
        let pidfd = pidfd.map_err(|error| {
            Failure::Unknown(format!("the server was started, but cannot be watched: {error}"))
        })?;
        state.last_words = None;
        state.running = Some(Running { child, pidfd, log_from, was_ready: false });
        Ok(())
    }
}

impl Launches {
    fn check(&self, permit: Permit) -> Step<()> {
        if self.fences == permit.0 {
            return Ok(());
        }
        Err(Failure::Refused("a fence began after this action: not starting".to_owned()))
    }

    /// Takes the end of the running process, if it ended.
    fn reap(&mut self) -> Option<(ExitStatus, Running)> {
        let mut running = self.running.take()?;
        match running.child.try_wait() {
            Ok(Some(status)) => Some((status, running)),
            Ok(None) => {
                self.running = Some(running);
                None
            }
            // Somebody else collected it: it has ended.
            Err(_) => None,
        }
    }
}

/// In a session of its own, so that no signal meant for the agent reaches it, and not as a child of a
/// helper, so that its process is known from its first instruction on.
fn spawn(place: &Place, log: &File) -> Step<Child> {
    let server = place.at.bin_dir.join("postgres");
    let mut setsid = Command::new("setsid");
    setsid.arg(&server);
    match prepared(setsid, place, log)?.spawn() {
        Ok(child) => return Ok(child),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::file("start", &server, &error)),
    }
    let mut plain = prepared(Command::new(&server), place, log)?;
    plain.process_group(0);
    plain.spawn().map_err(|error| Failure::file("start", &server, &error))
}

fn prepared(mut command: Command, place: &Place, log: &File) -> Step<Command> {
    let copy = || log.try_clone().map_err(|error| Failure::file("open", &place.log(), &error));
    clean_environment(&mut command);
    command.arg("-D").arg(place.data_dir()).current_dir("/").stdin(Stdio::null());
    command.stdout(copy()?).stderr(copy()?);
    if place.account.switch {
        command.uid(place.account.uid).gid(place.account.gid);
    }
    Ok(command)
}

/// Removes lock files of this instance whose process number now belongs to somebody else. PostgreSQL
/// takes such a number for a running server; numbers of nobody it clears by itself.
fn clear_stale_locks(place: &Place) -> Step<()> {
    let data_dir = place.data_dir();
    let failed = |error: io::Error| {
        Failure::Refused(format!("cannot look for processes of {}: {error}", data_dir.display()))
    };
    let mut instance = Instance::new(data_dir).map_err(failed)?;
    let left = instance.remnants().map_err(failed)?;
    if left > 0 {
        return Err(Failure::Refused(format!("{left} processes of the instance are still there")));
    }
    for path in [data_dir.join("postmaster.pid"), suffixed(&place.socket(), ".lock")] {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.trim().parse::<i32>().ok());
        let ours = lines.next().is_some_and(|line| {
            fs::canonicalize(line.trim()).ok() == fs::canonicalize(data_dir).ok()
        });
        let taken = pid
            .and_then(|pid| Pid::from_raw(pid.saturating_abs()))
            .is_some_and(|pid| test_kill_process(pid).is_ok());
        if ours && taken {
            tracing::warn!(path = %path.display(), pid, "removing a stale lock file: its process is another program");
            place.remove(&path)?;
        }
    }
    Ok(())
}

/// Errors at the end of the log, from `from` on.
fn tail(place: &Place, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(place.log())?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL))))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let telling: Vec<&str> = text
        .lines()
        .filter(|line| ["FATAL", "PANIC", "HINT", "ERROR"].iter().any(|word| line.contains(word)))
        .collect();
    last_lines(&if telling.is_empty() { text.clone() } else { telling.join("\n") }, 3)
}

/// Whether the process behind `pidfd` has ended.
pub(in crate::database) fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// Resolves when the process behind `pidfd` ends.
#[expect(
    deprecated,
    reason = "its successor is unsafe; an OwnedFd keeps the promise that one asks for"
)]
pub(in crate::database) async fn ended(pidfd: OwnedFd) {
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    if let Ok(fd) = AsyncFd::with_interest(pidfd, Interest::READABLE) {
        // An error here means that the descriptor is no process any more.
        let _ = fd.readable().await;
    }
}

/// What `postmaster.pid` says the server is doing: its eighth line, whatever language it speaks.
pub(in crate::database) fn pid_file_status(place: &Place) -> Option<String> {
    let text = fs::read_to_string(place.data_dir().join("postmaster.pid")).ok()?;
    text.lines().nth(7).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_voids_permits_given_before_it() {
        let launcher = Launcher::default();
        let permit = launcher.permit();
        assert!(launcher.lock().check(permit).is_ok());
        assert!(launcher.void());
        assert!(launcher.lock().check(permit).is_err());
        let renewed = launcher.renew(permit).unwrap();
        assert!(launcher.lock().check(renewed).is_ok());
        assert!(launcher.void());
        assert!(launcher.renew(permit).is_err(), "somebody else's fence came in between");
    }
}
