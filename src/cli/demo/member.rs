//! One member of the demo: its directory, its ports, its configuration and its agent.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, geteuid, getpid, kill_process};
use serde_json::json;

use super::StoreChoice;
use super::cleanup::MARK;
use super::client::Host;
use super::said::{Said, ask};

/// Below the range from which outgoing connections get theirs: a client that tries again and again
/// to reach a server that is down might otherwise be given the server's own port.
const PORTS: std::ops::Range<u32> = 20_000..30_000;
/// Lines of a log shown when something went wrong.
const TAIL: usize = 12;

/// The member that is preferred over the others, where somebody is.
pub(super) const PREFERRED: &str = "a";

/// What all members of one demo have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// The agent's program.
    pub(super) program: PathBuf,
    /// The demo's directory.
    pub(super) home: PathBuf,
    /// Name of the cluster.
    pub(super) cluster_id: String,
    /// The store.
    pub(super) store: StoreChoice,
    /// Starting point of the timings.
    pub(super) profile: String,
    /// Name of the member of the highest priority; none: all have the same.
    pub(super) preferred: Option<&'static str>,
    /// `--set` for every agent.
    pub(super) set: Vec<(String, String)>,
}

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    /// Its name.
    pub(super) name: String,
    /// Everything of it is in here.
    pub(super) dir: PathBuf,
    /// PostgreSQL's port.
    pub(super) port: u16,
    /// `host:port` of the agent's HTTP listener.
    pub(super) http: String,
    common: Common,
    agent: Option<Child>,
}

impl Member {
    /// Makes the member's directories and writes its configuration.
    ///
    /// # Errors
    /// A directory cannot be made, no port is free, or there is no user for PostgreSQL.
    pub(super) fn make(name: &str, common: &Common) -> anyhow::Result<Self> {
        let dir = common.home.join(name);
        let [port, http] = free_ports(&common.home)?;
        let member = Self {
            name: name.to_owned(),
            dir,
            port,
            http: format!("127.0.0.1:{http}"),
            common: common.clone(),
            agent: None,
        };
        // The path of a Unix socket has to fit into 107 bytes.
        let socket = member.dir.join("socket").join(format!(".s.PGSQL.{port}"));
        if socket.as_os_str().len() > 107 {
            bail!(
                "{} is too long for a Unix socket; name a shorter directory with --dir",
                socket.display()
            );
        }
        for dir in [member.dir.clone(), member.dir.join("socket"), member.dir.join("state")] {
            fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        if geteuid().is_root() {
            let (uid, gid) = postgres_account()?;
            for dir in [&member.dir, &member.dir.join("socket")] {
                std::os::unix::fs::chown(dir, Some(uid), Some(gid))
                    .with_context(|| format!("give {} to the user postgres", dir.display()))?;
            }
        }
        let path = member.config();
        fs::write(&path, member.settings()?)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(member)
    }

    fn settings(&self) -> anyhow::Result<String> {
        let home = &self.common.home;
        let store = match &self.common.store {
            StoreChoice::Sqlite => {
                json!({"backend": "sqlite", "sqlite": {"path": home.join("store").join("store.sqlite")}})
            }
            StoreChoice::Nats(servers) => json!({
                "backend": "nats",
                "nats": {"servers": servers, "replicas": if servers.len() >= 3 { 3 } else { 1 }},
            }),
        };
        let settings = json!({
            "cluster_id": self.common.cluster_id,
            "member": self.name,
            "state_dir": self.dir.join("state"),
            "profile": self.common.profile,
            "store": store,
            "database": {
                "kind": "local",
                "local": {
                    "data_dir": self.data_dir(),
                    "port": self.port,
                    "listen": "127.0.0.1",
                    "host": "127.0.0.1",
                    "socket_dir": self.dir.join("socket"),
                    "superuser": "postgres",
                    "database": "postgres",
                    "replication_user": "harmony_replication",
                    "replication_password_file": home.join("replication.password"),
                },
            },
            "http": {"listen": self.http, "advertise": self.http},
            "failover": {"priority": if self.common.preferred == Some(self.name.as_str()) { 2 } else { 1 }},
            "watchdog": {"mode": "automatic"},
            "peers": {"secret_file": home.join("peers.secret")},
            "shutdown": {"on_sigterm": "hand_over"},
            "log": {"format": "json", "level": "info"},
        });
        toml::to_string(&settings).context("write the configuration of a member")
    }

    /// Its configuration file.
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// PostgreSQL's data directory.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What its agent logs.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Its PostgreSQL as clients reach it.
    pub(super) fn host(&self) -> Host {
        Host { host: "127.0.0.1".to_owned(), port: self.port }
    }

    /// Starts its agent.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let path = self.log();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log: File = log.with_context(|| format!("open {}", path.display()))?;
        let mut command = Command::new(&self.common.program);
        command.arg("run").arg("--config").arg(self.config());
        for (key, value) in &self.common.set {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HARMONY_") {
                command.env_remove(name);
            }
        }
        let child = command
            .env(MARK, &self.dir)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // An interrupt at the terminal is for the demo alone.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.common.program.display()))?;
        self.agent = Some(child);
        Ok(())
    }

    /// Process id of its agent, while that one has not been seen to end.
    pub(super) fn agent_pid(&self) -> Option<Pid> {
        self.agent.as_ref().map(Pid::from_child)
    }

    /// How its agent ended, when it has; also takes it out of the process table.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.agent.as_mut()?.try_wait().ok().flatten()?;
        self.agent = None;
        Some(status)
    }

    /// Signals its agent.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(pid) = self.agent_pid() else {
            bail!("the agent of {} is not running", self.name)
        };
        // Our child and not waited for yet: the number is still its own.
        kill_process(pid, signal).with_context(|| format!("signal the agent of {}", self.name))
    }

    /// Process id of its postmaster, by `postmaster.pid`.
    pub(super) fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok().and_then(Pid::from_raw)
    }

    /// Asks its agent.
    pub(super) async fn ask(&self) -> Option<Said> {
        ask(&self.http).await
    }

    /// The last lines of its agent's log, for a person.
    pub(super) fn tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL);
        lines[from..].iter().map(|line| format!("  {}: {line}\n", self.name)).collect()
    }
}

/// How an agent ended, in words.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

/// Two ports nobody listens on, and that no other member of this demo was given.
fn free_ports(home: &Path) -> anyhow::Result<[u16; 2]> {
    let span = PORTS.end - PORTS.start;
    let start = getpid().as_raw_nonzero().get().unsigned_abs().wrapping_mul(37);
    let taken = |port: u16| home.join(format!("port.{port}"));
    let mut found = Vec::new();
    for offset in 0..span {
        let Ok(port) = u16::try_from(PORTS.start + start.wrapping_add(offset) % span) else {
            continue;
        };
        // Created by whoever takes it; members are made one after the other.
        if TcpListener::bind(("127.0.0.1", port)).is_err() || File::create_new(taken(port)).is_err()
        {
            continue;
        }
        found.push(port);
        if let [first, second] = found[..] {
            return Ok([first, second]);
        }
    }
    bail!("no two ports of 127.0.0.1 between {} and {} are free", PORTS.start, PORTS.end)
}

/// User and group of `postgres`: PostgreSQL refuses to run as root.
fn postgres_account() -> anyhow::Result<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    account(&accounts, "postgres").context(
        "there is no user postgres, and PostgreSQL does not run as root; install the server package \
         (./deploy/demo does), or run the demo as another user",
    )
}

fn account(accounts: &str, name: &str) -> Option<(u32, u32)> {
    let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_by_whole_name() {
        let text =
            "postgresql:x:1:2::/:/bin/sh\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(account(text, "postgres"), Some((101, 104)));
        assert_eq!(account(text, "post"), None);
    }

    #[test]
    fn ports_differ_and_stay_out_of_the_ephemeral_range() {
        let home = tempfile::tempdir().unwrap();
        let first = free_ports(home.path()).unwrap();
        let second = free_ports(home.path()).unwrap();
        let all: std::collections::BTreeSet<u16> = first.into_iter().chain(second).collect();
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|port| (20_000..30_000).contains(port)));
    }
}
