//! `postmaster.pid`, and the shared memory segment it names.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, read};

use super::table::read_whole;

/// What `postmaster.pid` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    /// Who wrote it; negative for a single-user server.
    pub(super) pid: i32,
    /// The segment, once the server made it (line 7).
    pub(super) shared_memory: Option<Segment>,
}

/// A System V shared memory segment.
///
/// Key and id alone may, after a reboot, be another instance's; with the creator they are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    key: u32,
    id: i64,
    creator: i64,
}

impl PidFile {
    /// The file at `path`; `None` when there is none, or nothing in it that could be a process.
    pub(super) fn read(path: &CStr, text: &mut [u8]) -> io::Result<Option<Self>> {
        match read_whole(CWD, path, text) {
            Ok(length) => Ok(Self::parse(&text[..length])),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = text.split(|&byte| byte == b'\n');
        let pid = std::str::from_utf8(lines.next()?).ok()?.trim().parse::<i32>().ok()?;
        if pid == 0 || pid == i32::MIN {
            return None;
        }
        let creator = i64::from(pid.abs());
        let shared_memory = lines.nth(5).and_then(|line| Segment::parse(line, creator));
        Some(Self { pid, shared_memory })
    }
}

impl Segment {
    fn parse(line: &[u8], creator: i64) -> Option<Self> {
        let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        // The server prints the key unsigned and wide, the kernel prints it signed.
        let key = fields.next()?.parse::<u64>().ok()?;
        let id = fields.next()?.parse().ok()?;
        Some(Self { key: truncate(key), id, creator })
    }

    /// How many processes have it attached; zero when it is gone.
    pub(super) fn attached(&self, proc: BorrowedFd<'_>, text: &mut [u8]) -> Result<u64, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let table = match openat(proc, c"sysvipc/shm", flags, Mode::empty()) {
            Ok(table) => table,
            // A kernel without System V memory has nothing attached.
            Err(Errno::NOENT) => return Ok(0),
            Err(error) => return Err(error),
        };
        self.search(table.as_fd(), text)
    }

    fn search(&self, table: BorrowedFd<'_>, text: &mut [u8]) -> Result<u64, Errno> {
        let mut filled = 0;
        loop {
            let more = match read(table, &mut text[filled..]) {
                Ok(more) => more,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            if more == 0 {
                return Ok(self.attached_in(&text[..filled]).unwrap_or(0));
            }
            filled += more;
            let whole = text[..filled].iter().rposition(|&byte| byte == b'\n').map_or(0, |n| n + 1);
            if let Some(attached) = self.attached_in(&text[..whole]) {
                return Ok(attached);
            }
            text.copy_within(whole..filled, 0);
            filled -= whole;
            if filled == text.len() {
                return Err(Errno::OVERFLOW);
            }
        }
    }

    pub(super) fn attached_in(&self, lines: &[u8]) -> Option<u64> {
        lines.split(|&byte| byte == b'\n').find_map(|line| self.attached_by(line))
    }

    /// Columns: key shmid perms size cpid lpid nattch …
    fn attached_by(&self, line: &[u8]) -> Option<u64> {
        let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let key = fields.next()?.parse::<i64>().ok()?;
        let id = fields.next()?.parse::<i64>().ok()?;
        let creator = fields.nth(2)?.parse::<i64>().ok()?;
        let attached = fields.nth(1)?.parse().ok()?;
        let key = truncate(u64::from_ne_bytes(key.to_ne_bytes()));
        (key == self.key && id == self.id && creator == self.creator).then_some(attached)
    }
}

/// The 32 bits a System V key has.
fn truncate(key: u64) -> u32 {
    (key & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] =
        b"4711\n/data\n1763683200\n5432\n/tmp\nlocalhost\n  4194567890   32769\nready\n";

    #[test]
    fn the_segment_is_found_by_key_id_and_creator() {
        let file = PidFile::parse(FILE).unwrap();
        assert_eq!(file.pid, 4711);
        let segment = file.shared_memory.unwrap();
        let line = b"-100399406 32769   600 56 4711 4720 3 26 26 26 26 0 0 0 0 0";
        assert_eq!(segment.attached_by(line), Some(3));
        let other_creator = b"-100399406 32769   600 56 4712 4720 3 26 26 26 26 0 0 0 0 0";
        assert_eq!(segment.attached_by(other_creator), None);
        let header = b"       key      shmid perms                  size  cpid  lpid nattch";
        assert_eq!(segment.attached_by(header), None);
    }

    #[test]
    fn a_file_in_the_making_or_of_garbage_is_read_as_far_as_it_makes_sense() {
        assert_eq!(PidFile::parse(b""), None);
        assert_eq!(PidFile::parse(b"0\n"), None);
        assert_eq!(PidFile::parse(b"\xff\xfe\n"), None);
        assert_eq!(PidFile::parse(b"99999999999\n"), None);
        let early = PidFile::parse(b"-12\n/data\n").unwrap();
        assert_eq!((early.pid, early.shared_memory), (-12, None));
    }
}
