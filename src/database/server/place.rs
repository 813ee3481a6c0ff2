//! Where everything of the instance lies, and files written so that a crash leaves old or new.
//!
//! What the agent needs beside the data directory is in one sibling, `<data_dir>.harmony`: the log of
//! the server's start, the password file of replication, and directories being made (`clone-…`,
//! `init-…`) or rewound (`rewind-…`). On the same file system, so that a rename puts them in place.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::At;
use super::account::Account;
use super::outcome::{Failure, Step};
use super::tool::Tool;

/// Log files above this are put aside at the next start.
const LOG_LIMIT: u64 = 16 * 1024 * 1024;

/// The instance's files and the account that owns them.
#[derive(Clone, Debug)]
pub(in crate::database) struct Place {
    pub(in crate::database) at: At,
    pub(in crate::database) account: Account,
    /// Major version of the programs.
    pub(in crate::database) major: u32,
}

impl Place {
    pub(in crate::database) fn data_dir(&self) -> &Path {
        &self.at.data_dir
    }

    /// A program of PostgreSQL, run as its account.
    pub(in crate::database) fn tool(&self, name: &str) -> Tool {
        Tool::new(&self.at.bin_dir, name, &self.account)
    }

    /// Path of the Unix socket.
    pub(in crate::database) fn socket(&self) -> PathBuf {
        self.at.socket_dir.join(format!(".s.PGSQL.{}", self.at.port))
    }

    /// The sibling directory for what is ours.
    pub(in crate::database) fn beside(&self) -> PathBuf {
        suffixed(self.data_dir(), ".harmony")
    }

    /// Log of the server until it opens its own.
    pub(in crate::database) fn log(&self) -> PathBuf {
        self.beside().join("postgres.log")
    }

    /// Password file of the replication user, as libpq reads it.
    pub(in crate::database) fn passfile(&self) -> PathBuf {
        self.beside().join("pgpass")
    }

    /// Makes the sibling directory.
    pub(in crate::database) fn make_beside(&self) -> Step<PathBuf> {
        let path = self.beside();
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => self.own(&path)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::file("create", &path, &error)),
        }
        Ok(path)
    }

    /// A path in the sibling directory that no one used before.
    pub(in crate::database) fn fresh(&self, kind: &str) -> Step<PathBuf> {
        Ok(self.make_beside()?.join(format!("{kind}-{}", uuid::Uuid::new_v4().simple())))
    }

    /// Removes directories that an interrupted clone or bootstrap of ours left half made.
    pub(in crate::database) fn sweep(&self) -> Step<()> {
        for path in self.left_over(&["clone-", "init-"])? {
            tracing::info!(path = %path.display(), "removing an unfinished copy");
            fs::remove_dir_all(&path).map_err(|error| Failure::file("remove", &path, &error))?;
        }
        Ok(())
    }

    /// Directories in the sibling whose name starts with one of `kinds`.
    pub(in crate::database) fn left_over(&self, kinds: &[&str]) -> Step<Vec<PathBuf>> {
        let path = self.beside();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::file("read", &path, &error)),
        };
        let named = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            kinds.iter().any(|kind| name.to_string_lossy().starts_with(kind))
        };
        Ok(entries.filter_map(Result::ok).filter(named).map(|entry| entry.path()).collect())
    }

    /// Data directories that were set aside earlier.
    pub(in crate::database) fn set_aside(&self) -> Step<Vec<PathBuf>> {
        self.siblings(".aside-")
    }

    /// What lies beside the data directory under its name with something behind that begins so.
    pub(in crate::database) fn siblings(&self, suffix: &str) -> Step<Vec<PathBuf>> {
        let parent = self.parent();
        let prefix = suffixed(Path::new(self.data_dir().file_name().unwrap_or_default()), suffix);
        let prefix = prefix.to_string_lossy().into_owned();
        let entries =
            fs::read_dir(&parent).map_err(|error| Failure::file("read", &parent, &error))?;
        Ok(entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect())
    }

    /// Directory the data directory is in.
    pub(in crate::database) fn parent(&self) -> PathBuf {
        self.data_dir().parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
    }

    /// Sets `path`, a data directory, aside under a name with the time. Never deletes anything.
    pub(in crate::database) fn put_aside(&self, path: &Path) -> Step<PathBuf> {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut aside = suffixed(self.data_dir(), &format!(".aside-{stamp}"));
        for number in 2.. {
            if !aside.exists() {
                break;
            }
            aside = suffixed(self.data_dir(), &format!(".aside-{stamp}-{number}"));
        }
        self.rename(path, &aside)?;
        tracing::warn!(aside = %aside.display(), "set the old data directory aside; remove it when it is not needed");
        Ok(aside)
    }

    /// Renames and flushes both parents.
    pub(in crate::database) fn rename(&self, from: &Path, to: &Path) -> Step<()> {
        fs::rename(from, to).map_err(|error| {
            let kinds = [io::ErrorKind::ResourceBusy, io::ErrorKind::CrossesDevices];
            let hint = if kinds.contains(&error.kind()) {
                "; data_dir must not be a mount point itself but a directory inside one"
            } else {
                ""
            };
            let (from, to) = (from.display(), to.display());
            Failure::Refused(format!("cannot rename {from} to {to}: {error}{hint}"))
        })?;
        for parent in [from.parent(), to.parent()].into_iter().flatten() {
            flush_dir(parent)?;
        }
        Ok(())
    }

    /// Writes `text` to `path` so that a crash leaves the old or the new content.
    pub(in crate::database) fn write(&self, path: &Path, text: &str, mode: u32) -> Step<()> {
        if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        let temporary = suffixed(path, ".harmony-new");
        let failed = |error: io::Error| Failure::file("write", path, &error);
        match fs::remove_file(&temporary) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // A new file, never through a link: the agent may be root in a directory that is not root's.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(failed)?;
        self.own_file(&file).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&temporary, path).map_err(failed)?;
        flush_dir(path.parent().unwrap_or(Path::new("/")))
    }

    /// Removes a file; one that is not there is fine.
    pub(in crate::database) fn remove(&self, path: &Path) -> Step<()> {
        match fs::remove_file(path) {
            Ok(()) => flush_dir(path.parent().unwrap_or(Path::new("/"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Failure::file("remove", path, &error)),
        }
    }

    /// Opens the server's log for appending.
    pub(in crate::database) fn open_log(&self) -> Step<File> {
        self.make_beside()?;
        let path = self.log();
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
            self.rename(&path, &suffixed(&path, ".1"))?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .and_then(|file| self.own_file(&file).map(|()| file));
        file.map_err(|error| Failure::file("open", &path, &error))
    }

    /// Gives `path` to the account.
    pub(in crate::database) fn own(&self, path: &Path) -> Step<()> {
        if !self.account.switch {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.account.uid), Some(self.account.gid))
            .map_err(|error| Failure::file("change the owner of", path, &error))
    }

    fn own_file(&self, file: &File) -> io::Result<()> {
        if !self.account.switch {
            return Ok(());
        }
        std::os::unix::fs::fchown(file, Some(self.account.uid), Some(self.account.gid))
    }

    /// Why PostgreSQL would refuse the data directory for its owner or permissions.
    pub(in crate::database) fn wrong_owner(&self) -> Option<String> {
        let meta = fs::metadata(self.data_dir()).ok()?;
        let path = self.data_dir().display();
        if meta.uid() != self.account.uid {
            return Some(format!(
                "{path} belongs to user id {}, but PostgreSQL runs as {} ({}): change its owner",
                meta.uid(),
                self.account.name,
                self.account.uid
            ));
        }
        let mode = meta.mode() & 0o777;
        (mode & 0o027 != 0)
            .then(|| format!("{path} has permissions {mode:o}: PostgreSQL wants 0700 or 0750"))
    }
}

/// `path` with `suffix` after its last component.
pub(in crate::database) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn flush_dir(path: &Path) -> Step<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Failure::file("flush", path, &error))
}
