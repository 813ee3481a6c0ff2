//! The API server: every call has a deadline, and every refusal a name.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::{Method, Request, Uri, header};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::beside::{PATCH_LEASE, PATCH_STATUS};
use super::cluster::{Cluster, Pod};
use super::trouble::{Call, Trouble};
use super::version::Version;
use crate::database::server::outcome::{Failure, Step};
use crate::database::server::sql::chain;
use crate::database::server::wait::pause;

/// Every call the adapter makes: verb, resource, and whether only the Cluster's own name is meant. The
/// role in `deploy/` allows these and nothing more.
pub const CALLS: [(&str, &str, bool); 4] =
    [named(GET), named(PATCH), named(GET_LEASE), (GET_POD.verb, GET_POD.resource, false)];

/// What it calls besides where every instance is a member; allowed by a component in `deploy/`.
pub const CALLS_OF_INSTANCES: [(&str, &str, bool); 2] = [named(PATCH_STATUS), named(PATCH_LEASE)];

const fn named(call: Call) -> (&'static str, &'static str, bool) {
    (call.verb, call.resource, true)
}

const GET: Call = Call { verb: "get", resource: "clusters.postgresql.cnpg.io" };
const PATCH: Call = Call { verb: "patch", resource: "clusters.postgresql.cnpg.io" };
pub(super) const GET_LEASE: Call = Call { verb: "get", resource: "leases.coordination.k8s.io" };
const GET_POD: Call = Call { verb: "get", resource: "pods" };

/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An object of more than this is none of CloudNativePG's.
const LONGEST: usize = 8 << 20;

/// How the API server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Name of the `Cluster`.
    pub cluster: String,
    /// Its namespace; none: the service account's.
    pub namespace: Option<String>,
    /// URL of the API server; none: the one of the Kubernetes cluster we run in.
    pub url: Option<String>,
    /// File with a token, read again when it changes; none: the service account's.
    pub token_file: Option<PathBuf>,
    /// File with the authorities to trust; none: the service account's.
    pub ca_file: Option<PathBuf>,
    /// Limit of one call.
    pub timeout: Duration,
}

/// The API server, for one Cluster.
pub(super) struct Api {
    client: Client,
    namespace: String,
    cluster: String,
    limit: Duration,
    /// Held from the read to the answer of one change of the Cluster's own part: two of ours at once would decide on
    /// the same version, and one of them would only meet the other's conflict. It protects from nobody else: that
    /// the version does.
    changing: Mutex<()>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Api {
    /// Reads what is needed to connect; connects to nothing yet. Within a tokio runtime.
    pub(super) fn new(access: &Access) -> Result<Self, String> {
        let in_pod = access.url.is_none();
        let url = match &access.url {
            Some(url) => url.clone(),
            None => url_of_pod()?,
        };
        let uri: Uri = url.parse().map_err(|error| format!("api {url:?} is no URL: {error}"))?;
        if uri.scheme().is_none() || uri.host().is_none() {
            return Err(format!("api {url:?} is no URL as in https://kubernetes.example:6443"));
        }
        let default = |name: &str| in_pod.then(|| PathBuf::from(ACCOUNT).join(name));
        let namespace = match &access.namespace {
            Some(namespace) => namespace.clone(),
            None => namespace_of_pod()?,
        };
        let mut config = kube::Config::new(uri);
        config.default_namespace.clone_from(&namespace);
        config.connect_timeout = Some(access.timeout);
        // What is tried again, and when, is decided here.
        config.default_retry = false;
        config.root_cert_file = access.ca_file.clone().or_else(|| default("ca.crt"));
        let token = access.token_file.clone().or_else(|| default("token"));
        config.auth_info.token_file = token.map(|path| path.display().to_string());
        let client = Client::try_from(config).map_err(|error| format!("api {url}: {error}"))?;
        Ok(Self {
            client,
            namespace,
            cluster: access.cluster.clone(),
            limit: access.timeout,
            changing: Mutex::new(()),
        })
    }

    /// Limit of one call.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// The Cluster as it is now.
    pub(super) async fn read(&self) -> Result<Cluster, Trouble> {
        let bytes = self.call(GET, Method::GET, &self.path(), None, None).await?;
        decode(&bytes)
    }

    /// Whether the instances have a lease among themselves.
    pub(super) async fn has_lease(&self) -> Result<bool, Trouble> {
        let path = self.lease();
        match self.call(GET_LEASE, Method::GET, &path, None, None).await {
            Ok(_) => Ok(true),
            Err(Trouble::Absent(_)) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// A pod is there, and ready.
    pub(super) async fn is_ready(&self, pod: &str) -> Result<bool, Trouble> {
        let path = self.pod(pod)?;
        let pod: Pod = match self.call(GET_POD, Method::GET, &path, None, None).await {
            Ok(bytes) => decode(&bytes)?,
            Err(Trouble::Absent(_)) => return Ok(false),
            Err(trouble) => return Err(trouble),
        };
        Ok(pod.is_ready())
    }

    /// Version of the operator that made a pod, when the pod says so.
    pub(super) async fn version(&self, pod: &str) -> Result<Option<Version>, Trouble> {
        let bytes = self.call(GET_POD, Method::GET, &self.pod(pod)?, None, None).await?;
        let pod: Pod = decode(&bytes)?;
        let said = pod.metadata.annotations.get("cnpg.io/operatorVersion");
        Ok(said.and_then(|text| text.parse().ok()))
    }

    /// Whether a change would be taken: the permission, the webhook, and what is in the Cluster already.
    pub(super) async fn rehearse(&self, cluster: &Cluster) -> Result<(), Trouble> {
        let path = format!("{}?dryRun=All", self.path());
        let body = json!({ "metadata": { "resourceVersion": cluster.metadata.resource_version } });
        self.call(PATCH, Method::PATCH, &path, Some(&body), None).await.map(|_| ())
    }

    /// Changes the Cluster by what `decide` makes of it as it is now; again when somebody else was
    /// quicker, or nobody knows what became of it. Nothing to change is fine. Gives the Cluster as it
    /// is then.
    pub(super) async fn change(
        &self,
        mut decide: impl FnMut(&Cluster) -> Step<Option<Value>>,
        cancel: &CancellationToken,
    ) -> Step<Cluster> {
        let _alone = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Failure::Cancelled),
            alone = self.changing.lock() => alone,
        };
        let mut may_have_landed = false;
        let mut tries = 0;
        loop {
            let trouble = match self.try_change(&mut decide, cancel).await {
                Ok(Ok(cluster)) => return Ok(cluster),
                Ok(Err(trouble)) => trouble,
                // What was sent before may have been made all the same.
                Err(Failure::Refused(why)) => return Err(not_changed(may_have_landed, why)),
                Err(failure) => return Err(failure),
            };
            may_have_landed |= trouble.may_have_landed();
            let ended = |why: String| not_changed(may_have_landed, why);
            let Some(wait) = trouble.pause(tries) else { return Err(ended(trouble.to_string())) };
            tracing::debug!(%trouble, tries, "the Cluster was not changed; trying again");
            tries += 1;
            if pause(wait, cancel).await.is_err() {
                return Err(ended(format!("given up: {trouble}")));
            }
        }
    }

    async fn try_change(
        &self,
        decide: &mut impl FnMut(&Cluster) -> Step<Option<Value>>,
        cancel: &CancellationToken,
    ) -> Step<Result<Cluster, Trouble>> {
        let cluster = match self.read().await {
            Ok(cluster) => cluster,
            Err(trouble) => return Ok(Err(trouble)),
        };
        if cancel.is_cancelled() {
            return Err(Failure::Refused("cancelled before the Cluster was changed".to_owned()));
        }
        let Some(mut patch) = decide(&cluster)? else { return Ok(Ok(cluster)) };
        // Without it, whoever wrote since would be written over.
        patch["metadata"]["resourceVersion"] = json!(cluster.metadata.resource_version);
        let secret = patch["spec"]["replica"]["promotionToken"].as_str().map(str::to_owned);
        let path = self.path();
        let sent = self.call(PATCH, Method::PATCH, &path, Some(&patch), secret.as_deref()).await;
        Ok(sent.and_then(|bytes| decode(&bytes)))
    }

    pub(super) fn lease(&self) -> String {
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}",
            self.namespace, self.cluster
        )
    }

    fn pod(&self, name: &str) -> Result<String, Trouble> {
        if !is_name(name) {
            let shown: String = name.chars().take(64).collect();
            return Err(Trouble::Malformed(format!("{shown:?} is no name of a pod")));
        }
        Ok(format!("/api/v1/namespaces/{}/pods/{name}", self.namespace))
    }

    pub(super) fn path(&self) -> String {
        format!(
            "/apis/postgresql.cnpg.io/v1/namespaces/{}/clusters/{}",
            self.namespace, self.cluster
        )
    }

    pub(super) async fn call(
        &self,
        call: Call,
        method: Method,
        path: &str,
        body: Option<&Value>,
        secret: Option<&str>,
    ) -> Result<Vec<u8>, Trouble> {
        let sent = tokio::time::timeout(self.limit, self.send(call, method, path, body, secret));
        sent.await.unwrap_or_else(|_| Err(Trouble::Silent(format!("nothing in {:?}", self.limit))))
    }

    async fn send(
        &self,
        call: Call,
        method: Method,
        path: &str,
        body: Option<&Value>,
        secret: Option<&str>,
    ) -> Result<Vec<u8>, Trouble> {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/merge-patch+json");
        }
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = request
            .body(Body::from(bytes))
            .map_err(|error| Trouble::Invalid(format!("{path} is no path: {error}")))?;
        let silent = |error: kube::Error| Trouble::Silent(chain(&error));
        let answer = self.client.send(request).await.map_err(silent)?;
        let (head, body) = answer.into_parts();
        let seconds = head.headers.get(header::RETRY_AFTER).and_then(|it| it.to_str().ok());
        let after = seconds.and_then(|it| it.trim().parse().ok()).map(Duration::from_secs);
        let limited = http_body_util::Limited::new(body, LONGEST);
        let bytes = limited.collect().await.map_err(|error| Trouble::Silent(error.to_string()))?;
        let bytes = bytes.to_bytes();
        if head.status.is_success() {
            return Ok(bytes.to_vec());
        }
        let what = format!("{} at {path}", call.resource);
        Err(Trouble::of(call, &what, head.status.as_u16(), after, &bytes, secret))
    }
}

/// How a change that was not made, or nobody knows of, ends.
pub(super) fn not_changed(may_have_landed: bool, why: String) -> Failure {
    if may_have_landed { Failure::Unknown(why) } else { Failure::Refused(why) }
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(bytes).map_err(|error| Trouble::Malformed(unquoted(&error.to_string())))
}

/// A name as Kubernetes has it (DNS-1123): with anything else in it a path would lead elsewhere.
pub(super) fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !label.is_empty()
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Without the texts it repeats: one may be a token in the wrong place.
fn unquoted(error: &str) -> String {
    let parts: Vec<&str> = error.split('"').collect();
    match parts.as_slice() {
        [before, .., after] => format!("{before}(not shown){after}"),
        _ => error.to_owned(),
    }
}

fn url_of_pod() -> Result<String, String> {
    let of = |name: &str| {
        std::env::var(name)
            .map_err(|_| format!("not in a pod, as {name} is not set: set database.cnpg.api"))
    };
    let (host, port) = (of("KUBERNETES_SERVICE_HOST")?, of("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(format!("https://{host}:{port}"))
}

fn namespace_of_pod() -> Result<String, String> {
    let path = PathBuf::from(ACCOUNT).join("namespace");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        format!("cannot read {}: {error}; set database.cnpg.namespace", path.display())
    })?;
    Ok(text.trim().to_owned())
}
