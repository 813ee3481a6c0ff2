//! A PostgreSQL of one's own.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use harmony_agent::postmaster::Instance;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use super::{PATIENCE, eventually};

pub struct Postgres {
    dir: TempDir,
    server: Option<Child>,
    clients: Vec<Child>,
    /// Where it listens for TCP, if it does.
    port: Option<u16>,
}

impl Postgres {
    /// A stopped one, with its directory.
    pub fn stopped() -> Self {
        let dir = open_dir();
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(template()).arg(dir.path().join("data"));
        assert!(status(&mut copy), "the template can be copied");
        Self { dir, server: None, clients: Vec::new(), port: None }
    }

    pub fn started() -> Self {
        let mut postgres = Self::stopped();
        postgres.start();
        postgres
    }

    /// One that listens on `port` of 127.0.0.1, too.
    pub fn listening(port: u16) -> Self {
        let mut postgres = Self::stopped();
        postgres.port = Some(port);
        postgres.start();
        postgres
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A place for sockets and logs, writable by everybody.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn instance(&self) -> Instance {
        Instance::new(&self.data_dir()).unwrap()
    }

    /// Starts the server as this process's child, and waits until it answers.
    pub fn start(&mut self) {
        self.launch();
        eventually("PostgreSQL starts", || self.answers());
    }

    /// Starts the server and does not wait.
    pub fn launch(&mut self) {
        self.reap();
        let log = std::fs::File::create(self.dir.path().join("postgres.log")).unwrap();
        let mut command = as_postgres(bin("postgres"));
        command.arg("-D").arg(self.data_dir()).arg("-k").arg(self.dir());
        let address = if self.port.is_some() { "127.0.0.1" } else { "" };
        command.arg("-c").arg(format!("listen_addresses={address}"));
        if let Some(port) = self.port {
            command.arg("-c").arg(format!("port={port}"));
        }
        command.args(["-c", "fsync=off", "-c", "max_connections=40"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.server = Some(command.spawn().unwrap());
    }

    /// What was launched has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.server.as_mut().is_none_or(|server| server.try_wait().unwrap().is_some())
    }

    pub fn answers(&self) -> bool {
        status(self.psql("SELECT 1").stdout(Stdio::null()).stderr(Stdio::null()))
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = Command::new(bin("psql"));
        command.arg("-h").arg(self.dir()).args(["-U", "postgres", "-Xqc", sql]);
        command.args(self.port.map(|port| format!("--port={port}")));
        command
    }

    /// Clients that commit as fast as they can.
    pub fn busy(&mut self, clients: usize) {
        let mut create = self.psql("CREATE TABLE IF NOT EXISTS work (n int)");
        assert!(status(&mut create));
        let script = self.dir.path().join("work.sql");
        std::fs::write(&script, "INSERT INTO work VALUES (1);\n").unwrap();
        let mut command = Command::new(bin("pgbench"));
        command.arg("-h").arg(self.dir()).args(["-U", "postgres", "-n", "-T", "600"]);
        command.arg("-c").arg(clients.to_string()).arg("-f").arg(script).arg("postgres");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.clients.push(command.spawn().unwrap());
        let connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'";
        eventually("the clients are connected", || {
            let output = self.psql(connected).arg("-At").output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse() == Ok(clients)
        });
    }

    /// `postgres --single`, waiting for input.
    pub fn single_user(&mut self) {
        let mut command = as_postgres(bin("postgres"));
        command.arg("--single").arg("-D").arg(self.data_dir()).arg("postgres");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(command.spawn().unwrap());
        eventually("the single-user server is there", || self.instance().remnants().unwrap() == 1);
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.server.as_ref().unwrap().id()).unwrap()
    }

    /// The postmaster's children.
    fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    /// Stops the server and all its children, and gives those children that live.
    pub fn freeze(&self) -> Vec<i32> {
        signal(self.pid(), Signal::STOP);
        for pid in self.children() {
            // It may have ended since it was listed.
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP);
        }
        let running = |pid: &i32| !matches!(state(*pid), None | Some('T' | 'Z'));
        eventually("all are stopped", || !self.children().iter().any(running));
        self.children().into_iter().filter(|pid| lives(*pid)).collect()
    }

    /// The server is down, with proof, without anyone's help.
    pub fn is_dead(&self) -> bool {
        self.instance().remnants().unwrap() == 0
    }

    fn reap(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.kill();
            let _ = client.wait();
        }
        let _ = self.instance().kill(PATIENCE);
        self.reap();
    }
}

/// A directory that the postgres user can use, too.
pub fn open_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("dog").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// A command run as the postgres user where this is root, which PostgreSQL refuses to run as.
pub fn as_postgres(program: impl AsRef<OsStr>) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Exists and is no zombie.
pub fn lives(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z'))
}

fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

fn status(command: &mut Command) -> bool {
    command.status().unwrap().success()
}

fn bin(name: &str) -> PathBuf {
    let dir = match std::env::var_os("HARMONY_PG_BIN") {
        Some(dir) => PathBuf::from(dir),
        None => newest_installed(),
    };
    let path = dir.join(name);
    assert!(path.exists(), "no {name} in {}: run ./tests/run, which installs it", dir.display());
    path
}

fn newest_installed() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
        .max();
    newest.expect("PostgreSQL is not installed: run ./tests/run, which installs it").1.join("bin")
}

/// An initialised data directory; made once for all runs.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("watchdog-template");
        if kept.exists() {
            return kept;
        }
        let dir = open_dir();
        let data = dir.path().join("data");
        let mut command = as_postgres(bin("initdb"));
        command.args(["-N", "-A", "trust", "-U", "postgres", "-D"]).arg(&data);
        assert!(status(command.stdout(Stdio::null())), "initdb");
        let copy = kept.with_extension(std::process::id().to_string());
        assert!(status(Command::new("cp").arg("-a").arg(&data).arg(&copy)), "cp");
        // Whole or not at all; another run may have been faster.
        if std::fs::rename(&copy, &kept).is_err() {
            let _ = std::fs::remove_dir_all(copy);
        }
        kept
    })
}
