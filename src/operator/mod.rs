//! What people change in the coordination state, beside the agents and by the same rule: a
//! compare-and-set on the revision it was decided on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};

use crate::config::{self, Config};
use crate::core::header;
use crate::core::ids::{BootId, InstanceId, Revision};
use crate::core::journal::{RING, Report};
use crate::core::policy::Policy;
use crate::core::records::{ClusterState, Key, Lease, Record, Slot, Snapshot};
use crate::core::{Identity, operation};
use crate::store::{
    self, Expected, OpenError, ReadError, Rejection, Store, Write, WriteOutcome, codec,
};

/// Limit of one operation of the store.
const LIMIT: Duration = Duration::from_secs(3);

/// Records that are read at once.
const AT_ONCE: usize = 8;

/// How long a change is tried: others write too, and an answer may be lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing was changed, or why nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file of the store is not there.
    #[error(
        "{0} is not there: no agent has made the store yet, or store.sqlite.path is another one"
    )]
    NoStore(String),
    /// There is no description of the cluster.
    #[error("the store has no cluster_state: no primary has described the cluster yet")]
    NoCluster,
    /// There is one that cannot be read.
    #[error("cluster_state is not obeyed: {0}; see the runbook record-invalid")]
    Unreadable(String),
    /// It is not done, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The store will not take it until somebody mends the cause.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Others wrote first, again and again.
    #[error("others changed cluster_state each time; try again")]
    Conflict,
    /// It may or may not have happened, or may happen yet.
    #[error(
        "not known whether it was written: {0}; `harmony-agent status` shows what stands in the store"
    )]
    Unknown(String),
}

/// What the configured member counts by: what the store says of the cluster's settings, else its own.
pub fn policy(config: &Config, snapshot: &Snapshot) -> Policy {
    match snapshot.cluster.record() {
        Some(cluster) => cluster.settings.over(&config.policy, &config.member),
        None => config.policy.clone(),
    }
}

/// A person at the store.
#[derive(Debug)]
pub struct Operator {
    store: Arc<dyn Store>,
    identity: Identity,
    writes: u64,
}

impl Operator {
    /// Opens the store that the configuration names, as its member's agent would.
    ///
    /// # Errors
    /// The store is not there, does not answer or lets nobody in.
    pub async fn open(config: &Config) -> Result<Self, Trouble> {
        let settings = match &config.store {
            config::Store::Sqlite(settings) => {
                // Opening it would make one, and a life of the store begin that no agent knows.
                if !settings.path.exists() {
                    return Err(Trouble::NoStore(settings.path.display().to_string()));
                }
                store::Settings::Sqlite(settings.clone())
            }
            config::Store::Nats(settings) => store::Settings::Nats(settings.clone()),
        };
        let store = store::open(&config.cluster_id, &config.member, &settings, LIMIT).await?;
        Ok(Self::new(store, config))
    }

    fn new(store: Arc<dyn Store>, config: &Config) -> Self {
        let boot = format!("operator-{}", uuid::Uuid::new_v4());
        let name = |text: &str| text.parse().map_err(|error| format!("{text:?}: {error}"));
        let boot: BootId =
            name(&boot).unwrap_or_else(|error| unreachable!("a valid name: {error}"));
        let instance: InstanceId =
            boot.to_string().parse().unwrap_or_else(|error| unreachable!("a valid name: {error}"));
        let (member, address) = (config.member.clone(), config.address.clone());
        Self { store, identity: Identity { member, boot, instance, address }, writes: 0 }
    }

    /// All records, as they are now.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn read(&self) -> Result<Snapshot, Trouble> {
        let listing = self.store.list(LIMIT).await?;
        Ok(codec::snapshot(&listing, &self.store.incarnation()))
    }

    /// The latest moves of the lease, oldest first.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn moves(&self) -> Result<Vec<(Revision, Lease)>, Trouble> {
        let history = self.store.history(&Key::Lease, LIMIT).await?;
        let incarnation = self.store.incarnation();
        let decoded = |it: &store::Versioned| match codec::decode(it, "lease", &incarnation) {
            Slot::Valid { record, revision, .. } => Some((revision, record)),
            Slot::Absent | Slot::Invalid { .. } => None,
        };
        Ok(history.iter().filter_map(decoded).collect())
    }

    /// The reports of the journal, oldest first, and what is in it but cannot be read: key and why.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn journal(&self) -> Result<(Vec<Report>, Vec<(Key, String)>), Trouble> {
        let keys: Vec<Key> = (0..RING).map(Key::Journal).collect();
        let mut found = Vec::new();
        // All at once would be more than a store's queue holds.
        for some in keys.chunks(AT_ONCE) {
            let reads = some.iter().map(|key| self.store.read(key, LIMIT));
            found.extend(try_join_all(reads).await?.into_iter().flatten());
        }
        let incarnation = self.store.incarnation();
        let (mut reports, mut unreadable) = (Vec::new(), Vec::new());
        for versioned in found {
            match codec::decode::<Report>(&versioned, "journal", &incarnation) {
                Slot::Valid { record, .. } => reports.push(record),
                Slot::Invalid { why, .. } => unreadable.push((versioned.key, why.to_string())),
                Slot::Absent => {}
            }
        }
        reports.sort_by_key(|report| report.epoch);
        Ok((reports, unreadable))
    }

    /// Changes the description of the cluster. `decide` sees all records and gives the new description,
    /// or `None` when nothing is to be done; it is asked again when somebody else wrote first. Returns
    /// whether something was written.
    ///
    /// # Errors
    /// It was refused by `decide` or the store, or nobody can say.
    pub async fn change(
        &mut self,
        decide: impl Fn(&Snapshot, ClusterState) -> Result<Option<ClusterState>, String>,
    ) -> Result<bool, Trouble> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let snapshot = self.read().await?;
            let (cluster, revision) = match &snapshot.cluster {
                Slot::Absent => return Err(Trouble::NoCluster),
                Slot::Invalid { why, .. } => return Err(Trouble::Unreadable(why.to_string())),
                Slot::Valid { record, revision, .. } => (record.clone(), *revision),
            };
            let Some(wanted) = decide(&snapshot, cluster).map_err(Trouble::Refused)? else {
                return Ok(false);
            };
            let write = self.write(Expected::Revision(revision), wanted);
            match self.settle(&write, end).await {
                WriteOutcome::Applied { .. } => return Ok(true),
                WriteOutcome::Refused { .. } => sleep(Duration::from_millis(20)).await,
                WriteOutcome::Unknown { cause } => return Err(Trouble::Unknown(cause)),
                WriteOutcome::NotSent { cause } => {
                    return Err(Trouble::Read(ReadError::Unavailable(cause)));
                }
                WriteOutcome::Rejected(why) => return Err(why.into()),
            }
        }
        Err(Trouble::Conflict)
    }

    fn write(&mut self, expected: Expected, cluster: ClusterState) -> Write {
        self.writes += 1;
        let incarnation = self.store.incarnation();
        let header = header(&self.identity, &incarnation, self.writes);
        Write {
            key: Key::ClusterState,
            expected,
            value: codec::encode(&header, &Record::ClusterState(cluster)),
            operation: operation(&self.identity.boot, self.writes),
        }
    }

    /// Sends the identical write until its outcome is known, or time is up.
    async fn settle(&self, write: &Write, end: Instant) -> WriteOutcome {
        loop {
            let outcome = self.store.compare_and_set(write, LIMIT).await;
            let open =
                matches!(outcome, WriteOutcome::Unknown { .. } | WriteOutcome::NotSent { .. });
            if !open || Instant::now() >= end {
                return outcome;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
