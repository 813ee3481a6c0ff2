//! PostgreSQL's programs: bounded, killed with everything they started, never in the data directory.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::outcome::Failure;

/// Variables a program of PostgreSQL may see. The agent's own environment holds secrets.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];

/// How much of a program's output is kept: its end says what went wrong.
const KEPT: usize = 64 * 1024;

/// A program about to run.
#[derive(Debug)]
pub(super) struct Tool {
    name: String,
    command: Command,
    input: Option<String>,
    secret: Option<String>,
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Tool {
    /// The program `name` of `bin_dir`, run as `account`, speaking English.
    pub(super) fn new(bin_dir: &Path, name: &str, account: &Account) -> Self {
        let mut command = Command::new(bin_dir.join(name));
        // Its own group, so that it can be killed together with its children. Not in the data
        // directory: processes there count as the instance's.
        command.process_group(0).current_dir("/").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        clean_environment(command.as_std_mut());
        command.env("LC_ALL", "C");
        if account.switch {
            command.uid(account.uid).gid(account.gid);
        }
        Self { name: name.to_owned(), command, input: None, secret: None }
    }

    pub(super) fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(super) fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.command.args(args);
        self
    }

    /// Text for its standard input.
    pub(super) fn input(mut self, text: String) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(text);
        self
    }

    /// Text that must not appear in anything it printed.
    pub(super) fn redact(mut self, secret: Option<String>) -> Self {
        self.secret = secret.filter(|secret| !secret.is_empty());
        self
    }

    /// Runs it to its end, or kills it when `cancel` fires.
    pub(super) async fn run(mut self, cancel: &CancellationToken) -> Result<Finished, Failure> {
        let mut child = self.command.spawn().map_err(|error| {
            Failure::Refused(format!(
                "cannot run {:?}: {error}",
                self.command.as_std().get_program()
            ))
        })?;
        let group = Group::of(&child);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let (Some(mut stdin), Some(text)) = (stdin, self.input.take()) {
                // A program that ended early says why on stderr.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
        };
        let ended = async { tokio::join!(feed, drain(stdout), drain(stderr), child.wait()) };
        let ((), stdout, stderr, status) = tokio::select! {
            ended = ended => ended,
            () = cancel.cancelled() => return Err(Failure::Cancelled),
        };
        group.disarm();
        let status = status
            .map_err(|error| Failure::Unknown(format!("cannot wait for {}: {error}", self.name)))?;
        let hide = |text: String| match &self.secret {
            Some(secret) => text.replace(secret.as_str(), "***"),
            None => text,
        };
        Ok(Finished { status, stdout: hide(stdout), stderr: hide(stderr) })
    }

    /// As [`Tool::run`], but a status other than zero is a refusal with the program's last words.
    pub(super) async fn succeed(self, cancel: &CancellationToken) -> Result<Finished, Failure> {
        let name = self.name.clone();
        let finished = self.run(cancel).await?;
        if finished.status.success() {
            return Ok(finished);
        }
        let words = last_lines(&finished.stderr, 6);
        Err(Failure::Refused(format!("{name} failed ({}): {words}", finished.status)))
    }
}

/// Lets through only what PostgreSQL needs of the agent's environment.
pub(super) fn clean_environment(command: &mut std::process::Command) {
    command.env_clear();
    for key in PASSED_ON {
        if let Some(value) = std::env::var_os(key) {
            command.env(key, value);
        }
    }
}

/// The last `count` non-empty lines of `text`, joined.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut joined = String::new();
    for line in &lines[lines.len().saturating_sub(count)..] {
        let separator = if joined.is_empty() { "" } else { "; " };
        let _ = write!(joined, "{separator}{line}");
    }
    joined
}

/// Reads to the end; keeps the last [`KEPT`] bytes.
async fn drain(source: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    if let Some(mut source) = source {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = source.read(&mut buffer).await {
            kept.extend_from_slice(&buffer[..count]);
            if kept.len() > 2 * KEPT {
                kept.drain(..kept.len() - KEPT);
            }
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Kills a process group when dropped before the program's end was seen.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The first of `names` that is not in `bin_dir`.
pub(super) fn missing(bin_dir: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| bin_dir.join(name)).find(|path| !path.is_file())
}
