//! One run of one program: in a process group of its own, with nothing of the agent's environment
//! but `PATH`, and killed with everything in its group when it is over, however it ended.

use std::fmt;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::output;

/// After its end: what it printed last is still read, and its status asked for, for so long.
const GRACE: Duration = Duration::from_millis(100);

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With status 0.
    Well,
    /// With another status, or by a signal.
    Badly(String),
    /// It could not be begun.
    NotBegun(String),
    /// It was killed at its deadline.
    Late(Duration),
    /// It was killed because nobody wants it any more.
    Cancelled,
}

impl Ended {
    /// The word for metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Badly(_) => "failed",
            Self::NotBegun(_) => "not_begun",
            Self::Late(_) => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => f.write_str("it ended well"),
            Self::Badly(how) => write!(f, "it ended with {how}"),
            Self::NotBegun(why) => write!(f, "it could not be run: {why}"),
            Self::Late(limit) => {
                write!(f, "it had not ended within {limit:?} (hooks.timeout) and was killed")
            }
            Self::Cancelled => f.write_str("it was killed: what it was run for is over"),
        }
    }
}

/// Runs `command` with `variables`. Each line that it prints goes to `say`, up to a bound.
pub(super) async fn run(
    command: &[String],
    variables: &[(&str, String)],
    limit: Duration,
    cancel: &CancellationToken,
    say: impl Fn(&str) + Send + Sync,
) -> Ended {
    let deadline = tokio::time::Instant::now() + limit;
    let Some(command) = prepared(command, variables) else {
        return Ended::NotBegun("no program is named".to_owned());
    };
    // A program on a file system that hangs holds whoever starts it: that must not be the agent.
    let begun = tokio::task::spawn_blocking(move || Running::begin(command));
    let begun = tokio::select! {
        begun = begun => begun,
        () = sleep_until(deadline) => return Ended::Late(limit),
        () = cancel.cancelled() => return Ended::Cancelled,
    };
    let mut running = match begun {
        Ok(Ok(running)) => running,
        Ok(Err(why)) => return Ended::NotBegun(why),
        Err(error) => return Ended::NotBegun(error.to_string()),
    };
    let (stdout, stderr) = (running.child.stdout.take(), running.child.stderr.take());
    let printed = async { tokio::join!(output::read(stdout, &say), output::read(stderr, &say)) };
    let mut printed = std::pin::pin!(printed);
    let mut all_printed = false;
    let stopped = loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break Some(Ended::Cancelled),
            () = running.ended() => break None,
            () = sleep_until(deadline) => break Some(Ended::Late(limit)),
            _ = &mut printed, if !all_printed => all_printed = true,
        }
    };
    running.kill();
    if !all_printed {
        // Something that left the group may hold the other end open for ever.
        drop(timeout(GRACE, printed).await);
    }
    let status = timeout(GRACE, running.child.wait()).await;
    match (stopped, status) {
        (Some(stopped), _) => stopped,
        (None, Ok(Ok(status))) if status.success() => Ended::Well,
        (None, Ok(Ok(status))) => Ended::Badly(described(status)),
        (None, Ok(Err(error))) => Ended::Badly(format!("a status that is not known: {error}")),
        (None, Err(_)) => Ended::Badly("a status that is not known".to_owned()),
    }
}

fn described(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("status {code}"),
        None => status.to_string(),
    }
}

fn prepared(command: &[String], variables: &[(&str, String)]) -> Option<Command> {
    let (program, arguments) = command.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.process_group(0).current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

/// Readable when the process behind `pidfd` has ended.
#[expect(
    deprecated,
    reason = "its successor is unsafe; an OwnedFd keeps the promise that one asks for"
)]
fn watch(pidfd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

/// A program under way. Dropped, it is killed with its group.
#[derive(Debug)]
struct Running {
    child: Child,
    /// Of its process, and of its group; `None` once killed.
    group: Option<Pid>,
    end: AsyncFd<OwnedFd>,
}

impl Running {
    fn begin(mut command: Command) -> Result<Self, String> {
        let child = command.spawn().map_err(|error| error.to_string())?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // The process is not waited for before its group is killed: until then its number, which is
        // the group's, cannot become anybody else's.
        let watched = group.ok_or(rustix::io::Errno::SRCH);
        let watched = watched.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let end = watched.map_err(std::io::Error::from).and_then(watch);
        match end {
            Ok(end) => Ok(Self { child, group, end }),
            Err(error) => {
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                Err(format!("it cannot be watched: {error}"))
            }
        }
    }

    /// Resolves when the program has ended; it is not waited for then.
    async fn ended(&self) {
        drop(self.end.readable().await);
    }

    /// Kills everything that is left of it.
    fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
