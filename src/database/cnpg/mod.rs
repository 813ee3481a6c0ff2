//! A site of CloudNativePG, one `Cluster` with one instance, or an instance of one with several; and the agent as a
//! sidecar in its pod.
//!
//! ```text
//! agent ── merge patches ──► API server ──► operator, instance manager ── start, stop, promote ──► PostgreSQL
//!   └──── looks, asks, stops, holds its port ─────────────────────────────────────────────────────────┘
//! ```
//!
//! Roles are asked for through the Cluster. The fence is not left to it: the agent stops PostgreSQL by
//! itself, and keeps it down by its port until the fence annotation has been read back, because the API
//! server, the operator's webhook or the instance manager may be what does not answer. No answer of the
//! API server makes a healthy database unhealthy, or a missing one good.
//!
//! | action | in the Cluster | here |
//! |---|---|---|
//! | fence | annotation `cnpg.io/fencedInstances` | the ladder, the proof, the port |
//! | start_primary | our fence lifted | wait until it accepts writes |
//! | promote, promote_with_token | `spec.replica.primary`, `promotionToken` | wait until it accepts writes |
//! | demote, rejoin | `spec.replica.primary`, `source` | wait for the standby's data and the token |
//! | follow | `spec.replica.primary`, `source` | wait until it streams from there |
//! | none of these | the token that is used, a fence that was lifted | the port, the bar on promotions |

mod api;
mod audit;
mod bar;
mod beside;
mod cluster;
#[doc(hidden)]
pub mod decoders;
mod deputy;
mod fence;
mod gate;
mod hindrance;
mod keeper;
mod mark;
mod observe;
mod part;
mod passing;
mod promote;
mod revive;
mod role;
mod standby;
mod streams;
#[cfg(test)]
mod tests;
mod token;
mod trouble;
mod unasked;
mod us;
mod version;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::acting::Acting;
use super::server::outcome::{Failure, Step};
use super::server::{At, Server, SetupError, timeline};
use super::{Database, Progress};
use crate::core::event::{Action, ActionOutcome, Done, Observation, Upstream};
use crate::core::ids::{MemberId, Site};
use crate::core::synchronous::Requirement;
use crate::supervise;
use api::Api;
pub use api::{Access, CALLS, CALLS_OF_INSTANCES};
use audit::Finding;
use cluster::Cluster;
use hindrance::Hindrance;
use part::{Data, Part};
use trouble::Trouble;
use us::Us;
use version::Probe;

/// Programs of PostgreSQL the adapter uses: the container of PostgreSQL is another one.
const PROGRAMS: [&str; 1] = ["pg_controldata"];

/// What the site is and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This member; also the site's name among the sites, unless it is an instance.
    pub member: MemberId,
    /// The pod, where every instance of the Cluster is a member.
    pub instance: Option<String>,
    /// Where it stands; for an instance the name that its Cluster has among the sites.
    pub site: Option<Site>,
    /// The API server and the Cluster.
    pub access: Access,
    /// PostgreSQL's data directory.
    pub pgdata: PathBuf,
    /// Directory of `pg_controldata`, of the server's major version.
    pub bin_dir: PathBuf,
    /// Port of PostgreSQL.
    pub port: u16,
    /// The host that other members are told of; only looked at.
    pub host: String,
    /// Directory of the Unix socket.
    pub socket_dir: PathBuf,
    /// Time without an answer (or finished write probe) after which a living database counts as hung.
    pub hung_after: Duration,
    /// Time between write probes on a primary; zero switches them off.
    pub write_probe_interval: Duration,
}

/// A site of CloudNativePG.
#[derive(Debug)]
pub struct Cnpg {
    shared: Arc<Shared>,
    acting: Acting,
    _keepers: [AbortOnDropHandle<()>; 2],
}

/// What actions, looks and the keeper share.
#[derive(Debug)]
struct Shared {
    us: Us,
    /// The host that other members are told of.
    host: String,
    server: Arc<Server>,
    api: Api,
    part: Part,
    /// The Cluster as last read, and when.
    read: Mutex<Option<Read>>,
    probe: Mutex<Probe>,
    hindrance: Hindrance,
    /// Whom we were told to follow, and where the core knows that member.
    followed: Mutex<Option<Upstream>>,
    /// Since when a primary that ended cleanly may be on its way up again.
    restarting: Mutex<Option<Instant>>,
    /// Has the keeper look now.
    nudge: Notify,
}

/// A Cluster, and when it was read.
#[derive(Clone, Debug)]
struct Read {
    cluster: Arc<Cluster>,
    at: Instant,
}

impl Cnpg {
    /// Checks what can be checked without the API server, and holds back what would come up as a
    /// primary. Within a tokio runtime.
    ///
    /// # Errors
    /// A setting, a program or the way to the API server is wrong.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let shared = Arc::new(Shared::new(settings)?);
        let kept = Arc::clone(&shared);
        let keeper =
            supervise::keep("keeper of the Cluster", move || keeper::serve(Arc::clone(&kept)));
        let watched = Arc::clone(&shared);
        let watch =
            supervise::keep("watch for promotions", move || unasked::serve(Arc::clone(&watched)));
        Ok(Self { shared, acting: Acting::default(), _keepers: [keeper, watch] })
    }

    /// Looks at the Cluster before anything rests on it: warns, or refuses.
    ///
    /// # Errors
    /// The site cannot be led as it is, or the agent may not do what it has to. Without an answer, or beside a
    /// PostgreSQL that runs, nothing is refused: what an action needs is looked at again before it, the version and
    /// the settings are not.
    pub async fn check(&self) -> Result<(), SetupError> {
        // A primary may be running beside us, whose lease wants to be renewed soon.
        let limit = self.shared.api.limit() * 2;
        let looked = tokio::time::timeout(limit, self.look()).await.unwrap_or_else(|_| {
            tracing::warn!(?limit, "the Cluster could not be looked at in time; going on");
            Ok(())
        });
        let Err(why) = looked else { return Ok(()) };
        // Nobody else renews its lease, or stops it when it has none.
        let runs = promote::data(&self.shared).await;
        if matches!(runs, Ok(Data::Running | Data::RunningStandby)) {
            tracing::error!(%why, "the Cluster cannot be led; going on for the PostgreSQL that runs");
            return Ok(());
        }
        Err(why)
    }

    async fn look(&self) -> Result<(), SetupError> {
        let shared = &self.shared;
        let cluster = match shared.read().await {
            Ok(cluster) => cluster,
            Err(
                trouble @ (Trouble::Absent(_) | Trouble::Denied { .. } | Trouble::Malformed(_)),
            ) => {
                return Err(SetupError::Cluster(trouble.to_string()));
            }
            Err(trouble) => {
                tracing::warn!(%trouble, "the Cluster could not be looked at; going on");
                return Ok(());
            }
        };
        if let Err(trouble @ Trouble::Denied { .. }) = shared.api.rehearse(&cluster).await {
            return Err(SetupError::Cluster(trouble.to_string()));
        }
        if shared.us.instance.is_some() {
            if let Err(trouble @ Trouble::Denied { .. }) = shared.rehearse(&cluster).await {
                tracing::warn!(%trouble, "this instance could not be promoted");
            }
            if let Err(trouble @ Trouble::Denied { .. }) = shared.api.rehearse_release().await {
                tracing::warn!(%trouble, "whoever takes over from this instance would wait for CloudNativePG's lease");
            }
        }
        shared.probe(&cluster).await;
        let probe = shared.probe.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut refusals = Vec::new();
        let mut findings = audit::audit(&cluster, &shared.us, &probe);
        findings.extend(audit::advertised(&cluster, &shared.us, &shared.host));
        for finding in findings {
            match finding {
                Finding::Refusal(why) => refusals.push(why),
                Finding::Warning(what) => tracing::warn!(what, "about the Cluster"),
            }
        }
        if refusals.is_empty() { Ok(()) } else { Err(SetupError::Cluster(refusals.join("; "))) }
    }
}

impl Shared {
    fn new(settings: Settings) -> Result<Self, SetupError> {
        let api = Api::new(&settings.access).map_err(SetupError::Api)?;
        let at = At {
            data_dir: settings.pgdata,
            bin_dir: settings.bin_dir,
            port: settings.port,
            socket_dir: settings.socket_dir,
            superuser: "postgres".to_owned(),
            database: "postgres".to_owned(),
            hung_after: settings.hung_after,
            write_probe_interval: settings.write_probe_interval,
        };
        // In a pod the agent has the user id that PostgreSQL has.
        let os_user = rustix::process::geteuid().is_root().then_some("postgres");
        let server = Arc::new(Server::new(at, os_user, &PROGRAMS)?);
        let us = Us { member: settings.member, instance: settings.instance, site: settings.site };
        let part = Part::new(Arc::clone(&server), us.clone());
        part.keep(None);
        Ok(Self {
            us,
            host: settings.host,
            server,
            api,
            part,
            read: Mutex::new(None),
            probe: Mutex::default(),
            hindrance: Hindrance::default(),
            followed: Mutex::new(None),
            restarting: Mutex::new(None),
            nudge: Notify::new(),
        })
    }

    /// Reads the Cluster, and keeps it. One that is not there any more says nothing about what may run.
    async fn read(&self) -> Result<Arc<Cluster>, Trouble> {
        let asked = Instant::now();
        let read = self.api.read().await;
        self.hindrance.heard(&read);
        if matches!(read, Err(Trouble::Absent(_))) {
            *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        read.map(|cluster| self.note(cluster, asked))
    }

    /// Tries without effect what a promotion needs, and keeps what stands against it.
    async fn rehearse(&self, cluster: &Cluster) -> Result<(), Trouble> {
        let mut tried = self.api.rehearse(cluster).await;
        // Where the site is the primary's already an instance is only appointed, and nobody checks that.
        let is_unchecked = matches!(tried, Err(Trouble::Webhook(_))) && !cluster.is_replica();
        if self.us.instance.is_some() && (tried.is_ok() || is_unchecked) {
            tried = self.api.rehearse_appointment(cluster).await;
        }
        self.hindrance.rehearsed(&tried);
        tried
    }

    /// The same of what a demotion needs.
    async fn rehearse_demotion(&self, cluster: &Cluster) -> Result<(), Trouble> {
        let tried = self.api.rehearse(cluster).await;
        self.hindrance.rehearsed(&tried);
        tried
    }

    /// Keeps what was read for whoever asks next; it was `asked` for then.
    fn note(&self, cluster: Cluster, asked: Instant) -> Arc<Cluster> {
        let cluster = Arc::new(cluster);
        let read = Read { cluster: Arc::clone(&cluster), at: asked };
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        cluster
    }

    /// The Cluster as last read.
    fn last_read(&self) -> Option<Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the Cluster, and keeps what it is then.
    async fn change(
        &self,
        decide: impl FnMut(&Cluster) -> role::Patch,
        cancel: &CancellationToken,
    ) -> Step<Arc<Cluster>> {
        let asked = Instant::now();
        Ok(self.note(self.api.change(decide, cancel).await?, asked))
    }

    /// From `when` on a primary that ended cleanly may be on its way up again.
    fn restarts(&self, when: Option<Instant>) {
        *self.restarting.lock().unwrap_or_else(PoisonError::into_inner) = when;
    }

    /// Finds out what CloudNativePG can do; what cannot be found out is said, and stays unknown.
    async fn probe(&self, cluster: &Cluster) {
        let unknown = |trouble: Trouble| {
            tracing::warn!(%trouble, "what CloudNativePG can do is not all known");
        };
        let pod = &cluster.status.current_primary;
        let version = match pod.is_empty() {
            true => Ok(None),
            false => self.api.version(pod).await,
        };
        let version = version.map_err(unknown).unwrap_or(None);
        let found = Probe { version, lease: self.api.has_lease().await.map_err(unknown).ok() };
        *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// Why nothing that is asked of the Cluster would come to an end.
fn obstacle(cluster: &Cluster) -> Option<String> {
    if cluster.is_hibernated() {
        return Some(
            "the Cluster is hibernated (annotation cnpg.io/hibernation): wake it up".to_owned(),
        );
    }
    cluster.is_unattended().then(|| {
        "the operator does not look after the Cluster (annotation cnpg.io/reconciliationLoop is disabled): \
         remove the annotation"
            .to_owned()
    })
}

async fn perform(shared: &Arc<Shared>, action: &Action, cancel: &CancellationToken) -> Step<Done> {
    let only_manifest = |what: &str| {
        Err(Failure::Refused(format!(
            "{what} is done by CloudNativePG, from the Cluster's manifest (spec.bootstrap)"
        )))
    };
    match action {
        Action::Bootstrap => only_manifest("making a database"),
        Action::Clone { .. } => only_manifest("copying a database"),
        Action::Follow { upstream } => standby::follow(shared, upstream.as_ref(), cancel).await,
        Action::Rejoin { upstream } => standby::rejoin(shared, upstream, cancel).await,
        Action::StartPrimary => promote::start_primary(shared, cancel).await,
        Action::Promote => promote::promote(shared, None, cancel).await,
        Action::PromoteWith { token } => promote::promote(shared, Some(token), cancel).await,
        Action::Demote { to } => standby::demote(shared, to, cancel).await,
        Action::Require { requirement: Requirement::Nobody } => {
            Ok(Done::Required { lsn: crate::core::ids::Lsn(0) })
        }
        Action::Require { .. } => Err(Failure::Refused(
            "for whom commits wait is set by CloudNativePG (spec.postgresql.synchronous)"
                .to_owned(),
        )),
        Action::Checkpoint => timeline::checkpoint(&shared.server, cancel).await,
        Action::Fence { ladder } => fence::fence(shared, *ladder, cancel).await,
    }
}

impl Database for Cnpg {
    fn observe(&self, timeout: Duration) -> BoxFuture<'_, Observation> {
        Box::pin(observe::observe(&self.shared, timeout))
    }

    fn died(&self) -> BoxFuture<'_, ()> {
        Box::pin(observe::died(&self.shared))
    }

    fn act<'a>(
        &'a self,
        action: &'a Action,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, ActionOutcome> {
        let (shared, doing) = (Arc::clone(&self.shared), action.clone());
        let work = |inner: CancellationToken| async move { perform(&shared, &doing, &inner).await };
        Box::pin(self.acting.run(action, cancel, work))
    }

    fn progress(&self) -> watch::Receiver<Option<Progress>> {
        // Nothing long is done here: CloudNativePG copies databases.
        watch::Sender::new(None).subscribe()
    }

    fn held_back(&self) -> Option<String> {
        gate::held_back(&self.shared)
    }
}
