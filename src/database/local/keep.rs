//! What of the local log the upstream does not have: named, and its WAL files kept aside, before a rewind
//! or a copy takes it away (`docs/operations.md`, "Bytes that were left behind").
//!
//! The files are copied, never linked: `pg_rewind` and crash recovery write into WAL files in place, and a
//! link would be written to with them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Place;
use super::Shared;
use super::source::Source;
use crate::core::ids::{Lsn, SystemId, TimelineId};
use crate::database::server::control::Control;
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::place::suffixed;
use crate::database::server::timeline::history;

/// Bytes kept of one rejoin at most.
const MOST_BYTES: u64 = 1 << 30;

/// Directories of this kind beside one data directory at most; beyond, only the log tells.
const MOST_KEPT: usize = 16;

/// Free space that is left alone: rewinding and recovering need some.
const RESERVE: u64 = 256 << 20;

/// How long the end of the log is looked for.
const READING: Duration = Duration::from_secs(30);

/// The note in each directory.
const NOTE: &str = "README.json";

/// A part of the local log that the upstream does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extra {
    /// The timeline it is on at its end.
    timeline: TimelineId,
    /// Where the upstream's history left ours.
    fork: Lsn,
    /// The timeline it did so on.
    forked: TimelineId,
    end: Lsn,
    /// Nothing was written after that end.
    exact: bool,
}

/// What stands in the note, for whoever finds it.
#[derive(Debug, Serialize)]
struct Note {
    member: String,
    system: SystemId,
    timeline: TimelineId,
    fork: Lsn,
    end: Lsn,
    /// False: at least up to there.
    end_is_exact: bool,
    bytes: u64,
    upstream_timeline: TimelineId,
    kept_at: String,
    kept: Vec<String>,
    /// Files there was no room for.
    not_kept: Vec<String>,
    what_it_is: String,
    what_to_do: String,
}

/// Names what would be lost and keeps its files. Whatever cannot be kept is said, and holds nothing up.
///
/// # Errors
/// Only [`Failure::Cancelled`].
pub(super) async fn keep(
    shared: &Arc<Shared>,
    source: &Source,
    cancel: &CancellationToken,
) -> Step<()> {
    let Ok(control) = shared.control.read(&shared.place, cancel).await else { return Ok(()) };
    let Some((forked, fork)) = fork_of(&shared.place, &control, source) else { return Ok(()) };
    let from = fork.max(control.checkpoint);
    let found = log_end(&shared.place, control.timeline, from, cancel).await;
    let end = found.unwrap_or_default().max(control.end());
    if cancel.is_cancelled() {
        return Err(Failure::Cancelled);
    }
    if end <= fork {
        return Ok(());
    }
    let timeline = control.timeline;
    let extra = Extra { timeline, fork, forked, end, exact: found.is_some() };
    shared.at("keeping WAL that the primary does not have", Some(extra.bytes()));
    let (files, now, system) = (Arc::clone(shared), source.timeline, control.system);
    let ends = cancel.clone();
    let kept = blocking(move || put(&files.place, &extra, now, system, &ends)).await;
    tell(&extra, kept)
}

/// Says what became of it.
fn tell(extra: &Extra, kept: Step<Kept>) -> Step<()> {
    let timeline = extra.timeline;
    let (bytes, fork, end) = (extra.bytes(), extra.fork.to_string(), extra.end.to_string());
    match kept {
        Ok(Kept::There(path)) => {
            tracing::info!(bytes, fork, end, path = %path.display(), "what this member wrote and the primary does not have is kept already");
        }
        Ok(Kept::Now(path, 0)) => {
            tracing::warn!(bytes, timeline = timeline.0, fork, end, path = %path.display(), "this member wrote what the primary does not have: it is taken back here, and its WAL kept aside; remove that when it is not needed");
        }
        Ok(Kept::Now(path, missing)) => {
            tracing::warn!(bytes, timeline = timeline.0, fork, end, path = %path.display(), missing, "this member wrote what the primary does not have: it is taken back here, and there was room for a part of its WAL only");
        }
        Err(Failure::Cancelled) => return Err(Failure::Cancelled),
        Err(failure) => {
            tracing::warn!(
                bytes,
                timeline = timeline.0,
                fork,
                end,
                why = failure.text(),
                "this member wrote what the primary does not have: it is taken back here, and its WAL could NOT be kept aside"
            );
        }
    }
    Ok(())
}

impl Extra {
    fn bytes(&self) -> u64 {
        self.end.bytes_ahead_of(self.fork)
    }
}

/// Where the upstream's history leaves ours: the timeline and the position. `None` when it does not, as
/// far as the files say.
fn fork_of(place: &Place, control: &Control, source: &Source) -> Option<(TimelineId, Lsn)> {
    let path = place.data_dir().join(format!("pg_wal/{:08X}.history", control.timeline.0));
    let mut own = fs::read_to_string(path).map(|text| history(&text)).unwrap_or_default();
    own.push((control.timeline, Lsn(u64::MAX)));
    let mut theirs = source.history.clone();
    theirs.push((source.timeline, Lsn(u64::MAX)));
    first_difference(&own, &theirs)
}

fn first_difference(
    own: &[(TimelineId, Lsn)],
    theirs: &[(TimelineId, Lsn)],
) -> Option<(TimelineId, Lsn)> {
    let ours = own.iter().zip(theirs);
    let mut last = None;
    for ((timeline, until), (other, left)) in ours {
        if timeline != other {
            return last;
        }
        if until != left {
            return (left < until).then_some((*timeline, *left)).or(Some((*timeline, *until)));
        }
        last = Some((*timeline, *until));
    }
    None
}

/// End of the last whole record behind `from`, by `pg_waldump`; `None` where that is not installed, or the
/// WAL is not there.
async fn log_end(
    place: &Place,
    timeline: TimelineId,
    from: Lsn,
    cancel: &CancellationToken,
) -> Option<Lsn> {
    let tool = place
        .tool("pg_waldump")
        .arg("--path")
        .arg(place.data_dir().join("pg_wal"))
        .arg("--timeline")
        .arg(timeline.0.to_string())
        .arg("--start")
        .arg(from.to_string());
    // It always fails at last: behind the last record is none.
    let finished = timeout(READING, tool.run(cancel)).await.ok()?.ok()?;
    finished.stdout.lines().rev().find_map(record_end)
}

/// From "rmgr: XLOG  len (rec/tot):    114/   114, tx:  0, lsn: 0/03000028, prev …".
fn record_end(line: &str) -> Option<Lsn> {
    let (_, rest) = line.split_once("len (rec/tot):")?;
    let (_, rest) = rest.split_once('/')?;
    let (length, rest) = rest.split_once(',')?;
    let (_, rest) = rest.split_once("lsn: ")?;
    let begin: Lsn = rest.split(',').next()?.trim().parse().ok()?;
    let length: u64 = length.trim().parse().ok()?;
    // Records begin at multiples of eight.
    Some(Lsn(begin.0.checked_add(length)?.checked_next_multiple_of(8)?))
}

/// What became of the files.
enum Kept {
    /// They were there from an earlier try.
    There(PathBuf),
    /// They are there now, but for so many.
    Now(PathBuf, usize),
}

fn put(
    place: &Place,
    extra: &Extra,
    now: TimelineId,
    system: SystemId,
    cancel: &CancellationToken,
) -> Step<Kept> {
    let fork = extra.fork.to_string().replace('/', "_");
    let dir = suffixed(place.data_dir(), &format!(".left-{}-{fork}", extra.timeline));
    if dir.join(NOTE).exists() {
        return Ok(Kept::There(dir));
    }
    let before = place.siblings(".left-")?;
    if before.len() >= MOST_KEPT && !before.contains(&dir) {
        return Err(Failure::Refused(format!(
            "there are {} directories of this kind already, as {}: look at them, and remove what is not needed",
            before.len(),
            dir.display()
        )));
    }
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => place.own(&dir)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Failure::file("create", &dir, &error)),
    }
    let (kept, not_kept) = copy(place, extra, &dir, cancel)?;
    let missing = not_kept.len();
    let note = note(place, extra, now, system, &dir, kept, not_kept);
    let text = serde_json::to_string_pretty(&note)
        .map_err(|error| Failure::Refused(format!("the note cannot be written: {error}")))?;
    place.write(&dir.join(NOTE), &format!("{text}\n"), 0o600)?;
    Ok(Kept::Now(dir, missing))
}

/// Copies in order, so that what is kept can be read from the fork on: which files are there now, and for
/// which there was no room.
fn copy(
    place: &Place,
    extra: &Extra,
    dir: &Path,
    cancel: &CancellationToken,
) -> Step<(Vec<String>, Vec<String>)> {
    let wal = place.data_dir().join("pg_wal");
    let (mut kept, mut left, mut sum) = (Vec::new(), Vec::new(), 0_u64);
    for (name, size) in wanted(&wal, extra)? {
        if cancel.is_cancelled() {
            // Without a note the next try begins anew.
            return Err(Failure::Cancelled);
        }
        let fits = left.is_empty() && sum.saturating_add(size) <= MOST_BYTES;
        if !fits || free_space(dir) < size.saturating_add(RESERVE) {
            left.push(name);
            continue;
        }
        let (from, to) = (wal.join(&name), dir.join(&name));
        let copied = fs::copy(&from, &to).and_then(|_| File::open(&to)?.sync_all());
        copied.map_err(|error| Failure::file("copy", &from, &error))?;
        place.own(&to)?;
        sum = sum.saturating_add(size);
        kept.push(name);
    }
    Ok((kept, left))
}

/// Names and lengths of the files that belong to it, in order: history files, then the log.
fn wanted(wal: &Path, extra: &Extra) -> Step<Vec<(String, u64)>> {
    let entries = fs::read_dir(wal).map_err(|error| Failure::file("read", wal, &error))?;
    let mut files = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_file() && belongs(&name, meta.len(), extra) {
            files.push((name, meta.len()));
        }
    }
    files.sort_by_key(|(name, _)| (!name.ends_with(".history"), name.clone()));
    Ok(files)
}

/// A WAL file of one of our timelines since the fork that holds something of the part in question, or the
/// history of one.
fn belongs(name: &str, size: u64, extra: &Extra) -> bool {
    let ours = |digits: &str| {
        let number = u32::from_str_radix(digits, 16).unwrap_or_default();
        digits.len() == 8 && (extra.forked.0..=extra.timeline.0).contains(&number)
    };
    if let Some(digits) = name.strip_suffix(".history") {
        return ours(digits);
    }
    let digits = name.strip_suffix(".partial").unwrap_or(name);
    let parts = (digits.get(..8), digits.get(8..16), digits.get(16..));
    let (Some(timeline), Some(high), Some(low)) = parts else { return false };
    let number =
        |text: &str| (text.len() == 8).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    let (Some(high), Some(low)) = (number(high), number(low)) else { return false };
    let begin = (high << 32).saturating_add(low.saturating_mul(size));
    ours(timeline) && begin < extra.end.0 && begin.saturating_add(size) > extra.fork.0
}

fn note(
    place: &Place,
    extra: &Extra,
    now: TimelineId,
    system: SystemId,
    dir: &Path,
    kept: Vec<String>,
    not_kept: Vec<String>,
) -> Note {
    let Extra { timeline, fork, end, exact, .. } = *extra;
    Note {
        member: place.settings.member.to_string(),
        system,
        timeline,
        fork,
        end,
        end_is_exact: exact,
        bytes: extra.bytes(),
        upstream_timeline: now,
        kept_at: jiff::Timestamp::now().to_string(),
        kept,
        not_kept,
        what_it_is: format!(
            "WAL that this member wrote after the primary on timeline {now} had gone its own way. The member follows that primary now, without it."
        ),
        what_to_do: format!(
            "See what it changed: pg_waldump --path {} --timeline {timeline} --start {fork} --end {end}. Remove this directory when it is not needed.",
            dir.display()
        ),
    }
}

fn free_space(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(entries: &[(u32, u64)]) -> Vec<(TimelineId, Lsn)> {
        entries.iter().map(|&(timeline, lsn)| (TimelineId(timeline), Lsn(lsn))).collect()
    }

    const MAX: u64 = u64::MAX;

    #[test]
    fn the_fork_is_where_the_histories_part() {
        for (own, theirs, expected) in [
            // The upstream was promoted at 700, and we went on.
            (&[(1, MAX)][..], &[(1, 700), (2, MAX)][..], Some((1, 700))),
            // The same twice.
            (&[(1, MAX)], &[(1, 700), (2, 900), (3, MAX)], Some((1, 700))),
            // Both were promoted, we later.
            (&[(1, 800), (2, MAX)], &[(1, 700), (3, MAX)], Some((1, 700))),
            // Both, we earlier.
            (&[(1, 700), (2, MAX)], &[(1, 800), (3, MAX)], Some((1, 700))),
            // Both at one position, on different timelines.
            (&[(1, 700), (2, MAX)], &[(1, 700), (3, MAX)], Some((1, 700))),
            (&[(1, 700), (2, MAX)], &[(1, 700), (2, 900), (3, MAX)], Some((2, 900))),
            // Nobody has left anybody.
            (&[(1, MAX)], &[(1, MAX)], None),
            (&[(1, 700), (2, MAX)], &[(1, 700), (2, MAX)], None),
        ] {
            let expected = expected.map(|(timeline, lsn)| (TimelineId(timeline), Lsn(lsn)));
            let found = first_difference(&line(own), &line(theirs));
            assert_eq!(found, expected, "{own:?} beside {theirs:?}");
        }
    }

    #[test]
    fn the_end_of_a_record_is_read_from_what_pg_waldump_prints() {
        let text = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/03000028, prev 0/0201F8D8, desc: CHECKPOINT_SHUTDOWN redo 0/3000028";
        assert_eq!(record_end(text), Some(Lsn(0x0300_00A0)));
        for garbage in ["", "rmgr: len (rec/tot): 1/x, lsn: 0/1,", "pg_waldump: error: could not"] {
            assert_eq!(record_end(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn only_files_that_hold_something_of_it_belong_to_it() {
        let size = 16 << 20;
        let (timeline, forked) = (TimelineId(2), TimelineId(1));
        let (fork, end) = (Lsn(0x0300_0060), Lsn(0x0500_0000));
        let extra = Extra { timeline, fork, forked, end, exact: true };
        for (name, expected) in [
            ("000000010000000000000002", false),
            ("000000010000000000000003", true),
            ("000000020000000000000004", true),
            ("000000020000000000000004.partial", true),
            ("000000020000000000000005", false),
            ("000000030000000000000004", false),
            ("00000002.history", true),
            ("00000003.history", false),
            ("archive_status", false),
            ("00000002000000000000000x", false),
            ("", false),
        ] {
            assert_eq!(belongs(name, size, &extra), expected, "{name}");
        }
    }
}
