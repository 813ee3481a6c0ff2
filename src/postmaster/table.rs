//! The process table, read without an allocation.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RawDir, SeekFrom, StatxFlags, openat, readlinkat_raw, seek, statx,
};
use rustix::io::{Errno, read};

/// A directory by identity, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    device: (u32, u32),
    inode: u64,
}

impl Home {
    /// Identity of the directory at `path`; `None` when there is none.
    pub(super) fn of(path: &CStr) -> io::Result<Option<Self>> {
        match Self::at(CWD, path) {
            Ok(home) => Ok(Some(home)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is cached is enough, as inodes do not change: a file server that hangs is not asked.
    fn at(dir: BorrowedFd<'_>, path: &CStr) -> Result<Self, Errno> {
        let found = statx(dir, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
        Ok(Self { device: (found.stx_dev_major, found.stx_dev_minor), inode: found.stx_ino })
    }
}

/// One process, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its parent's process id.
    pub(super) parent: i32,
    zombie: bool,
    /// Stopped by a signal or held by a debugger: it runs no code until somebody lets it.
    pub(super) stopped: bool,
    postgres: bool,
}

impl Process {
    /// It may still run code, and that code is PostgreSQL's.
    pub(super) fn is_live_postgres(self) -> bool {
        self.postgres && !self.zombie
    }
}

/// `/proc`.
pub(super) struct Table {
    root: OwnedFd,
    entries: Box<[MaybeUninit<u8>]>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Table {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: openat(CWD, c"/proc", flags, Mode::empty())?,
            entries: vec![MaybeUninit::uninit(); 32 * 1024].into_boxed_slice(),
        })
    }

    /// The directory itself.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Calls `each` for every live postgres process that works in `home`.
    pub(super) fn scan(
        &mut self,
        home: Home,
        mut each: impl FnMut(&Self, i32),
    ) -> Result<(), Errno> {
        seek(&self.root, SeekFrom::Start(0))?;
        let mut entries = std::mem::take(&mut self.entries);
        let outcome = self.scan_with(&mut entries, home, &mut each);
        self.entries = entries;
        outcome
    }

    fn scan_with(
        &self,
        entries: &mut [MaybeUninit<u8>],
        home: Home,
        each: &mut impl FnMut(&Self, i32),
    ) -> Result<(), Errno> {
        let mut listing = RawDir::new(&self.root, entries);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let Some(pid) = number(entry.file_name().to_bytes()) else { continue };
            if self.is_home(pid, home)? && self.process(pid)?.is_some_and(Process::is_live_postgres)
            {
                each(self, pid);
            }
        }
        Ok(())
    }

    /// The process's working directory is `home`. False when it is gone or hidden from us: other
    /// users' processes are, and an instance we may not look at we may not signal either.
    pub(super) fn is_home(&self, pid: i32, home: Home) -> Result<bool, Errno> {
        let name = Name::new(pid, "cwd");
        Ok(present(Home::at(self.root(), name.as_c_str()))? == Some(home))
    }

    /// The process, or `None` when it is gone.
    pub(super) fn process(&self, pid: i32) -> Result<Option<Process>, Errno> {
        let mut buffer = [0; 1024];
        let name = Name::new(pid, "stat");
        let Some(length) = present(self.read(name.as_c_str(), &mut buffer))? else {
            return Ok(None);
        };
        let Some((command, state, parent)) = parse_stat(&buffer[..length]) else {
            return Err(Errno::INVAL);
        };
        // Either will do: a process that is being torn down has no executable any more, and one
        // started through a loader or wrapper has another.
        let postgres = is_postgres(command) || self.runs_postgres(pid);
        Ok(Some(Process {
            parent,
            zombie: matches!(state, b'Z' | b'X' | b'x'),
            stopped: matches!(state, b'T' | b't'),
            postgres,
        }))
    }

    /// Reads the children of `pid` into `text` and gives the length. Zero when the kernel has no
    /// such list; then they are found by where they work.
    pub(super) fn children(&self, pid: i32, text: &mut [u8]) -> Result<usize, Errno> {
        let mut path = [0; 64];
        let mut rest = path.as_mut_slice();
        let _ = write!(rest, "{pid}/task/{pid}/children");
        let path = CStr::from_bytes_until_nul(&path).unwrap_or(c"");
        Ok(present(self.read(path, text))?.unwrap_or(0))
    }

    fn runs_postgres(&self, pid: i32) -> bool {
        let mut buffer = [0; 4096];
        let name = Name::new(pid, "exe");
        let Ok(length) = readlinkat_raw(&self.root, name.as_c_str(), &mut buffer[..]) else {
            return false;
        };
        let path = &buffer[..length];
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        path.rsplit(|&byte| byte == b'/').next().is_some_and(is_postgres)
    }

    fn read(&self, path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        read_whole(self.root(), path, buffer)
    }
}

/// Reads a file into `buffer`, as much as fits.
pub(super) fn read_whole(
    dir: BorrowedFd<'_>,
    path: &CStr,
    buffer: &mut [u8],
) -> Result<usize, Errno> {
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut length = 0;
    while length < buffer.len() {
        match read(&file, &mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// The decimal numbers in a text separated by anything else.
pub(super) fn numbers(text: &[u8]) -> impl Iterator<Item = i32> + '_ {
    text.split(|byte| !byte.is_ascii_digit()).filter_map(number)
}

/// The whole text as a process id.
fn number(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|&pid| pid > 0)
}

fn is_postgres(name: &[u8]) -> bool {
    matches!(name, b"postgres" | b"postmaster" | b"edb-postgres")
}

/// Command, state and parent from `/proc/<pid>/stat`. The command may contain anything, so its end
/// is the last parenthesis.
pub(super) fn parse_stat(text: &[u8]) -> Option<(&[u8], u8, i32)> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let command = text.get(open + 1..close)?;
    let mut fields = text.get(close + 2..)?.split(|&byte| byte == b' ');
    let state = *fields.next()?.first()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    Some((command, state, parent))
}

/// Gone, or none of our business, is no error.
fn present<T>(outcome: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `<pid>/<file>`, on the stack.
struct Name([u8; 32]);

impl Name {
    fn new(pid: i32, file: &str) -> Self {
        let mut name = [0; 32];
        let mut rest = name.as_mut_slice();
        // The longest, "-2147483648/stat", fits.
        let _ = write!(rest, "{pid}/{file}");
        Self(name)
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_in_stat_may_contain_anything() {
        assert_eq!(
            parse_stat(b"12 (a) S 3) (b) Z 77 1 2"),
            Some((b"a) S 3) (b".as_slice(), b'Z', 77))
        );
        assert_eq!(parse_stat(b"12 (postgres"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn only_whole_positive_numbers_are_process_ids() {
        assert_eq!(numbers(b"12 7 \n-3 99999999999 0").collect::<Vec<_>>(), [12, 7, 3]);
        assert_eq!(number(b"self"), None);
        assert_eq!(number(b"-5"), None);
    }

    #[test]
    fn this_process_is_seen_and_is_not_postgres() {
        let table = Table::open().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = table.process(pid).unwrap().unwrap();
        assert!(!process.is_live_postgres());
        assert_eq!(process.parent, rustix::process::getppid().unwrap().as_raw_nonzero().get());
    }
}
