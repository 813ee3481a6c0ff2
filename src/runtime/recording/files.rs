//! The two files of a recording. Each begins with a start, so that each can be replayed.

use std::ffi::OsString;
use std::fs::{OpenOptions, rename};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock, fstatvfs};

use super::File;
use crate::recording::line::BEGINS;

/// Room that is left to others, in bytes. Beside the recording lies `floor.json`, by default: a member that
/// cannot write that does not take over.
const RESERVE: u64 = 32 << 20;

/// The file that is written, and the one before it.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl Files {
    /// Opens the recording to go on with it. What a killed agent left half-written is cut off.
    ///
    /// Neither file gets longer than `limit` bytes.
    pub(super) fn open(path: &Path, limit: u64) -> Result<Self, String> {
        let mut file = open(path, OpenOptions::new().create(true))?;
        let end = whole_lines(path, &mut file)?;
        file.set_len(end).map_err(|error| format!("cannot be shortened: {error}"))?;
        Ok(Self { path: path.to_owned(), file, size: end, limit })
    }

    /// The next start should begin another file.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.size > self.limit / 8 * 7
    }

    /// Writes whole lines; false when there is no room for them. `starts`: they begin with a start.
    pub(super) fn append(&mut self, lines: &[u8], starts: bool) -> Result<bool, String> {
        let length = lines.len() as u64;
        let fits = self.size.saturating_add(length) <= self.limit;
        if starts && self.size > 0 && (!fits || self.is_nearly_full()) {
            self.rotate()?;
        }
        if self.size.saturating_add(length) > self.limit || self.size == 0 && !starts {
            return Ok(false);
        }
        let disk = fstatvfs(&self.file).map_err(|error| format!("its disk: {error}"))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < RESERVE.saturating_add(length) {
            return Err(format!(
                "{} KiB are free on its disk, where {} MiB are left to others",
                free >> 10,
                RESERVE >> 20
            ));
        }
        if let Err(error) = self.file.write_all(lines) {
            // Half a line would have to be cut off later.
            drop(self.file.set_len(self.size));
            return Err(format!("cannot be written: {error}"));
        }
        self.size += length;
        Ok(true)
    }

    fn rotate(&mut self) -> Result<(), String> {
        let mut older = OsString::from(&self.path);
        older.push(".1");
        let older = PathBuf::from(older);
        match open(&older, &mut OpenOptions::new()) {
            Ok(mut file) => drop(whole_lines(&older, &mut file)?),
            Err(_) if older.symlink_metadata().is_err() => {}
            Err(why) => return Err(why),
        }
        rename(&self.path, &older)
            .map_err(|error| format!("cannot be renamed to {}: {error}", older.display()))?;
        self.file = open(&self.path, OpenOptions::new().create_new(true))?;
        self.size = 0;
        Ok(())
    }
}

/// Opens a file of ours, for its owner only, and locks it.
fn open(path: &Path, options: &mut OpenOptions) -> Result<File, String> {
    let shown = path.display();
    // A pipe or a terminal must not hold the thread, nor a link lead elsewhere.
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()).unwrap_or_default();
    let file = options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| format!("{shown} cannot be opened: {error}"))?;
    let about = file.metadata().map_err(|error| format!("{shown}: {error}"))?;
    if !about.is_file() {
        return Err(format!("{shown} is no regular file; name another in record.file"));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(format!("{shown} is in use by another agent; give each its own"));
        }
        Err(error) => return Err(format!("{shown} cannot be locked: {error}")),
    }
    if about.permissions().mode() & 0o777 != 0o600 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .map_err(|error| format!("{shown} cannot be made private: {error}"))?;
    }
    Ok(file)
}

/// Length of what is whole in `file`, which is left there to go on; an error when it is somebody else's.
fn whole_lines(path: &Path, file: &mut File) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut begin = vec![0; BEGINS.len()];
    match file.read_exact(&mut begin) {
        Ok(()) if begin == BEGINS.as_bytes() => {}
        // Killed within its first bytes.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            let mut all = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut all)).map_err(failed)?;
            if !BEGINS.as_bytes().starts_with(&all) {
                return Err(foreign(path));
            }
        }
        Ok(()) => return Err(foreign(path)),
        Err(error) => return Err(failed(error)),
    }
    let mut end = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let mut block = vec![0; 64 * 1024];
    while end > 0 {
        let from = end.saturating_sub(block.len() as u64);
        let length = usize::try_from(end - from).unwrap_or_default();
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        file.read_exact(&mut block[..length]).map_err(failed)?;
        if let Some(last) = block[..length].iter().rposition(|byte| *byte == b'\n') {
            end = from + last as u64 + 1;
            break;
        }
        end = from;
    }
    file.seek(SeekFrom::Start(end)).map_err(failed)?;
    Ok(end)
}

fn foreign(path: &Path) -> String {
    format!(
        "{} is no recording, and is not written over; name another in record.file",
        path.display()
    )
}
