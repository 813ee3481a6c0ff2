//! One double, as tests and the program start it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use kube::config::{AuthInfo, Config};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::admin;
use super::api::access::ADMIN;
use super::api::client::{Client, Link};
use super::api::failure::Failure;
use super::api::resource::{CLUSTERS, EVENTS, LEASES, PODS};
use super::api::store::Change;
use super::api::{Server, http};
use super::cluster::{Cluster, HEALTHY};
use super::instance::kubelet;
use super::instance::pod::Pod;
use super::operator::Operator;
use super::service::Service;
use super::times::Times;
use super::world::{VERSION, World};

/// How long a double may take to start.
const START: Duration = Duration::from_secs(30);
/// How long a state may take to come.
const LIMIT: Duration = Duration::from_secs(30);

/// How a double is to be.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The namespace everything is in.
    pub(crate) namespace: String,
    /// Version of CloudNativePG; what it changes here is in [`super::world::Version`].
    pub(crate) version: &'static str,
    /// A second of CloudNativePG takes so many seconds.
    pub(crate) factor: f64,
    /// Port of the API server; 0 for any.
    pub(crate) port: u16,
    /// Port of the double's own endpoint; 0 for any.
    pub(crate) admin_port: u16,
    /// Whether there are an operator and a kubelet, or objects only.
    pub(crate) actors: bool,
    /// Where pods have their volumes; None: in a directory that goes with the double.
    pub(crate) dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: "site".to_owned(),
            version: VERSION,
            factor: 0.05,
            port: 0,
            admin_port: 0,
            actors: true,
            dir: None,
        }
    }
}

/// A Kubernetes cluster with CloudNativePG in it, neither of which is real. Everything it started ends
/// when it is dropped.
pub(crate) struct Double {
    world: Arc<World>,
    admin: Client,
    url: String,
    admin_url: String,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _dir: Option<tempfile::TempDir>,
}

impl Double {
    /// Starts one.
    pub(crate) fn start(options: &Options) -> Self {
        let own = options.dir.is_none().then(|| {
            tempfile::Builder::new().prefix("cnpg-").tempdir().expect("no temporary directory")
        });
        let dir = options.dir.clone().or_else(|| own.as_ref().map(|dir| dir.path().to_owned()));
        let dir = dir.unwrap_or_default();
        // PostgreSQL's user has to pass.
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&dir, passable).expect("the directory of the double");
        let server = Arc::new(Server::new());
        let times = Times { factor: options.factor };
        let world = Arc::new(World::new(Arc::clone(&server), times, options, dir));
        let stop = CancellationToken::new();
        let (told, tells) = mpsc::channel();
        let thread = {
            let (world, stop, options) = (Arc::clone(&world), stop.clone(), options.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("no runtime for the double");
                runtime.block_on(async {
                    let addresses = async {
                        let server = http::serve(&world.server, options.port).await?;
                        Ok::<_, std::io::Error>((
                            server,
                            admin::serve(&world, options.admin_port).await?,
                        ))
                    };
                    let _ = told.send(addresses.await);
                    if options.actors {
                        tokio::spawn(Operator::new(&world).run(stop.clone()));
                        kubelet::run(world, stop).await;
                    } else {
                        stop.cancelled().await;
                    }
                });
            })
        };
        let addresses = tells.recv_timeout(START).expect("the double did not start");
        let (server_at, admin_at) = addresses.expect("no port for the double");
        let admin = Client::new(&server, ADMIN, &options.namespace, &Arc::new(Link::default()));
        Self {
            world,
            admin,
            url: format!("http://{server_at}"),
            admin_url: format!("http://{admin_at}"),
            stop,
            thread: Some(thread),
            _dir: own,
        }
    }

    /// Where its API server is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where its own endpoint is.
    pub(crate) fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// Its API server, for accounts, faults and the log of calls.
    pub(crate) fn server(&self) -> &Server {
        &self.world.server
    }

    /// What its actors share, with their switches.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// A pod, which has its port and its directory before it runs.
    pub(crate) fn pod(&self, name: &str) -> Arc<Pod> {
        self.world.pod(name)
    }

    /// The service that leads to whoever acts in a Cluster.
    pub(crate) fn service(&self, cluster: &str) -> Service {
        Service::start(&self.world, cluster)
    }

    /// Where pods have their volumes.
    pub(crate) fn dir(&self) -> &Path {
        &self.world.dir
    }

    /// kube's client with this token.
    pub(crate) fn kube(&self, token: &str) -> kube::Client {
        let mut config = Config::new(self.url.parse().expect("the double's own address"));
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(5));
        kube::Client::try_from(config).expect("kube's client")
    }

    /// Creates a Cluster from YAML or JSON.
    pub(crate) async fn apply(&self, manifest: &str) -> Value {
        let object = serde_saphyr::from_str(manifest).expect("the manifest of a Cluster");
        self.create(object).await.unwrap_or_else(|failure| panic!("{}", failure.message))
    }

    /// Creates a Cluster.
    pub(crate) async fn create(&self, object: Value) -> Result<Value, Failure> {
        self.admin.create(&CLUSTERS, object).await
    }

    /// A Cluster as it is now.
    pub(crate) fn get(&self, cluster: &str) -> Value {
        self.admin.cached(&CLUSTERS, cluster).unwrap_or(Value::Null)
    }

    /// Every version of a Cluster there was.
    pub(crate) fn changes(&self, cluster: &str) -> Vec<Change> {
        self.world.server.changes(&CLUSTERS, &self.world.namespace, cluster)
    }

    /// What the operator has recorded, by its reasons.
    pub(crate) fn events(&self) -> Vec<String> {
        let names = self.admin.names(&EVENTS).into_iter();
        names
            .filter_map(|name| self.admin.cached(&EVENTS, &name))
            .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The lease of its primary.
    pub(crate) fn lease(&self, cluster: &str) -> Value {
        self.admin.cached(&LEASES, cluster).unwrap_or(Value::Null)
    }

    /// The object of a pod.
    pub(crate) fn pod_object(&self, pod: &str) -> Value {
        self.admin.cached(&PODS, pod).unwrap_or(Value::Null)
    }

    /// Deletes a pod as `kubectl delete pod` does.
    pub(crate) async fn delete_pod(&self, pod: &str) -> Result<Value, Failure> {
        self.admin.delete(&PODS, pod).await
    }

    /// Deletes a Cluster; its pods go with it.
    pub(crate) async fn remove(&self, cluster: &str) -> Result<Value, Failure> {
        self.admin.remove(&CLUSTERS, cluster).await
    }

    /// Changes a lease as somebody would who has no business with it.
    pub(crate) async fn patch_lease(&self, cluster: &str, spec: Value) -> Result<Value, Failure> {
        self.admin.patch(&LEASES, cluster, json!({ "spec": spec })).await
    }

    /// Merges into a Cluster, as the one who may do everything.
    pub(crate) async fn patch(&self, cluster: &str, body: Value) -> Result<Value, Failure> {
        self.admin.patch(&CLUSTERS, cluster, body).await
    }

    /// Merges into its status.
    pub(crate) async fn patch_status(
        &self,
        cluster: &str,
        status: Value,
    ) -> Result<Value, Failure> {
        self.admin.patch_status(&CLUSTERS, cluster, status).await
    }

    /// Sets the fence; None lifts it.
    pub(crate) async fn fence(&self, cluster: &str, value: Option<&str>) {
        let body = json!({ "metadata": { "annotations": { super::cluster::FENCE: value } } });
        self.patch(cluster, body).await.unwrap_or_else(|failure| panic!("{}", failure.message));
    }

    /// Waits until the Cluster is as wanted, half a minute at most.
    #[track_caller]
    pub(crate) fn until(
        &self,
        cluster: &str,
        wanted: impl Fn(Cluster<'_>) -> bool,
    ) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        async move {
            let due = Instant::now() + LIMIT;
            loop {
                let object = self.get(cluster);
                if wanted(Cluster(&object)) {
                    return object;
                }
                assert!(Instant::now() < due, "{place}: it stays\n{object:#}\n{}", self.told());
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits until it is healthy and everybody is ready.
    pub(crate) async fn until_healthy(&self, cluster: &str) -> Value {
        self.until(cluster, |cluster| {
            cluster.text("/status/phase") == HEALTHY
                && cluster.0["status"]["readyInstances"] == cluster.instances()
                && !cluster.current().is_empty()
        })
        .await
    }

    /// Waits until a statement in a pod's PostgreSQL says so, half a minute at most.
    #[track_caller]
    pub(crate) fn until_says(
        &self,
        pod: &str,
        statement: &str,
        wanted: &str,
    ) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        let pod = self.pod(pod);
        async move {
            let due = Instant::now() + LIMIT;
            loop {
                let said = pod.postgres.sql(statement).await;
                if said.as_deref() == Ok(wanted) {
                    return;
                }
                assert!(
                    Instant::now() < due,
                    "{place}: {statement} says {said:?}\n{}\n{}",
                    self.told(),
                    pod.postgres.log()
                );
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// What every pod has to say, for messages of tests.
    pub(crate) fn told(&self) -> String {
        let pods = self.world.pods();
        pods.iter().map(|pod| format!("{}: {:#?}\n", pod.name, pod.state().clone())).collect()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.stop.cancel();
        for pod in self.world.pods() {
            // What is to be over anyway need not end nicely.
            let pid = pod.state().pid.and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            }
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
