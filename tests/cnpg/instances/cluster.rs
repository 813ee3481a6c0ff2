//! Three instances of a Cluster, each with an agent beside it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::super::double::api::access::rules;
use super::super::double::instance::pod::{Gate, Pod};
use super::super::double::{Double, Options};
use super::super::sites::site::{AGENT, ROLE, TOKEN, wait};
use crate::live::client::Pinned;
use crate::live::cluster::{Member, Place, free_ports, postgres_ids, until};
use crate::support::postgres::is_root;

/// What instances may do besides.
const MORE: &str =
    include_str!("../../../deploy/kubernetes/components/instances/role.yaml");

/// The Cluster, and with it the site.
pub(super) const CLUSTER: &str = "pg-a";

/// An instance.
pub(super) struct Instance {
    pub(super) member: Member,
    pub(super) pod: Arc<Pod>,
}

/// A Cluster.
pub(super) struct Three {
    pub(super) instances: Vec<Instance>,
    pub(super) double: Double,
    pub(super) place: Place,
}

impl Three {
    /// pg-a-1 acts, the others follow and could take over.
    pub(super) fn start() -> Self {
        let mut three = Self::prepared();
        wait(three.double.create(manifest())).unwrap();
        for index in 0..3 {
            three.until_gated(index);
            three.instances[index].member.start();
            if index == 0 {
                three.instances[0].member.until_leads();
                three.instances[0].member.sql("create table t (n int)").unwrap();
            } else {
                three.instances[index].member.until_follows();
            }
        }
        three.instances[0].member.until("both could take over", |status| {
            status["line"].as_array().is_some_and(|line| line.len() == 2)
        });
        three
    }

    fn prepared() -> Self {
        let place = Place::new();
        place.give_away(&place.path().join("store"));
        let kubernetes = place.path().join("kubernetes");
        fs::create_dir(&kubernetes).unwrap();
        let double = Double::start(&Options { dir: Some(kubernetes), ..Options::default() });
        let named = |role: &str| rules(&role.replace("[pg]", &format!("[{CLUSTER}]"))).unwrap();
        let both = [named(ROLE), named(MORE)].concat();
        double.server().set_account(AGENT, TOKEN, both);
        let instances = (1..=3).map(|number| Instance::new(&place, &double, number)).collect();
        Self { instances, double, place }
    }

    fn until_gated(&self, index: usize) {
        until("the pod waits for its sidecar", || {
            let state = self.instances[index].pod.state().clone();
            let gated = state.waiting.contains("startup probe");
            gated.then_some(()).ok_or_else(|| format!("{state:#?}\n{}", self.double.told()))
        });
    }

    /// A client pinned to each PostgreSQL, in the order of the instances.
    pub(super) fn clients(&self) -> Pinned {
        let members: Vec<&Member> = self.instances.iter().map(|it| &it.member).collect();
        Pinned::start(&members)
    }

    /// The Cluster.
    pub(super) fn cluster(&self) -> Value {
        self.double.get(CLUSTER)
    }

    /// All of an instance's machine is gone at once.
    pub(super) fn node_dies(&mut self, index: usize) {
        let instance = &mut self.instances[index];
        instance.pod.knobs().node_down = true;
        let postmaster = instance.pod.state().pid;
        instance.member.kill();
        let postmaster = postmaster.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        for pid in instance.member.watchdogs().into_iter().chain(postmaster) {
            // Whoever was quicker has ended it.
            let _ended = kill_process(pid, Signal::KILL);
        }
    }

    /// It is back.
    pub(super) fn node_comes_back(&mut self, index: usize) {
        let instance = &mut self.instances[index];
        instance.member.start();
        instance.pod.knobs().node_down = false;
    }

    /// No agent of these broke.
    pub(super) fn assert_sound(&mut self) {
        let mut members: Vec<&mut Member> = self.instances.iter_mut().map(|it| &mut it.member).collect();
        crate::live::checks::assert_sound(&mut members);
    }

    /// For so long PostgreSQL of an instance takes nobody's writes.
    pub(super) fn assert_silent(&self, index: usize, time: Duration) {
        let member = &self.instances[index].member;
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            assert!(!member.is_writable(), "{}", member.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Instance {
    fn new(place: &Place, double: &Double, number: usize) -> Self {
        let name = format!("{CLUSTER}-{number}");
        let pod = double.pod(&name);
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
            "cluster_id": "instances",
            "member": name,
            "site": CLUSTER,
            "state_dir": dir.join("state"),
            "profile": "fast",
            "store": {"backend": "sqlite", "sqlite": {"path": place.store()}},
            "database": {"kind": "cnpg", "cnpg": {
                "cluster": CLUSTER,
                "instance": name,
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
        Self { member, pod }
    }
}

fn manifest() -> Value {
    json!({
        "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": CLUSTER },
        "spec": {
            "instances": 3, "smartShutdownTimeout": 0, "switchoverDelay": 30,
            // Who takes over is decided by the agents.
            "failoverDelay": 1_000_000,
            "primaryUpdateMethod": "restart",
            "bootstrap": { "initdb": { "database": "app", "owner": "app" } },
        },
    })
}
