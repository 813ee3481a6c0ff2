//! An instance of a Cluster, and the agent beside it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::Instant;

use super::super::double::Double;
use super::super::double::instance::pod::{Gate, Pod};
use super::super::sites::site::TOKEN;
use super::cluster::settings;
use crate::live::cluster::{Member, Place, free_ports, postgres_ids};
use crate::support::postgres::is_root;

/// A watchdog of ours; it ends when it is dropped.
pub(super) struct Watchdog(Child);

impl Drop for Watchdog {
    fn drop(&mut self) {
        // It may have been told to quit.
        let _ended = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// An instance.
pub(super) struct Instance {
    pub(super) member: Member,
    pub(super) pod: Arc<Pod>,
}

impl Instance {
    pub(super) fn new(place: &Place, double: &Double, site: &str, number: u32) -> Self {
        let name = format!("{site}-{number}");
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
        let mut settings = settings(site, &name);
        settings["state_dir"] = json!(dir.join("state"));
        settings["store"] = json!({"backend": "sqlite", "sqlite": {"path": place.store()}});
        settings["http"] = json!({"listen": http, "advertise": http});
        let database = &mut settings["database"]["cnpg"];
        database["pgdata"] = json!(pod.postgres.data);
        database["port"] = json!(pod.postgres.port);
        database["socket_dir"] = json!(pod.postgres.socket);
        database["api"] = json!(double.url());
        database["token_file"] = json!(token_file);
        let mut member = Member::new(dir, pod.postgres.port, http, settings);
        // In a pod it has the user that PostgreSQL has.
        member.agent_as = is_root().then(postgres_ids);
        Self { member, pod }
    }

    /// All of its machine is gone at once: agent, watchdog, instance manager, PostgreSQL.
    pub(super) fn node_dies(&mut self) {
        self.pod.knobs().node_down = true;
        let postmaster = self.pod.state().pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        self.member.kill();
        for pid in self.member.watchdogs().into_iter().chain(postmaster) {
            // Whoever was quicker has ended it.
            let _ended = kill_process(pid, Signal::KILL);
        }
    }

    /// The machine is back.
    pub(super) fn node_comes_back(&mut self) {
        self.member.start();
        self.pod.knobs().node_down = false;
    }

    /// The watchdog as a pod has it: it goes with its container, not when no agent is left.
    pub(super) fn watchdog_in_a_container(&self) -> Watchdog {
        let mut command = Command::new(self.member.program());
        command.arg("watchdog").arg("--socket").arg(self.member.dir.join("state/watchdog.sock"));
        command.arg("--data-dir").arg(&self.pod.postgres.data);
        command.args(["--linger-ms", "600000"]);
        command.arg("--hold-port").arg(self.pod.postgres.port.to_string());
        if let Some((uid, gid)) = self.member.agent_as {
            command.uid(uid).gid(gid);
        }
        Watchdog(command.spawn().unwrap())
    }

    /// For so long PostgreSQL takes nobody's writes.
    pub(super) fn assert_silent(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            assert!(!self.member.is_writable(), "{}", self.member.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
