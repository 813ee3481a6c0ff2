//! A site of a test: its Kubernetes cluster, the one pod in it, and the agent beside that; and two of them.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::super::double::api::access::rules;
use super::super::double::cluster::{Cluster, FENCE};
use super::super::double::instance::pod::{Gate, Pod};
use super::super::double::{Double, Options};
use super::super::manifest::{NAMES, manifest};
use crate::live::client::Pinned;
use crate::live::cluster::{Member, PATIENCE, Place, free_ports, postgres_ids, until};
use crate::support::postgres::is_root;

/// The agent's account at the API server.
pub(super) const AGENT: &str = "agent";
/// What it shows there.
pub(super) const TOKEN: &str = "token of the agent";
/// What is deployed says what an agent may do.
pub(super) const ROLE: &str = include_str!("../../../deploy/kubernetes/agent/role.yaml");

/// Waits for what the double does.
pub(super) fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("it takes too long") })
}

/// A site.
pub(super) struct Site {
    pub(super) name: &'static str,
    pub(super) member: Member,
    pub(super) pod: Arc<Pod>,
    pub(super) double: Double,
}

/// Two sites with one store.
pub(super) struct Two {
    pub(super) a: Site,
    pub(super) b: Site,
    pub(super) place: Place,
}

impl Two {
    /// Two Kubernetes clusters with nothing in them.
    pub(super) fn empty() -> Self {
        let place = Place::new();
        place.give_away(&place.path().join("store"));
        let [a, b] = NAMES.map(|name| Site::new(&place, name));
        Self { a, b, place }
    }

    /// pg-a acts, pg-b follows and could take over.
    pub(super) fn start() -> Self {
        Self::start_with(|_| ())
    }

    /// The same with settings of the agents of one's own.
    pub(super) fn start_with(adjust: impl Fn(&mut Value)) -> Self {
        let mut two = Self::empty();
        adjust(&mut two.a.member.settings);
        adjust(&mut two.b.member.settings);
        two.found();
        two
    }

    /// What the test of a whole begins with.
    pub(super) fn found(&mut self) {
        let ports = self.ports();
        self.a.create(manifest("pg-a", "pg-a", ports));
        self.a.until_gated();
        self.a.member.start();
        self.a.member.until_leads();
        self.a.member.sql("create table t (n int)").unwrap();
        self.b.create(manifest("pg-b", "pg-a", ports));
        self.b.until_gated();
        self.b.member.start();
        self.b.member.until_follows();
        self.a.member.until_has_candidate();
    }

    pub(super) fn ports(&self) -> [u16; 2] {
        [self.a.member.port, self.b.member.port]
    }

    /// A client pinned to each PostgreSQL: 0 is that of pg-a.
    pub(super) fn clients(&self) -> Pinned {
        Pinned::start(&[&self.a.member, &self.b.member])
    }

    /// The agent of pg-b did not end or break; that of pg-a is gone.
    pub(super) fn assert_sound_b(&mut self) {
        crate::live::checks::assert_sound(&mut [&mut self.b.member]);
    }

    /// Neither agent ended or broke.
    pub(super) fn assert_sound(&mut self) {
        crate::live::checks::assert_sound(&mut [&mut self.a.member, &mut self.b.member]);
    }
}

impl Site {
    fn new(place: &Place, name: &'static str) -> Self {
        Self::with(place, name, &Options::default())
    }

    /// One whose API server is all there is.
    pub(super) fn idle(place: &Place, name: &'static str) -> Self {
        Self::with(place, name, &Options { actors: false, ..Options::default() })
    }

    fn with(place: &Place, name: &'static str, options: &Options) -> Self {
        let kubernetes = place.path().join(format!("kubernetes-{name}"));
        fs::create_dir(&kubernetes).unwrap();
        let double = Double::start(&Options { dir: Some(kubernetes), ..options.clone() });
        let role = ROLE.replace("[pg]", &format!("[{name}]"));
        double.server().set_account(AGENT, TOKEN, rules(&role).unwrap());
        let pod = double.pod(&format!("{name}-1"));
        let [_, http] = free_ports();
        let http = SocketAddr::from(([127, 0, 0, 1], http));
        pod.knobs().gate = Gate::Url(format!("http://{http}/startup"));
        let dir = place.path().join(format!("agent-{name}"));
        for dir in [dir.clone(), dir.join("state")] {
            fs::create_dir(dir).unwrap();
        }
        let token_file = dir.join("token");
        fs::write(&token_file, TOKEN).unwrap();
        fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600)).unwrap();
        place.give_away(&dir);
        let settings = json!({
            "cluster_id": "sites",
            "member": name,
            "state_dir": dir.join("state"),
            "profile": "fast",
            "store": {"backend": "sqlite", "sqlite": {"path": place.store()}},
            "database": {"kind": "cnpg", "cnpg": {
                "cluster": name,
                "namespace": "site",
                "pgdata": pod.postgres.data,
                "port": pod.postgres.port,
                "host": "127.0.0.1",
                "socket_dir": pod.postgres.socket,
                "api": double.url(),
                "token_file": token_file,
            }},
            "http": {"listen": http, "advertise": http},
            "watchdog": {"mode": "automatic"},
            "log": {"format": "json", "level": "info"},
        });
        let mut member = Member::new(dir, pod.postgres.port, http, settings);
        // In a pod it has the user that PostgreSQL has.
        member.agent_as = is_root().then(postgres_ids);
        Self { name, member, pod, double }
    }

    /// Applies a manifest.
    pub(super) fn create(&self, manifest: Value) {
        wait(self.double.create(manifest)).unwrap();
    }

    /// Waits until there are data, and only the agent is missing.
    pub(super) fn until_gated(&self) {
        until("the pod waits for its sidecar", || {
            let state = self.pod.state().clone();
            let gated = state.waiting.contains("startup probe");
            gated.then_some(()).ok_or_else(|| format!("{state:#?}"))
        });
    }

    /// Merges into the Cluster, as a person who may do everything.
    pub(super) fn patch(&self, body: Value) {
        wait(self.double.patch(self.name, body)).unwrap();
    }

    /// The Cluster.
    pub(super) fn cluster(&self) -> Value {
        self.double.get(self.name)
    }

    /// The fence annotation.
    pub(super) fn fence(&self) -> Option<String> {
        Cluster(&self.cluster()).annotation(FENCE).map(str::to_owned)
    }

    /// Sets the fence as a person does, or lifts it.
    pub(super) fn set_fence(&self, value: Option<&str>) {
        wait(self.double.fence(self.name, value));
    }

    /// Waits until the Cluster is as wanted.
    pub(super) fn until_cluster(&self, what: &str, wanted: impl Fn(Cluster<'_>) -> bool) -> Value {
        until(what, || {
            let cluster = self.cluster();
            if wanted(Cluster(&cluster)) {
                return Ok(cluster);
            }
            Err(format!("{cluster:#}\n{}\n{}", self.double.told(), self.member.log()))
        })
    }

    /// All of the site's machine is gone at once: agent, watchdog, instance manager, PostgreSQL.
    pub(super) fn node_dies(&mut self) {
        let server = self.postmaster();
        self.pod.knobs().node_down = true;
        self.member.kill();
        for pid in self.member.watchdogs().into_iter().chain(server) {
            // Whoever was quicker has ended it.
            let _ended = kill_process(pid, Signal::KILL);
        }
    }

    /// The machine is back: the agent is started, and asked whether PostgreSQL may be.
    pub(super) fn node_comes_back(&mut self) {
        self.member.start();
        self.pod.knobs().node_down = false;
    }

    /// Makes the site anew as a copy of `primary`, as the runbook has it.
    pub(super) fn rebuild(&mut self, primary: &str, ports: [u16; 2]) {
        self.member.kill();
        for pid in self.member.watchdogs() {
            let _ended = kill_process(pid, Signal::KILL);
        }
        wait(self.double.remove(self.name)).unwrap();
        until("the pod is gone", || {
            let gone =
                self.double.pod_object(&self.pod.name).is_null() && !self.pod.state().container;
            gone.then_some(()).ok_or_else(|| self.double.told())
        });
        fs::remove_dir_all(self.member.data_dir()).unwrap();
        let state = self.member.dir.join("state");
        for entry in fs::read_dir(&state).unwrap() {
            // Files, and the watchdog's socket.
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        self.create(manifest(self.name, primary, ports));
        self.until_gated();
        self.member.start();
    }

    /// The postmaster, if there is one.
    pub(super) fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.member.data_dir().join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero())).exists().then_some(pid)
    }

    /// For so long PostgreSQL takes nobody's writes.
    pub(super) fn assert_silent(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            assert!(!self.member.is_writable(), "{} is writable\n{}", self.name, self.member.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
