//! What the actors of one Kubernetes cluster share.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::api::Server;
use super::api::access::rules;
use super::api::client::{Client, Link};
use super::instance::pod::Pod;
use super::site::Options;
use super::times::Times;

/// What operator, kubelet and node controller may do; the double does not look closer.
const ALL: &str = "kind: Role\nrules:\n- {apiGroups: ['*'], resources: ['*'], verbs: ['*']}\n";
/// What the Role that CloudNativePG makes for the pods of a Cluster has of what the double knows.
pub(crate) const MANAGER: &str = "kind: Role\nrules:\n\
    - {apiGroups: [postgresql.cnpg.io], resources: [clusters], verbs: [get, list, watch]}\n\
    - {apiGroups: [postgresql.cnpg.io], resources: [clusters/status], verbs: [get, patch, update]}\n\
    - {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, update]}\n";

/// The version of CloudNativePG that is imitated when nobody says another one.
pub(crate) const VERSION: &str = "1.30.1";

/// A version of CloudNativePG: what pods and tokens say of it, and the two things that are otherwise in an
/// older one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version(pub(crate) &'static str);

impl Version {
    fn minor(self) -> u32 {
        self.0.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(u32::MAX)
    }

    /// Primaries hold a lease (since 1.30).
    pub(crate) fn has_leases(self) -> bool {
        self.minor() >= 30
    }

    /// A primary's data start before their manager holds the lease (1.30.0 only), or there is none.
    pub(crate) fn starts_early(self) -> bool {
        !self.has_leases() || self.0 == "1.30.0"
    }
}

/// What the operator is kept from.
#[derive(Default)]
pub(crate) struct OperatorSwitch {
    /// Its way to the API server.
    pub(crate) link: Arc<Link>,
    off: AtomicBool,
    blind: AtomicBool,
}

impl OperatorSwitch {
    /// Whether there is no operator.
    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// Ends it, or starts it again.
    pub(crate) fn set_off(&self, off: bool) {
        self.off.store(off, Ordering::Relaxed);
    }

    /// Whether it reaches no pod.
    pub(crate) fn is_blind(&self) -> bool {
        self.blind.load(Ordering::Relaxed)
    }

    /// Cuts it off from the pods, or mends that.
    pub(crate) fn set_blind(&self, blind: bool) {
        self.blind.store(blind, Ordering::Relaxed);
    }
}

/// Below the range from which outgoing connections get theirs, which would be in the way of a PostgreSQL that
/// is down for a while; and never the same one twice.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 110).unwrap_or(0) * 100;
    std::iter::repeat_with(|| base + NEXT.fetch_add(1, Ordering::Relaxed) % 1000)
        .take(1000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("no free port")
}

/// One Kubernetes cluster.
pub(crate) struct World {
    /// Its API server.
    pub(crate) server: Arc<Server>,
    /// What CloudNativePG there is.
    pub(crate) version: Version,
    /// How fast its time goes.
    pub(crate) times: Times,
    /// The namespace everything is in.
    pub(crate) namespace: String,
    /// Where pods have their volumes.
    pub(crate) dir: PathBuf,
    /// The kubelet's way to the API server.
    pub(crate) node: Arc<Link>,
    /// What the operator is kept from.
    pub(crate) operator: OperatorSwitch,
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
}

impl World {
    /// An empty one.
    pub(crate) fn new(server: Arc<Server>, times: Times, options: &Options, dir: PathBuf) -> Self {
        Self {
            server,
            version: Version(options.version),
            times,
            namespace: options.namespace.clone(),
            dir,
            node: Arc::default(),
            operator: OperatorSwitch::default(),
            pods: Mutex::default(),
        }
    }

    /// The pod of this name, which has its port from the first time it is asked for.
    pub(crate) fn pod(&self, name: &str) -> Arc<Pod> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let made =
            || Arc::new(Pod::new(name, &self.dir, free_port()).expect("no directory for a pod"));
        Arc::clone(pods.entry(name.to_owned()).or_insert_with(made))
    }

    /// All pods that were ever asked for.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().map(Arc::clone).collect()
    }

    /// An actor's access to the API server.
    pub(crate) fn client(&self, account: &str, link: &Arc<Link>) -> Client {
        let role = if account.starts_with("instance-manager:") { MANAGER } else { ALL };
        let rules = rules(role).expect("the double's own roles");
        self.server.set_account(account, &format!("token of {account}"), rules);
        Client::new(&self.server, account, &self.namespace, link)
    }
}
