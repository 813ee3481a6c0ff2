//! The suite on the backends that need no server.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use harmony_agent::store::memory::Memory;
use harmony_agent::store::{OpenError, Settings, Store, open, sqlite};
use tempfile::TempDir;

use super::suite::{Bench, LIMIT};

struct InMemory(Memory);

impl Bench for InMemory {
    fn open(&self, _: &'static str) -> BoxFuture<'_, Result<Arc<dyn Store>, OpenError>> {
        async { Ok(Arc::new(self.0.reopen()) as Arc<dyn Store>) }.boxed()
    }

    fn replace(&self) -> BoxFuture<'_, ()> {
        async { self.0.replace() }.boxed()
    }
}

/// A file in a directory of its own.
pub(super) struct InFile(pub(super) TempDir);

impl InFile {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }

    /// Takes the file away, and what belongs to it.
    pub(super) fn delete(&self) {
        for end in ["", "-wal", "-shm"] {
            let _absent = std::fs::remove_file(format!("{}{end}", self.path().display()));
        }
    }
}

impl Bench for InFile {
    fn open(&self, member: &'static str) -> BoxFuture<'_, Result<Arc<dyn Store>, OpenError>> {
        async move {
            let settings = Settings::Sqlite(sqlite::Settings { path: self.path() });
            open(&"pg".parse().unwrap(), &member.parse().unwrap(), &settings, LIMIT).await
        }
        .boxed()
    }

    fn replace(&self) -> BoxFuture<'_, ()> {
        async { self.delete() }.boxed()
    }
}

mod memory {
    use super::*;
    crate::conformance::suite::each_test!(InMemory(Memory::new()));
}

mod sqlite_file {
    use super::*;
    crate::conformance::suite::each_test!(InFile::new());
}
