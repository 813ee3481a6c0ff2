//! Nothing is left behind: processes are found by where they belong, never by name, and ended.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use super::super::exit::{Code, Failure};
use super::super::output::complain;
use crate::postmaster::now;

/// What directories of demos are called.
const PREFIX: &str = "harmony-demo-";
/// Locked as long as the demo lives.
const LOCK: &str = "demo.lock";
/// Set in the environment of an agent to its member's directory; what it starts inherits it.
/// Not `HARMONY_…`: those are settings of the agent.
pub(super) const MARK: &str = "DEMO_MEMBER_DIR";
/// Killing goes on for so long before the demo admits that something is left.
const PATIENCE: Duration = Duration::from_secs(10);

/// The demo's own directory. Dropping it ends every process that belongs there and removes it.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    /// Made by us above `path`, because the user named a directory that was not there.
    above: Option<PathBuf>,
    /// Another demo sees by this lock that we live.
    _lock: File,
}

impl Home {
    /// Makes a directory in `parent`.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make(parent: &Path) -> Result<Self, Failure> {
        let failed = |path: &Path, error: &io::Error| {
            let text = format!(
                "directory {} cannot be made: {error}; name another place with --dir",
                path.display()
            );
            Failure::new(Code::CannotCreate, text)
        };
        let above = (!parent.exists()).then(|| parent.to_path_buf());
        if above.is_some() {
            make_dir(parent).map_err(|error| failed(parent, &error))?;
        }
        let parent = fs::canonicalize(parent).map_err(|error| failed(parent, &error))?;
        let path = parent.join(format!("{PREFIX}{}", getpid()));
        let lock = make_dir(&path).and_then(|()| File::create(path.join(LOCK))).and_then(|lock| {
            Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive).map(|()| lock)?)
        });
        match lock {
            Ok(lock) => Ok(Self { path, above, _lock: lock }),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let left = kill_all(&self.path);
        if !left.is_empty() {
            complain(&format!("processes {left:?} of {} cannot be killed", self.path.display()));
        }
        // A process that was being started when the others were killed may have written meanwhile.
        let removed = fs::remove_dir_all(&self.path).or_else(|_| {
            kill_all(&self.path);
            fs::remove_dir_all(&self.path)
        });
        if let Err(error) = removed {
            complain(&format!("directory {} cannot be removed: {error}", self.path.display()));
        }
        if let Some(above) = &self.above {
            // Somebody else may have put something there.
            drop(fs::remove_dir(above));
        }
    }
}

/// Others have to pass through: PostgreSQL may run as another user.
fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

/// Directories in `parent` of demos that ended without cleaning up (killed with -9, power lost).
pub(super) fn left_over(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let is_dead = |path: &PathBuf| {
        let Ok(lock) = File::open(path.join(LOCK)) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()))
        .map(|entry| entry.path())
        .filter(is_dead)
        .collect()
}

/// Live processes that belong to `dir`: they work in it, or were started from it.
///
/// The mark survives a change of directory, the directory survives a rewritten environment
/// (PostgreSQL overwrites its own with its title).
pub(super) fn processes(dir: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = getpid();
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter(|pid| *pid != own && belongs(*pid, dir))
        .collect()
}

fn belongs(pid: Pid, dir: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if fs::read_link(proc.join("cwd")).is_ok_and(|cwd| is_within(&cwd, dir)) {
        return true;
    }
    let Ok(environment) = fs::read(proc.join("environ")) else { return false };
    let is_marked = environment.split(|byte| *byte == 0).any(|variable| {
        let value = variable.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| is_within(Path::new(std::ffi::OsStr::from_bytes(value)), dir))
    });
    is_marked || is_tool_on(&proc, dir)
}

/// A tool of PostgreSQL that an agent ran on `dir`: it works elsewhere, with an environment of its
/// own. The argument decides; the kind of program spares a pager that reads a log of ours.
fn is_tool_on(proc: &Path, dir: &Path) -> bool {
    const TOOLS: [&str; 4] = ["initdb", "pg_basebackup", "pg_rewind", "postgres"];
    let is_tool = fs::read_link(proc.join("exe")).is_ok_and(|exe| {
        exe.file_name().is_some_and(|name| TOOLS.iter().any(|tool| name == *tool))
    });
    let line =
        if is_tool { fs::read(proc.join("cmdline")).unwrap_or_default() } else { Vec::new() };
    line.split(|byte| matches!(byte, 0 | b'='))
        .any(|argument| is_within(Path::new(std::ffi::OsStr::from_bytes(argument)), dir))
}

/// The system says of a directory that was removed: `/path (deleted)`.
fn is_within(path: &Path, dir: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let path = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Path::new(std::ffi::OsStr::from_bytes(path)).starts_with(dir)
}

/// Kills everything that belongs to `dir` until nothing is found any more; returns what is left.
pub(super) fn kill_all(dir: &Path) -> Vec<Pid> {
    let end = now() + PATIENCE;
    loop {
        let found = processes(dir);
        if found.is_empty() || now() > end {
            return found;
        }
        for pid in found {
            // Looked at again once the descriptor pins it: the number may be somebody else's by now.
            let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if belongs(pid, dir) {
                // It may have ended meanwhile.
                let _ = pidfd_send_signal(&pinned, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn dropping_the_home_ends_what_works_there_and_what_was_started_there() {
        let parent = tempfile::tempdir().unwrap();
        let home = Home::make(&parent.path().join("not yet")).unwrap();
        let path = home.path().to_path_buf();
        let sleeper = || {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(Stdio::null());
            command
        };
        let mut inside = sleeper().current_dir(&path).spawn().unwrap();
        let mut marked = sleeper().current_dir("/").env(MARK, path.join("a")).spawn().unwrap();
        let mut stranger = sleeper().current_dir(parent.path()).spawn().unwrap();
        let mut found = processes(&path);
        found.sort_by_key(|pid| pid.as_raw_nonzero());
        assert_eq!(found.len(), 2, "{found:?}");

        drop(home);

        assert!(!inside.wait().unwrap().success());
        assert!(!marked.wait().unwrap().success());
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert!(!path.exists());
        assert!(!parent.path().join("not yet").exists());
    }

    #[test]
    fn a_demo_that_lives_is_not_left_over() {
        let parent = tempfile::tempdir().unwrap();
        let home = Home::make(parent.path()).unwrap();
        let dead = parent.path().join("harmony-demo-1");
        fs::create_dir(&dead).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        assert_eq!(left_over(parent.path()), [dead]);
        drop(home);
    }

    #[test]
    fn a_directory_with_the_same_beginning_is_another_one() {
        assert!(is_within(Path::new("/tmp/x/a"), Path::new("/tmp/x")));
        assert!(is_within(Path::new("/tmp/x/a (deleted)"), Path::new("/tmp/x/a")));
        assert!(!is_within(Path::new("/tmp/xy"), Path::new("/tmp/x")));
    }
}
