//! The instance by its processes and files: what can be seen of it without asking the server.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Server;
use super::control::Control;
use super::outcome::Failure;
use crate::core::event::{Condition, Observation, Process};
use crate::postmaster::Instance;

/// Free space a crashed server needs at least to come up: it writes WAL.
const SPACE_TO_START: u64 = 16 * 1024 * 1024;

/// The instance by processes and files.
#[derive(Clone, Debug)]
pub(in crate::database) enum Files {
    Absent,
    Unusable(String),
    Stopped { standby: bool, broken: Option<String>, free: u64 },
    Running { main: Main, free: u64 },
    Remnants(usize),
    Unclear(String),
}

/// The running server's main process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::database) struct Main {
    /// Zero while it has only just been started.
    pub(in crate::database) pid: i32,
    /// It is stopped by a signal: it takes no connections.
    pub(in crate::database) frozen: bool,
}

pub(in crate::database) async fn stopped(
    server: &Arc<Server>,
    files: Files,
    end: Instant,
    seen: &mut Observation,
) {
    let (process, condition) = match files {
        Files::Absent => (Process::Absent, Condition::Stopped),
        Files::Unusable(text) => (Process::Unusable, Condition::Broken(text)),
        Files::Remnants(left) => {
            tracing::debug!(left, "processes without a postmaster");
            (Process::Remnants, Condition::Stopping)
        }
        Files::Unclear(text) | Files::Stopped { broken: Some(text), .. } => {
            (Process::Unusable, Condition::Broken(text))
        }
        Files::Running { .. } => (Process::Running, Condition::Slow),
        Files::Stopped { standby, broken: None, free } => {
            let cancel = CancellationToken::new();
            let read = server.control.read(&server.place, &cancel);
            match tokio::time::timeout_at(end, read).await {
                Ok(Ok(control)) => at_rest(server, standby, free, &control, seen),
                Ok(Err(Failure::Refused(text) | Failure::Stuck(text) | Failure::Unknown(text))) => {
                    (Process::Unusable, Condition::Broken(text))
                }
                Ok(Err(Failure::Cancelled)) | Err(_) => {
                    let process =
                        if standby { Process::StoppedStandby } else { Process::StoppedPrimary };
                    (process, Condition::Slow)
                }
            }
        }
    };
    seen.process = process;
    seen.condition = condition;
}

fn at_rest(
    server: &Server,
    standby: bool,
    free: u64,
    control: &Control,
    seen: &mut Observation,
) -> (Process, Condition) {
    seen.system = Some(control.system);
    seen.timeline = control.timeline;
    seen.lsn = control.end();
    seen.replayed = seen.lsn;
    let standby = standby || control.in_recovery();
    let process = if standby { Process::StoppedStandby } else { Process::StoppedPrimary };
    let words = server.launcher.last_words(&server.place);
    let full = !control.is_clean() && free < SPACE_TO_START;
    let condition = match words {
        Some(words) if words.text.contains("No space left on device") => {
            Condition::DiskFull(words.text)
        }
        Some(words) if full => {
            Condition::DiskFull(format!("{free} bytes of disk space left; {}", words.text))
        }
        None if full => Condition::DiskFull(format!("{free} bytes of disk space left")),
        Some(words) if !words.was_ready => Condition::Broken(words.text),
        Some(_) | None => Condition::Stopped,
    };
    (process, condition)
}

/// A server that has written no number of its process yet.
const STARTING: Main = Main { pid: 0, frozen: false };

pub(in crate::database) fn look_at_files(server: &Server) -> Files {
    let place = &server.place;
    let data_dir = place.data_dir();
    let mut instance = server.instance.lock().unwrap_or_else(PoisonError::into_inner);
    match find(&server.postmaster, &mut instance) {
        Ok(Some(main)) => return Files::Running { main, free: free_space(server) },
        Ok(None) => {}
        Err(error) => {
            return Files::Unclear(format!("cannot look for the server's process: {error}"));
        }
    }
    match instance.remnants() {
        Ok(0) => {}
        // A server that just started may not have written its file yet.
        Ok(_) if server.launcher.living().is_some() => {
            return Files::Running { main: STARTING, free: free_space(server) };
        }
        Ok(left) => return Files::Remnants(left),
        Err(error) => return Files::Unclear(format!("cannot look for processes: {error}")),
    }
    if server.launcher.living().is_some() {
        return Files::Running { main: STARTING, free: free_space(server) };
    }
    match fs::read_dir(data_dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => return Files::Absent,
        Ok(false) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Files::Absent,
        Err(error) => {
            return Files::Unusable(format!("cannot read {}: {error}", data_dir.display()));
        }
    }
    if let Some(why) = unusable(server) {
        return Files::Unusable(why);
    }
    let marks = ["standby.signal", "recovery.signal"];
    Files::Stopped {
        standby: marks.iter().any(|mark| data_dir.join(mark).exists()),
        broken: place.wrong_owner(),
        free: free_space(server),
    }
}

/// Why the non-empty data directory is none of ours to run.
fn unusable(server: &Server) -> Option<String> {
    let place = &server.place;
    let path = place.data_dir().join("PG_VERSION");
    let version = match fs::read_to_string(&path) {
        Ok(version) => version.trim().to_owned(),
        Err(error) => {
            return Some(format!(
                "{} is not empty, but no database: cannot read {}: {error}",
                place.data_dir().display(),
                path.display()
            ));
        }
    };
    if version != place.major.to_string() {
        return Some(format!(
            "{} is of PostgreSQL {version:?}, the programs in {} are of {}",
            place.data_dir().display(),
            place.at.bin_dir.display(),
            place.major
        ));
    }
    let missing = super::tool::missing(&place.at.bin_dir, server.programs)?;
    Some(format!("{} is missing: is PostgreSQL being upgraded?", missing.display()))
}

/// The running postmaster; keeps its descriptor for [`super::Server::died`].
pub(in crate::database) fn find(
    known: &Mutex<Option<Arc<Known>>>,
    instance: &mut Instance,
) -> std::io::Result<Option<Main>> {
    let Some(found) = instance.postmaster()? else { return Ok(None) };
    let main = Main { pid: found.pid, frozen: found.stopped };
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.as_ref().is_none_or(|known| known.pid != found.pid) {
        *known = Some(Arc::new(Known { pid: found.pid, pidfd: found.pidfd }));
    }
    Ok(Some(main))
}

/// A postmaster somebody may wait for.
#[derive(Debug)]
pub(in crate::database) struct Known {
    pub(in crate::database) pid: i32,
    pub(in crate::database) pidfd: OwnedFd,
}

/// Bytes PostgreSQL can still write where its data and its WAL are.
fn free_space(server: &Server) -> u64 {
    let data_dir = server.place.data_dir();
    let free = |path| {
        rustix::fs::statvfs(path).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
    };
    free(data_dir.to_path_buf()).min(free(data_dir.join("pg_wal")))
}
