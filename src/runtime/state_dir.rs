//! The agent's own few files: who it is, what it must not forget, and that it runs only once.
//!
//! | file | content | lost, it means |
//! |---|---|---|
//! | `instance` | a UUID made once | a new instance under an old name: waits a failover time first, and takes over only when a primary has admitted it (way out without one: `docs/runbooks/name-taken.md`) |
//! | `floor.json` | incarnation, highest epoch and revision, system identifier, whom it may have promised to | a rolled-back store is not noticed, and a promise that was given is forgotten |
//! | `lock` | held while an agent runs | – |
//! | `watchdog.sock` | the watchdog's socket | a new watchdog is started |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::core::event::Floor;
use crate::core::ids::{ClusterId, InstanceId, MemberId};

/// The directory, locked for this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    instance: InstanceId,
    owner: Owner,
    _locks: [File; 2],
}

/// Whose directory it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    cluster: ClusterId,
    member: MemberId,
}

#[derive(Serialize, Deserialize)]
struct FloorFile {
    owner: Owner,
    floor: Floor,
    crc32: String,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process holds the lock.
    #[error(
        "{path}: locked by another agent: two agents must not speak for one member; stop the other one, or give this one its own member name, state_dir and data_dir"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A file says something that it should not.
    #[error("{path}: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateDirError + '_ {
    move |source| StateDirError::Io { path: path.to_owned(), source }
}

impl StateDir {
    /// Opens, or makes, the directory and takes the locks: one in it, one beside the data directory.
    ///
    /// # Errors
    /// When another agent runs on either, or files cannot be read, or belong to another member.
    pub fn open(
        path: &Path,
        data_dir: &Path,
        cluster: &ClusterId,
        member: &MemberId,
    ) -> Result<Self, StateDirError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))?;
        let locks = [lock(&path.join("lock"))?, lock(&beside(data_dir))?];
        let instance = instance(&path.join("instance"))?;
        let owner = Owner { cluster: cluster.clone(), member: member.clone() };
        Ok(Self { path: path.to_owned(), instance, owner, _locks: locks })
    }

    /// Identity of this directory.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Where the watchdog listens.
    pub fn watchdog_socket(&self) -> PathBuf {
        self.path.join("watchdog.sock")
    }

    /// Where the floor is kept.
    pub fn floor_path(&self) -> PathBuf {
        self.path.join("floor.json")
    }

    /// What an earlier run remembered.
    ///
    /// # Errors
    /// When the file is there but cannot be trusted: starting without it could obey a rolled-back
    /// store, so a person has to decide.
    pub fn read_floor(&self) -> Result<Option<Floor>, StateDirError> {
        let path = self.floor_path();
        let damaged =
            |why: &str| StateDirError::Damaged { path: path.clone(), why: why.to_owned() };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateDirError::Io { path, source }),
        };
        decode_floor(&text, &self.owner).map(Some).map_err(|why| damaged(&why))
    }

    /// Something that writes the floor, callable from another thread.
    pub fn floor_writer(&self) -> FloorWriter {
        FloorWriter { path: self.floor_path(), owner: self.owner.clone() }
    }
}

/// Writes the floor so that a crash leaves the old one or the new one, on disk.
#[derive(Clone, Debug)]
pub struct FloorWriter {
    path: PathBuf,
    owner: Owner,
}

impl FloorWriter {
    /// Writes and flushes.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn write(&self, floor: &Floor) -> io::Result<()> {
        write_durably(&self.path, &encode_floor(floor, &self.owner)?)
    }
}

fn encode_floor(floor: &Floor, owner: &Owner) -> io::Result<Vec<u8>> {
    let crc32 = checksum(owner, floor);
    let file = FloorFile { owner: owner.clone(), floor: floor.clone(), crc32 };
    Ok(serde_json::to_vec(&file)?)
}

fn decode_floor(text: &str, owner: &Owner) -> Result<Floor, String> {
    let help = "it keeps a rolled-back store from being obeyed; check that the store is sound, then move the file away";
    let file: FloorFile =
        serde_json::from_str(text).map_err(|error| format!("not readable ({error}); {help}"))?;
    if file.crc32 != checksum(&file.owner, &file.floor) {
        return Err(format!("checksum mismatch; {help}"));
    }
    if file.owner != *owner {
        let Owner { cluster, member } = file.owner;
        return Err(format!(
            "belongs to member {member} of cluster {cluster}; every member needs a state_dir of its own"
        ));
    }
    Ok(file.floor)
}

/// Doors to what reads and writes `floor.json`, for the fuzzing in `tests/fuzz`.
#[doc(hidden)]
pub mod decoders {
    use super::{ClusterId, Floor, MemberId, Owner};

    /// The floor in a file of this member.
    ///
    /// # Errors
    /// Why it is not trusted.
    pub fn floor(text: &str, cluster: ClusterId, member: MemberId) -> Result<Floor, String> {
        super::decode_floor(text, &Owner { cluster, member })
    }

    /// The file of this member.
    ///
    /// # Errors
    /// It cannot be written, which none of its values gives a cause for.
    pub fn write_floor(
        floor: &Floor,
        cluster: ClusterId,
        member: MemberId,
    ) -> std::io::Result<Vec<u8>> {
        super::encode_floor(floor, &Owner { cluster, member })
    }
}

fn checksum(owner: &Owner, floor: &Floor) -> String {
    let text = serde_json::to_string(&(owner, floor)).unwrap_or_default();
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn beside(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(".harmony.lock");
    data_dir.with_file_name(name)
}

fn lock(path: &Path) -> Result<File, StateDirError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error(parent))?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error(path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StateDirError::Locked { path: path.to_owned() }),
        Err(error) => Err(StateDirError::Io { path: path.to_owned(), source: error.into() }),
    }
}

fn instance(path: &Path) -> Result<InstanceId, StateDirError> {
    let mut text = String::new();
    match File::open(path) {
        Ok(mut file) => {
            file.read_to_string(&mut text).map_err(io_error(path))?;
            text.trim().parse().map_err(|error| StateDirError::Damaged {
                path: path.to_owned(),
                why: format!("{error}; move it away to get a new one"),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = uuid::Uuid::new_v4().to_string();
            write_durably(path, made.as_bytes()).map_err(io_error(path))?;
            made.parse().map_err(|error| StateDirError::Damaged {
                path: path.to_owned(),
                why: format!("{error}"),
            })
        }
        Err(source) => Err(StateDirError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::ids::{Epoch, Revision};
    use crate::core::promise::Bound;

    fn open(dir: &Path, member: &str) -> Result<StateDir, StateDirError> {
        let (cluster, member) = ("c".parse().unwrap(), member.parse().unwrap());
        StateDir::open(&dir.join("state"), &dir.join("data"), &cluster, &member)
    }

    fn floor() -> Floor {
        Floor {
            incarnation: "inc".parse().unwrap(),
            epoch: Epoch(7),
            revision: Revision(99),
            system: Some("7123456789012345678".parse().unwrap()),
            bound: Some(Bound { epoch: Epoch(6), duration: Duration::from_secs(15) }),
        }
    }

    #[test]
    fn remembers_across_restarts_and_keeps_its_instance() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path(), "a").unwrap();
        let instance = state.instance().clone();
        assert_eq!(state.read_floor().unwrap(), None);
        state.floor_writer().write(&floor()).unwrap();
        drop(state);
        let state = open(dir.path(), "a").unwrap();
        assert_eq!(state.read_floor().unwrap(), Some(floor()));
        assert_eq!(*state.instance(), instance);
    }

    #[test]
    fn a_second_agent_is_refused_by_either_lock() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path(), "a").unwrap();
        assert!(matches!(open(dir.path(), "a"), Err(StateDirError::Locked { .. })));
        let (cluster, member) = ("c".parse().unwrap(), "a".parse().unwrap());
        let other =
            StateDir::open(&dir.path().join("other"), &dir.path().join("data"), &cluster, &member);
        assert!(matches!(other, Err(StateDirError::Locked { .. })));
    }

    #[test]
    fn a_damaged_or_foreign_floor_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path(), "a").unwrap();
        state.floor_writer().write(&floor()).unwrap();
        let good = fs::read_to_string(state.floor_path()).unwrap();
        for bad in [&good[..good.len() / 2], "", &good.replace("\"epoch\":7", "\"epoch\":6")] {
            fs::write(state.floor_path(), bad).unwrap();
            assert!(matches!(state.read_floor(), Err(StateDirError::Damaged { .. })), "{bad}");
        }
        fs::write(state.floor_path(), &good).unwrap();
        drop(state);
        let error = open(dir.path(), "b").unwrap().read_floor().unwrap_err();
        assert!(error.to_string().contains("member a"), "{error}");
    }
}
