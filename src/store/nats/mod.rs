//! NATS JetStream: the store for production.
//!
//! ```text
//! Nats ─┬─ write ──┐                 (compare-and-set, and what became of it)
//!       ├─ bucket ─┼──▶ link ──▶ servers
//!       ├─ watch ──┤     (requests with a deadline over one connection)
//!       └─ mail ───┘
//! ```
//!
//! We speak the JetStream API ourselves: the client library's key-value store reads from any
//! replica, and knows only one of the two codes of a lost comparison.

mod bucket;
mod classify;
mod connect;
#[doc(hidden)]
pub mod decoders;
mod identity;
mod link;
mod mail;
mod refusal;
mod stream;
mod watch;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, watch as channel};
use tokio::time::Instant as Deadline;

use super::pulse::Pulse;
use super::{
    Capabilities, Health, Hint, Key, Mail, OpenError, ReadError, Statistics, Store, Versioned,
    Write, WriteOutcome,
};
use crate::core::ids::{ClusterId, Incarnation, MemberId};
use bucket::Bucket;
use link::Link;
use mail::Post;
use watch::Watch;

/// How to reach the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `nats://host:port` or `tls://host:port`, the nearest first.
    pub servers: Vec<String>,
    /// How to show who we are.
    pub auth: Auth,
    /// CA certificates to trust (PEM), instead of the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate (PEM); with `tls_key_file`.
    pub tls_certificate_file: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key_file: Option<PathBuf>,
    /// Replicas of the bucket when we create it: 1, 3 or 5; 3 in production.
    pub replicas: u8,
    /// Limit of connecting to one server.
    pub connect_timeout: Duration,
    /// Time between pings; a server is given up after about two.
    pub ping_interval: Duration,
}

/// How to show who we are. Files are read again at every connection, so secrets can be rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// No credentials.
    None,
    /// User name and a file with the password.
    UserPassword {
        /// The user.
        user: String,
        /// File with the password.
        password_file: PathBuf,
    },
    /// A file with a token.
    Token(PathBuf),
    /// A file with an nkey seed.
    Nkey(PathBuf),
    /// A credentials file (JWT and seed).
    Credentials(PathBuf),
}

/// One agent's connection to the bucket.
#[derive(Debug)]
pub struct Nats {
    bucket: Arc<Bucket>,
    pulse: Arc<Pulse>,
    replicas: u8,
    mail: Arc<Post>,
    _watch: Watch,
}

impl Nats {
    /// Connects, and creates the bucket when there is none.
    ///
    /// # Errors
    /// [`OpenError::Unavailable`] when no server, or no leader, answered within `timeout`;
    /// [`OpenError::Rejected`] when access is denied, a server is too old, or the bucket has settings
    /// that are not safe.
    pub async fn open(
        cluster: &ClusterId,
        member: &MemberId,
        settings: &Settings,
        timeout: Duration,
    ) -> Result<Self, OpenError> {
        let deadline = Deadline::now() + timeout;
        let pulse = Arc::new(Pulse::new(false));
        let link = Link::connect(cluster, member, settings, Arc::clone(&pulse), deadline).await?;
        let (bucket, replicas) = Bucket::open(link, cluster, settings.replicas, deadline).await?;
        let bucket = Arc::new(bucket);
        let watch = watch::spawn(Arc::clone(&bucket), Arc::clone(&pulse), deadline).await?;
        let mail = Arc::new(Post::new(Arc::clone(&bucket), cluster.clone()));
        Ok(Self { bucket, pulse, replicas, mail, _watch: watch })
    }
}

/// Removes the cluster's bucket, with all that is in it.
///
/// # Errors
/// The servers did not do it, or did not say so within `timeout`.
pub async fn remove(
    cluster: &ClusterId,
    member: &MemberId,
    settings: &Settings,
    timeout: Duration,
) -> Result<(), String> {
    let deadline = Deadline::now() + timeout;
    let pulse = Arc::new(Pulse::new(false));
    let link = Link::connect(cluster, member, settings, pulse, deadline).await;
    let link = link.map_err(|error| error.to_string())?;
    bucket::remove(&link, cluster, deadline).await.map_err(|error| error.to_string())
}

impl Store for Nats {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "nats",
            durable: true,
            replicated: self.replicas > 1,
            version: self.bucket.link.version(),
        }
    }

    fn incarnation(&self) -> Incarnation {
        self.bucket.incarnation.clone()
    }

    fn read<'a>(
        &'a self,
        key: &'a Key,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Option<Versioned>, ReadError>> {
        async move {
            let result = self.bucket.newest(key, Deadline::now() + timeout).await;
            self.pulse.read(&result);
            result
        }
        .boxed()
    }

    fn list(&self, timeout: Duration) -> BoxFuture<'_, Result<Vec<Versioned>, ReadError>> {
        async move {
            let result = self.bucket.list(Deadline::now() + timeout).await;
            self.pulse.read(&result);
            result
        }
        .boxed()
    }

    fn compare_and_set<'a>(
        &'a self,
        write: &'a Write,
        timeout: Duration,
    ) -> BoxFuture<'a, WriteOutcome> {
        async move {
            let outcome = write::settle(&self.bucket, write, Deadline::now() + timeout).await;
            self.pulse.written(&outcome);
            outcome
        }
        .boxed()
    }

    fn history<'a>(
        &'a self,
        key: &'a Key,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<Versioned>, ReadError>> {
        async move {
            let result = self.bucket.history(key, Deadline::now() + timeout).await;
            self.pulse.read(&result);
            result
        }
        .boxed()
    }

    fn changes(&self) -> broadcast::Receiver<Hint> {
        self.pulse.changes()
    }

    fn health(&self) -> channel::Receiver<Health> {
        self.pulse.health()
    }

    fn statistics(&self) -> Statistics {
        self.pulse.statistics()
    }

    fn mail(&self) -> Option<Arc<dyn Mail>> {
        Some(Arc::clone(&self.mail) as Arc<dyn Mail>)
    }
}
