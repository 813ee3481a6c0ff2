//! A disk without room, and one that may not be written: told as what they are, nothing is lost, and
//! writing goes on once that is mended. The full disk is a small file system that root mounts, if need
//! be root of a user namespace; the disk is read-only by its mount as root, by modes as anybody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use harmony_agent::store::{
    Key, OpenError, Rejection, Settings, Store, Write, WriteOutcome, open, sqlite,
};
use tempfile::TempDir;

use super::suite::{LIMIT, heartbeat, newest, put, write};
use crate::support::postgres::is_root;

/// A directory that can be made small and read-only.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        if is_root() {
            disk.mount("size=1m");
        }
        disk
    }

    fn mount(&self, options: &str) {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.path());
        assert!(command.status().unwrap().success(), "cannot mount a tmpfs");
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self) -> PathBuf {
        self.path().join("store.db")
    }

    fn make_writable(&self, writable: bool) {
        if is_root() {
            self.mount(if writable { "remount,rw,size=1m" } else { "remount,ro,size=1m" });
            return;
        }
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for entry in fs::read_dir(self.path()).unwrap() {
            set(&entry.unwrap().path(), if writable { 0o600 } else { 0o400 });
        }
        set(self.path(), if writable { 0o700 } else { 0o500 });
    }

    async fn open(&self) -> Result<Arc<dyn Store>, OpenError> {
        let settings = Settings::Sqlite(sqlite::Settings { path: self.file() });
        open(&"pg".parse().unwrap(), &"a".parse().unwrap(), &settings, LIMIT).await
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if is_root() {
            // Lazily: a thread of the store may not have closed its file yet.
            let _told = Command::new("umount").arg("-l").arg(self.path()).status();
        } else {
            self.make_writable(true);
        }
    }
}

/// Runs a test where this user may mount: in a user namespace of its own.
fn as_root_of_a_namespace(test: &str) {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount"]).arg(std::env::current_exe().unwrap());
    let ended = command.args(["--exact", test]).status().unwrap();
    assert!(ended.success(), "{test} failed, or user namespaces are not allowed: run it as root");
}

#[tokio::test]
async fn a_full_disk() {
    if !is_root() {
        return as_root_of_a_namespace("conformance::sqlite_disk::a_full_disk");
    }
    let disk = Disk::new();
    let store = disk.open().await.unwrap();
    let lease = put(&store, &Key::Lease, None, "a-1").await;
    let filler = disk.path().join("filler");
    // As much as fits.
    let _full = fs::write(&filler, vec![b'x'; 2 << 20]);

    let why = until_refused(&store).await;
    assert!(matches!(why, Rejection::Full(_)), "{why:?}");
    assert!(why.to_string().contains("the store is full"), "{why}");
    assert_eq!(newest(&store, &Key::Lease).await, Some(("a-1".to_owned(), lease)));

    fs::remove_file(filler).unwrap();
    put(&store, &Key::Lease, Some(lease), "a-2").await;
    assert_eq!(store.health().borrow().trouble, None);
}

async fn until_refused(store: &Arc<dyn Store>) -> Rejection {
    let key = heartbeat("a");
    let mut expected = None;
    for number in 0..1000 {
        let name = format!("h-{number}");
        let value = format!("{name:x>20000}").into_bytes();
        let write = Write { value, ..write(&key, expected, &name) };
        match store.compare_and_set(&write, LIMIT).await {
            WriteOutcome::Applied { revision } => expected = Some(revision),
            WriteOutcome::Rejected(why) => return why,
            other @ (WriteOutcome::Refused { .. }
            | WriteOutcome::Unknown { .. }
            | WriteOutcome::NotSent { .. }) => panic!("{other:?}"),
        }
    }
    panic!("there was room for all of it");
}

#[tokio::test]
async fn a_disk_that_may_not_be_written() {
    let disk = Disk::new();
    let store = disk.open().await.unwrap();
    put(&store, &Key::Lease, None, "a-1").await;
    drop(store);
    // Closed by its thread a moment later: its journal goes with it.
    let journal = disk.path().join("store.db-wal");
    while journal.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }

    disk.make_writable(false);
    let opened = disk.open().await;
    let Err(OpenError::Rejected(why)) = opened else { panic!("{opened:?}") };
    let text = why.to_string();
    assert!(text.contains(disk.file().to_str().unwrap()), "{text}");
    assert!(text.contains("denies access") || text.contains("may write there"), "{text}");

    disk.make_writable(true);
    let store = disk.open().await.unwrap();
    let (_, lease) = newest(&store, &Key::Lease).await.unwrap();
    put(&store, &Key::Lease, Some(lease), "a-2").await;
}
