//! A site for tests: a Cluster, and a data directory whose control file says what the test wants.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::us::Us;
use super::super::{Access, Settings, Shared, perform};
use super::api::FakeApi;
use super::until;
use crate::core::event::{Action, Done, Ladder, Upstream};
use crate::core::records::Address;
use crate::database::server::outcome::Step;

pub(super) const SYSTEM: &str = "7411111111111111111";
pub(super) const END: &str = "0/3000028";

/// A member that is a site.
pub(super) fn us() -> Us {
    Us { member: "pg-a".parse().unwrap(), instance: None, site: None }
}

/// A primary's Cluster in a topology of two sites, as the documentation has it.
pub(super) fn cluster() -> Value {
    let external = |name: &str, host: &str| json!({ "name": name, "connectionParameters": { "host": host, "user": "streaming_replica" } });
    json!({
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": { "name": "pg", "namespace": "db", "resourceVersion": "100", "annotations": {} },
        "spec": {
            "instances": 1,
            "smartShutdownTimeout": 0,
            "switchoverDelay": 30,
            "primaryUpdateMethod": "restart",
            "replica": { "self": "pg-a", "primary": "pg-a", "source": "pg-b" },
            "externalClusters": [external("pg-a", "a.example"), external("pg-b", "b.example")],
            "storage": { "size": "1Gi" },
        },
        "status": { "instances": 1, "instanceNames": ["pg-1"], "currentPrimary": "pg-1",
                    "phase": "Cluster in healthy state", "conditions": [{ "type": "Ready" }] },
    })
}

/// The same as a replica of the other site.
pub(super) fn replica() -> Value {
    let mut cluster = cluster();
    cluster["spec"]["replica"]["primary"] = json!("pg-b");
    cluster
}

/// A site whose PostgreSQL is down.
pub(super) struct Site {
    pub(super) api: FakeApi,
    pub(super) shared: Arc<Shared>,
    pub(super) port: u16,
    dir: tempfile::TempDir,
}

impl Site {
    /// With the data of a primary that was shut down.
    pub(super) async fn primary(cluster: Value) -> Self {
        Self::new(cluster, "shut down", false).await
    }

    /// With the data of a standby that was shut down.
    pub(super) async fn standby(cluster: Value) -> Self {
        Self::new(cluster, "shut down in recovery", true).await
    }

    /// With the data of a primary that was shut down: the instance pg-1 of several.
    pub(super) async fn instance(cluster: Value) -> Self {
        let us = Us { instance: Some("pg-1".to_owned()), ..us() };
        Self::of(us, cluster, "shut down", false).await
    }

    /// The same with the data of a standby.
    pub(super) async fn standby_instance(cluster: Value) -> Self {
        let us = Us { instance: Some("pg-1".to_owned()), ..us() };
        Self::of(us, cluster, "shut down in recovery", true).await
    }

    pub(super) async fn new(cluster: Value, state: &str, standby: bool) -> Self {
        Self::of(us(), cluster, state, standby).await
    }

    async fn of(us: Us, cluster: Value, state: &str, standby: bool) -> Self {
        Self::at(us, FakeApi::start(cluster).await, state, standby)
    }

    /// The instance pg-2 of the same Cluster, with the data of a standby.
    pub(super) fn beside(&self) -> Self {
        let us =
            Us { member: "pg-2".parse().unwrap(), instance: Some("pg-2".to_owned()), site: None };
        Self::at(us, self.api.clone(), "shut down in recovery", true)
    }

    fn at(us: Us, api: FakeApi, state: &str, standby: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Parts { dir: &dir }.make(state, standby);
        // What another test has just started may have the sockets of ours until it is another program.
        for _ in 0..20 {
            let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
            let settings = Self::settings(&us, &api, &dir, port);
            let shared = Arc::new(Shared::new(settings).unwrap());
            if shared.part.holds() {
                return Self { api, shared, port, dir };
            }
        }
        panic!("the port is not held from the start on");
    }

    fn settings(us: &Us, api: &FakeApi, dir: &tempfile::TempDir, port: u16) -> Settings {
        Settings {
            member: us.member.clone(),
            instance: us.instance.clone(),
            site: None,
            access: Access {
                cluster: "pg".to_owned(),
                namespace: Some("db".to_owned()),
                url: Some(api.url.clone()),
                token_file: None,
                ca_file: None,
                timeout: Duration::from_millis(300),
            },
            pgdata: dir.path().join("data"),
            bin_dir: dir.path().join("bin"),
            port,
            socket_dir: dir.path().join("run"),
            host: "a.example".to_owned(),
            hung_after: Duration::from_secs(30),
            write_probe_interval: Duration::ZERO,
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    /// CloudNativePG marks the data as a standby's.
    pub(super) fn mark_standby(&self) {
        std::fs::write(self.file("standby.signal"), "").unwrap();
    }

    /// A postmaster that has only just been started, and has not written its file yet.
    pub(super) fn start_postmaster(&self) -> Postmaster {
        let program = self.dir.path().join("postgres");
        let _there = std::os::unix::fs::symlink("/bin/sleep", &program);
        let mut command = Command::new(program);
        command.arg0("sleep").arg("60").current_dir(self.dir.path().join("data"));
        Postmaster(command.spawn().unwrap())
    }

    /// The port is given back, at the latest in a moment.
    pub(super) async fn until_port_is_free(&self) {
        until("the port is given back", || self.is_port_free()).await;
    }

    /// Nobody has the port.
    pub(super) fn is_port_free(&self) -> bool {
        TcpListener::bind(("127.0.0.1", self.port)).is_ok()
    }

    /// Does `action` with as much time as it takes.
    pub(super) async fn act(&self, action: Action) -> Step<Done> {
        perform(&self.shared, &action, &CancellationToken::new()).await
    }

    /// Does `action`, and takes it back after `limit`.
    pub(super) async fn act_for(&self, action: Action, limit: Duration) -> Step<Done> {
        let cancel = CancellationToken::new();
        let (until, cancelled) = (tokio::time::Instant::now() + limit, cancel.clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            cancelled.cancel();
        });
        perform(&self.shared, &action, &cancel).await
    }

    /// Reads the Cluster as the keeper does.
    pub(super) async fn read(&self) {
        self.shared.read().await.unwrap();
        self.keep();
    }

    /// Looks after the port as the keeper does.
    pub(super) fn keep(&self) {
        let cluster = self.shared.last_read().map(|read| read.cluster);
        self.shared.part.keep(cluster.as_deref());
    }
}

/// Another program by the name of PostgreSQL's; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Postmaster(Child);

impl Postmaster {
    /// Somebody has killed it.
    pub(super) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        // It may have been killed already.
        let _killed = self.0.kill();
        self.0.wait().unwrap();
    }
}

struct Parts<'a> {
    dir: &'a tempfile::TempDir,
}

impl Parts<'_> {
    fn make(&self, state: &str, standby: bool) {
        let root = self.dir.path();
        for name in ["data", "data/global", "bin", "run"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let printed = format!(
            "Database system identifier:           {SYSTEM}\n\
             Database cluster state:               {state}\n\
             Latest checkpoint location:           {END}\n\
             Latest checkpoint's TimeLineID:       2\n\
             Minimum recovery ending location:     0/0\n\
             Min recovery ending loc's timeline:   0\n"
        );
        std::fs::write(root.join("data/PG_VERSION"), "15\n").unwrap();
        std::fs::write(root.join("data/global/pg_control"), state).unwrap();
        if standby {
            std::fs::write(root.join("data/standby.signal"), "").unwrap();
        }
        let program = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo 'pg_controldata (PostgreSQL) 15.8' && exit 0\n\
             cat <<'END'\n{printed}END\n"
        );
        let path = root.join("bin/pg_controldata");
        std::fs::write(&path, program).unwrap();
        for (path, mode) in [(path, 0o755), (root.to_path_buf(), 0o755), (root.join("data"), 0o700)]
        {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        if rustix::process::geteuid().is_root() {
            let output = Command::new("id").args(["-u", "postgres"]).output().unwrap();
            let uid = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            std::os::unix::fs::chown(root.join("data"), Some(uid), None).unwrap();
        }
    }
}

pub(super) fn ladder() -> Action {
    let ladder = Ladder { fast: Duration::from_millis(50), immediate: Duration::from_millis(80) };
    Action::Fence { ladder }
}

pub(super) fn upstream() -> Upstream {
    Upstream {
        member: "pg-b".parse().unwrap(),
        address: Address { host: "b.agents".to_owned(), port: 5432, http: None },
        site: None,
    }
}
