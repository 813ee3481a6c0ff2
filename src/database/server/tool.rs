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

/// Told what a program writes to its standard error, as it comes.
type Heard = Box<dyn Fn(&str) + Send + Sync>;

/// A program about to run.
pub(in crate::database) struct Tool {
    name: String,
    command: Command,
    input: Option<String>,
    secret: Option<String>,
    heard: Option<Heard>,
}

/// How a program ended.
#[derive(Debug)]
pub(in crate::database) struct Finished {
    pub(in crate::database) status: ExitStatus,
    pub(in crate::database) stdout: String,
    pub(in crate::database) stderr: String,
}

impl Tool {
    /// The program `name` of `bin_dir`, run as `account`, speaking English.
    pub(in crate::database) fn new(bin_dir: &Path, name: &str, account: &Account) -> Self {
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
        Self { name: name.to_owned(), command, input: None, secret: None, heard: None }
    }

    pub(in crate::database) fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(in crate::database) fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.command.args(args);
        self
    }

    /// Text for its standard input.
    pub(in crate::database) fn input(mut self, text: String) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(text);
        self
    }

    /// Text that must not appear in anything it printed.
    pub(in crate::database) fn redact(mut self, secret: Option<String>) -> Self {
        self.secret = secret.filter(|secret| !secret.is_empty());
        self
    }

    /// Tells of what it writes to its standard error, as it comes.
    pub(in crate::database) fn heard(
        mut self,
        heard: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        self.heard = Some(Box::new(heard));
        self
    }

    /// Runs it to its end, or kills it when `cancel` fires.
    pub(in crate::database) async fn run(
        mut self,
        cancel: &CancellationToken,
    ) -> Result<Finished, Failure> {
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
        let heard = self.heard.take();
        let ended =
            async { tokio::join!(feed, drain(stdout, None), drain(stderr, heard), child.wait()) };
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
    pub(in crate::database) async fn succeed(
        self,
        cancel: &CancellationToken,
    ) -> Result<Finished, Failure> {
        let name = self.name.clone();
        let finished = self.run(cancel).await?;
        if finished.status.success() {
            return Ok(finished);
        }
        let said = finished.stderr.lines().filter(|line| progress(line).is_none());
        let words = last_lines(&said.collect::<Vec<_>>().join("\n"), 6);
        Err(Failure::Refused(format!("{name} failed ({}): {words}", finished.status)))
    }
}

/// Lets through only what PostgreSQL needs of the agent's environment.
pub(in crate::database) fn clean_environment(command: &mut std::process::Command) {
    command.env_clear();
    for key in PASSED_ON {
        if let Some(value) = std::env::var_os(key) {
            command.env(key, value);
        }
    }
}

/// Bytes done and bytes in all, from the last such line: "  12345/67890 kB (18%), 0/1 tablespace" of
/// pg_basebackup, "  12345/67890 kB (18%) copied" of pg_rewind.
pub(in crate::database) fn progress(words: &str) -> Option<(u64, u64)> {
    let of = |line: &str| {
        let (counts, _) = line.trim().split_once(" kB (")?;
        let (done, total) = counts.split_once('/')?;
        let kib = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1024);
        Some((kib(done)?, kib(total)?))
    };
    words.split(['\n', '\r']).rev().find_map(of)
}

/// The last `count` non-empty lines of `text`, joined.
pub(in crate::database) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut joined = String::new();
    for line in &lines[lines.len().saturating_sub(count)..] {
        let separator = if joined.is_empty() { "" } else { "; " };
        let _ = write!(joined, "{separator}{line}");
    }
    joined
}

/// Reads to the end; keeps the last [`KEPT`] bytes.
async fn drain(source: Option<impl AsyncRead + Unpin>, heard: Option<Heard>) -> String {
    let mut kept = Vec::new();
    if let Some(mut source) = source {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = source.read(&mut buffer).await {
            if let Some(heard) = &heard {
                heard(&String::from_utf8_lossy(&buffer[..count]));
            }
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
pub(in crate::database) fn missing(bin_dir: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| bin_dir.join(name)).find(|path| !path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_what_the_programs_say() {
        let kib = |done: u64, total: u64| Some((done * 1024, total * 1024));
        assert_eq!(progress("  24576/30912 kB (79%), 0/1 tablespace\n"), kib(24_576, 30_912));
        assert_eq!(progress("1/9 kB (11%) copied\n  9/9 kB (100%) copied"), kib(9, 9));
        let waiting = "waiting for checkpoint\n    0/30912 kB (0%), 0/1 tablespace (/d/x)\r";
        assert_eq!(progress(waiting), kib(0, 30_912));
        for other in ["", "pg_rewind: error: x", "1/x kB (1%)", "18446744073709551615/1 kB (1%)"] {
            assert_eq!(progress(other), None, "{other:?}");
        }
    }
}
