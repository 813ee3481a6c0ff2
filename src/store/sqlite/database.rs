//! The file itself. Everything here blocks and runs on the worker's thread.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};

use super::trouble::{Trouble, astray, settle};
use super::worker::Claim;
use crate::core::ids::{ClusterId, Incarnation, Revision};
use crate::core::time::{Instant, StoreTime};
use crate::store::pulse::boot_time;
use crate::store::{
    Expected, HISTORY_DEPTH, Key, LONGEST_VALUE, OpenError, ReadError, Rejection, Versioned, Write,
    WriteOutcome, new_incarnation,
};

/// Marks the file as ours in its header ("HARM").
const APPLICATION: i32 = 0x4841_524D;

/// Version of the tables.
const SCHEMA: i32 = 1;

/// Kept small: the agent shares its container's memory with a database.
const SETTINGS: &str = "
    PRAGMA synchronous = FULL;
    PRAGMA cache_size = -256;
    PRAGMA mmap_size = 0;
    PRAGMA temp_store = MEMORY;
    PRAGMA wal_autocheckpoint = 128;
    PRAGMA journal_size_limit = 1048576;
    PRAGMA trusted_schema = OFF;
";

/// AUTOINCREMENT: a revision is never used again, even after its row was pruned.
const TABLES: &str = "
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        schema INTEGER NOT NULL,
        cluster_id TEXT NOT NULL,
        incarnation TEXT NOT NULL
    ) STRICT;
    CREATE TABLE revisions (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        operation TEXT NOT NULL,
        created INTEGER NOT NULL,
        wall TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX revisions_by_key ON revisions (key, revision);
";

const LIFE: &str = "SELECT incarnation,
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'revisions'), 0) FROM meta";

const READ: &str = "SELECT key, value, revision, created FROM revisions
    WHERE key = ?1 ORDER BY revision DESC LIMIT 1";

/// Keys of the journal begin with "journal."; the character after the point is the slash.
const LIST: &str = "SELECT key, value, revision, created FROM revisions
    WHERE revision IN (SELECT max(revision) FROM revisions
        WHERE key < 'journal.' OR key >= 'journal/' GROUP BY key)";

const HISTORY: &str =
    "SELECT key, value, revision, created FROM revisions WHERE key = ?1 ORDER BY revision";

const CHANGED: &str = "SELECT DISTINCT key FROM revisions
    WHERE revision > ?1 AND (key < 'journal.' OR key >= 'journal/')";

const AGAIN: &str = "SELECT revision FROM revisions WHERE key = ?1 AND operation = ?2";

const INSERT: &str = "INSERT INTO revisions (key, value, operation, created, wall)
    VALUES (?1, ?2, ?3, ?4, ?5)";

const PRUNE: &str = "DELETE FROM revisions WHERE key = ?1 AND revision <=
    (SELECT revision FROM revisions WHERE key = ?1 ORDER BY revision DESC LIMIT 1 OFFSET ?2)";

/// An open file.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    /// Device and inode: another file under the same name is another store.
    identity: (u64, u64),
    incarnation: Incarnation,
    /// The newest revision seen; going below it means that a backup was put in place.
    newest: i64,
    /// The newest revision told to listeners.
    announced: i64,
}

impl Database {
    /// Opens the file, creating it when there is none; waits for locks until `deadline`.
    pub(super) fn open(
        path: &Path,
        cluster: &ClusterId,
        deadline: Instant,
    ) -> Result<Self, OpenError> {
        check_place(path)?;
        loop {
            match Self::try_open(path, cluster, deadline) {
                Ok(database) => return Ok(database),
                Err(Trouble::Rejected(rejection)) => return Err(rejection.into()),
                Err(Trouble::Passing(cause)) if boot_time() >= deadline => {
                    return Err(OpenError::Unavailable(format!("{}: {cause}", path.display())));
                }
                // Turning the journal to WAL does not wait for locks by itself.
                Err(Trouble::Passing(_)) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn try_open(path: &Path, cluster: &ClusterId, deadline: Instant) -> Result<Self, Trouble> {
        let about = |trouble: Trouble| trouble.about(path);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection =
            Connection::open_with_flags(path, flags).map_err(|e| about(e.into()))?;
        let _lost = connection.busy_timeout(deadline.since(boot_time()));
        let incarnation = prepare(&mut connection, cluster).map_err(about)?;
        let identity = identity(path).ok_or_else(|| {
            Trouble::Passing("the file was taken away while it was opened".to_owned())
        })?;
        let mut database = Self {
            connection,
            path: path.to_owned(),
            identity,
            incarnation,
            newest: 0,
            announced: 0,
        };
        database.begin(TransactionBehavior::Deferred)?;
        database.announced = database.newest;
        Ok(database)
    }

    /// Incarnation of the file as opened.
    pub(super) fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    /// Locks are waited for until `deadline`, and a little, so that a busy moment is no failure.
    pub(super) fn wait_for_locks(&self, deadline: Instant) {
        let wait = deadline.since(boot_time()).max(Duration::from_millis(5));
        let _only_waits_differently = self.connection.busy_timeout(wait);
    }

    /// The newest revision of `key`.
    pub(super) fn read(&mut self, key: &Key) -> Result<Option<Versioned>, ReadError> {
        Ok(self.rows(READ, Some(key))?.pop())
    }

    /// The newest revision of every key but the journal's, in order of keys.
    pub(super) fn list(&mut self) -> Result<Vec<Versioned>, ReadError> {
        let mut rows = self.rows(LIST, None)?;
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(rows)
    }

    /// The kept revisions of `key`, oldest first.
    pub(super) fn history(&mut self, key: &Key) -> Result<Vec<Versioned>, ReadError> {
        self.rows(HISTORY, Some(key))
    }

    /// The keys written since this was last asked, or `None` when that cannot be told.
    pub(super) fn changed(&mut self) -> Option<Vec<Key>> {
        let since = self.announced;
        let transaction = self.begin(TransactionBehavior::Deferred).ok()?;
        let names = {
            let mut statement = transaction.prepare_cached(CHANGED).ok()?;
            let names = statement.query_map([since], |row| row.get::<_, String>(0)).ok()?;
            names.collect::<Result<Vec<_>, _>>().ok()?
        };
        drop(transaction);
        self.announced = self.newest;
        Some(names.iter().filter_map(|name| Key::parse(name)).collect())
    }

    /// Compares and sets. Nothing lands once the claim's caller gave up before it could begin.
    pub(super) fn write(&mut self, write: &Write, claim: &Claim) -> WriteOutcome {
        if write.value.len() > LONGEST_VALUE {
            let bytes = write.value.len();
            return WriteOutcome::Rejected(Rejection::TooLong { bytes, limit: LONGEST_VALUE });
        }
        match self.attempt(write, claim) {
            // Whether a commit that failed is on disk is decided by trying the same once more.
            WriteOutcome::Unknown { cause } => settle(cause, self.attempt(write, claim)),
            settled @ (WriteOutcome::Applied { .. }
            | WriteOutcome::Refused { .. }
            | WriteOutcome::NotSent { .. }
            | WriteOutcome::Rejected(_)) => settled,
        }
    }

    fn attempt(&mut self, write: &Write, claim: &Claim) -> WriteOutcome {
        let transaction = match self.begin(TransactionBehavior::Immediate) {
            Ok(transaction) => transaction,
            Err(trouble) => return trouble.before_commit(),
        };
        if !claim.begin() {
            return WriteOutcome::NotSent { cause: "given up while waiting".to_owned() };
        }
        let outcome = match apply(&transaction, write) {
            Ok(outcome) => outcome,
            Err(error) => return Trouble::from(error).before_commit(),
        };
        if let Err(error) = transaction.commit() {
            return Trouble::from(error).at_commit();
        }
        if let WriteOutcome::Applied { revision } = &outcome {
            self.newest = self.newest.max(i64::try_from(revision.0).unwrap_or(i64::MAX));
        }
        match self.check_file() {
            Ok(()) => outcome,
            Err(rejection) => astray(&outcome, rejection),
        }
    }

    fn rows(&mut self, sql: &str, key: Option<&Key>) -> Result<Vec<Versioned>, ReadError> {
        let transaction = self.begin(TransactionBehavior::Deferred)?;
        let rows = select(&transaction, sql, key).map_err(Trouble::from)?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// A transaction on the file that was opened, in the life it was opened in.
    fn begin(&mut self, behavior: TransactionBehavior) -> Result<Transaction<'_>, Trouble> {
        self.check_file().map_err(Trouble::Rejected)?;
        let transaction = self.connection.transaction_with_behavior(behavior)?;
        let (incarnation, newest): (String, i64) = transaction
            .prepare_cached(LIFE)?
            .query_one([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let expected = || self.incarnation.clone();
        if incarnation != self.incarnation.as_str() {
            let rejection = Rejection::Incarnation { expected: expected(), found: incarnation };
            return Err(Trouble::Rejected(rejection));
        }
        if newest < self.newest {
            let found = format!("{incarnation} as it was at revision {newest}");
            return Err(Trouble::Rejected(Rejection::Incarnation { expected: expected(), found }));
        }
        self.newest = newest;
        Ok(transaction)
    }

    fn check_file(&self) -> Result<(), Rejection> {
        let found = match identity(&self.path) {
            Some(found) if found == self.identity => return Ok(()),
            Some(_) => "in another file of that name",
            None => "none",
        };
        let (expected, found) = (self.incarnation.clone(), found.to_owned());
        Err(Rejection::Incarnation { expected, found })
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// The file's directory has to exist, and memory shared between its readers has to work there.
fn check_place(path: &Path) -> Result<(), Rejection> {
    const NFS: i64 = 0x6969;
    const SMB: i64 = 0x517B;
    const CIFS: i64 = 0xFF53_4D42;
    const SMB2: i64 = 0xFE53_4D42;
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(Rejection::Other(format!("{} is no file", path.display()))),
    };
    let found = rustix::fs::statfs(directory).map_err(|error| {
        Rejection::Other(format!("the store's directory {}: {error}", directory.display()))
    })?;
    if [NFS, SMB, CIFS, SMB2].contains(&(found.f_type & 0xFFFF_FFFF)) {
        return Err(Rejection::Other(format!(
            "{} is on a network file system, where the file would be damaged: use a local disk",
            directory.display()
        )));
    }
    Ok(())
}

/// Makes the tables when the file is empty, and checks whose they are when it is not.
fn prepare(connection: &mut Connection, cluster: &ClusterId) -> Result<Incarnation, Trouble> {
    check_owner(connection)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch(SETTINGS)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if number(&transaction, "application_id")? == 0 {
        transaction.execute_batch(TABLES)?;
        let incarnation = new_incarnation();
        transaction.execute(
            "INSERT INTO meta (one, schema, cluster_id, incarnation) VALUES (1, ?1, ?2, ?3)",
            params![SCHEMA, cluster.as_str(), incarnation.as_str()],
        )?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    }
    let incarnation = check_contents(&transaction, cluster)?;
    transaction.commit()?;
    Ok(incarnation)
}

/// In one transaction: another agent may be making the tables right now.
fn check_owner(connection: &mut Connection) -> Result<(), Trouble> {
    let transaction = connection.transaction()?;
    let tables: i32 =
        transaction.query_one("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let owner = number(&transaction, "application_id")?;
    drop(transaction);
    if owner == APPLICATION || (owner == 0 && tables == 0) {
        return Ok(());
    }
    let text = "is a database of another program: name another file".to_owned();
    Err(Trouble::Rejected(Rejection::Other(text)))
}

fn check_contents(transaction: &Connection, cluster: &ClusterId) -> Result<Incarnation, Trouble> {
    let rejected = |text: String| Trouble::Rejected(Rejection::Other(text));
    let sound: String = transaction.query_one("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(rejected(format!("is damaged ({sound}): move it away or restore it")));
    }
    let (schema, owner, incarnation): (i32, String, String) =
        transaction.query_one("SELECT schema, cluster_id, incarnation FROM meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    if schema != SCHEMA {
        return Err(rejected(format!("has schema {schema}, this release knows {SCHEMA}")));
    }
    if owner != cluster.as_str() {
        return Err(rejected(format!("belongs to cluster {owner:?}, this one is {cluster:?}")));
    }
    incarnation.parse().map_err(|error| rejected(format!("{error}")))
}

fn number(connection: &Connection, pragma: &str) -> Result<i32, rusqlite::Error> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

fn select(
    transaction: &Transaction<'_>,
    sql: &str,
    key: Option<&Key>,
) -> Result<Vec<Option<Versioned>>, rusqlite::Error> {
    let mut statement = transaction.prepare_cached(sql)?;
    let names: Vec<String> = key.iter().map(ToString::to_string).collect();
    statement.query_map(rusqlite::params_from_iter(names), versioned)?.collect()
}

/// A row, or `None` when its key is none of ours.
fn versioned(row: &Row<'_>) -> Result<Option<Versioned>, rusqlite::Error> {
    let Some(key) = Key::parse(&row.get::<_, String>(0)?) else {
        return Ok(None);
    };
    Ok(Some(Versioned {
        key,
        value: row.get(1)?,
        revision: revision(row.get(2)?),
        created: StoreTime(row.get(3)?),
    }))
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

fn apply(transaction: &Transaction<'_>, write: &Write) -> Result<WriteOutcome, rusqlite::Error> {
    let key = write.key.to_string();
    let first: Option<i64> = transaction
        .prepare_cached(AGAIN)?
        .query_row(params![key, write.operation], |row| row.get(0))
        .optional()?;
    if let Some(first) = first {
        return Ok(WriteOutcome::Applied { revision: revision(first) });
    }
    let current: Option<i64> = transaction
        .prepare_cached("SELECT max(revision) FROM revisions WHERE key = ?1")?
        .query_one([&key], |row| row.get(0))?;
    let current = current.map(revision);
    let expected = match write.expected {
        Expected::Absent => None,
        Expected::Revision(revision) => Some(revision),
    };
    if current != expected {
        return Ok(WriteOutcome::Refused { current });
    }
    let created = i64::try_from(boot_time().as_nanos()).unwrap_or(i64::MAX);
    let wall = jiff::Timestamp::now().to_string();
    transaction.prepare_cached(INSERT)?.execute(params![
        key,
        write.value,
        write.operation,
        created,
        wall
    ])?;
    let inserted = transaction.last_insert_rowid();
    transaction.prepare_cached(PRUNE)?.execute(params![key, HISTORY_DEPTH])?;
    Ok(WriteOutcome::Applied { revision: revision(inserted) })
}
