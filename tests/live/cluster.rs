//! Agents of a test: real processes over a real store, each with a real PostgreSQL, all gone when
//! dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::postgres::{Scene, is_root};

/// No wait of these tests is longer; what they wait for takes a small part of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Measurements wait so many times longer: what they measure is not shortened.
pub(crate) static PATIENT: AtomicU32 = AtomicU32::new(1);

/// Waits until `found` finds something.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Result<T, String>) -> T {
    let patience = PATIENCE * PATIENT.load(Ordering::Relaxed);
    let end = Instant::now() + patience;
    loop {
        match found() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > end => panic!("{what}: not in {patience:?}\n{seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// A directory for one cluster; dropping it ends whatever was started in it.
pub(crate) struct Place {
    scene: Scene,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end();
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::at(Scene::new())
    }

    /// The same, where it is to be.
    pub(crate) fn at(scene: Scene) -> Self {
        fs::create_dir(scene.path().join("store")).unwrap();
        Self { scene }
    }

    /// Ends whatever was started here.
    pub(crate) fn end(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let found = self.processes();
            if found.is_empty() {
                return;
            }
            for pid in found {
                // It may have ended meanwhile.
                let _ended = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.scene.path()
    }

    pub(crate) fn give_away(&self, path: &Path) {
        self.scene.give_away(path);
    }

    /// The SQLite store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store").join("store.sqlite")
    }

    /// Agents, watchdogs and servers of this place: they work in it, or their command line names it.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let name = self.path().to_str().unwrap();
        let ours = |path: &Path| {
            let cwd = fs::read_link(path.join("cwd")).unwrap_or_default();
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            cwd.starts_with(self.path()) || String::from_utf8_lossy(&line).contains(name)
        };
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        entries
            .filter(|entry| ours(&entry.path()))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
            .filter(|pid| *pid != rustix::process::getpid())
            .collect()
    }

    /// A member on the SQLite store.
    pub(crate) fn member(&self, name: &str) -> Member {
        self.member_as(name, name)
    }

    /// A member called `name` with directories of its own called `dir`.
    pub(crate) fn member_as(&self, name: &str, dir: &str) -> Member {
        let dir = self.path().join(dir);
        for dir in [dir.clone(), dir.join("socket"), dir.join("state")] {
            fs::create_dir(dir).unwrap();
        }
        self.give_away(&dir);
        let [port, http] = free_ports();
        let http = SocketAddr::from(([127, 0, 0, 1], http));
        let password = self.path().join("password");
        let settings = json!({
            "cluster_id": "bad-input",
            "member": name,
            "state_dir": dir.join("state"),
            "profile": "fast",
            "store": {"backend": "sqlite", "sqlite": {"path": self.store()}},
            "database": {"kind": "local", "local": {
                "data_dir": dir.join("data"),
                "port": port,
                "listen": "127.0.0.1",
                "host": "127.0.0.1",
                "socket_dir": dir.join("socket"),
                "superuser": "postgres",
                "database": "postgres",
                "replication_user": "harmony_replication",
                "replication_password_file": password,
                "parameters": {"shared_buffers": "16MB", "max_connections": "20", "fsync": "off"},
            }},
            "http": {"listen": http, "advertise": http},
            "watchdog": {"mode": "automatic"},
            "log": {"format": "json", "level": "info"},
        });
        Member::new(dir, port, http, settings)
    }

    /// Two members that run; the first leads, the second follows.
    pub(crate) fn pair(&self) -> (Member, Member) {
        self.pair_with(|_| ())
    }

    /// The same with settings of one's own.
    pub(crate) fn pair_with(&self, adjust: impl Fn(&mut Value)) -> (Member, Member) {
        let (mut a, mut b) = (self.member("a"), self.member("b"));
        adjust(&mut a.settings);
        adjust(&mut b.settings);
        found(&mut a, &mut b);
        (a, b)
    }
}

/// Starts two members; the first leads, the second follows and could take over.
pub(crate) fn found(a: &mut Member, b: &mut Member) {
    a.start();
    a.until_leads();
    a.sql("create table t (n int)").unwrap();
    a.let_clients_in();
    b.start();
    b.until_follows();
    a.until_has_candidate();
}

/// Below the range from which outgoing connections get theirs, and never the same ones twice.
pub(crate) fn free_ports() -> [u16; 2] {
    use std::sync::atomic::AtomicU16;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + u16::try_from(std::process::id() % 80).unwrap() * 100;
    let mut free = std::iter::repeat_with(|| base + NEXT.fetch_add(1, Ordering::Relaxed) % 1000)
        .take(1000)
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    [free.next().unwrap(), free.next().unwrap()]
}

/// A member: its directories, its settings and its agent.
pub(crate) struct Member {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) http: SocketAddr,
    pub(crate) settings: Value,
    /// User and group PostgreSQL runs as, when that is somebody else than the tests.
    pub(crate) account: Option<(u32, u32)>,
    /// User and group the agent runs as, when that is somebody else than the tests.
    pub(crate) agent_as: Option<(u32, u32)>,
    /// Words before the agent's command.
    pub(crate) within: Vec<String>,
    /// What the agent's environment has besides.
    pub(crate) env: Vec<(String, String)>,
    child: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    /// One whose directory is there; `port` is PostgreSQL's, `http` the agent's.
    pub(crate) fn new(dir: PathBuf, port: u16, http: SocketAddr, settings: Value) -> Self {
        Self {
            dir,
            port,
            http,
            settings,
            account: is_root().then(postgres_ids),
            agent_as: None,
            within: Vec::new(),
            env: Vec::new(),
            child: None,
        }
    }

    /// PostgreSQL's data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.place(["data_dir", "pgdata"])
    }

    /// The directory of its Unix socket.
    pub(crate) fn socket_dir(&self) -> PathBuf {
        self.place(["socket_dir", "socket_dir"])
    }

    /// What a key of the database's section says, by kind of database.
    fn place(&self, [local, cnpg]: [&str; 2]) -> PathBuf {
        let database = &self.settings["database"];
        let place = database["local"].get(local).unwrap_or(&database["cnpg"][cnpg]);
        PathBuf::from(place.as_str().unwrap())
    }

    /// Writes the agent's configuration file.
    pub(crate) fn write_settings(&self) -> PathBuf {
        let config = self.dir.join("agent.toml");
        fs::write(&config, toml::to_string(&self.settings).unwrap()).unwrap();
        config
    }

    fn command(&self) -> Command {
        let config = self.write_settings();
        let binary = self.program();
        let words = [self.within.clone(), vec![binary]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.env.iter().cloned());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HARMONY_")) {
            command.env_remove(name);
        }
        command.arg("run").arg("--config").arg(config);
        command.current_dir(&self.dir).stdin(Stdio::null()).process_group(0);
        if let Some((uid, gid)) = self.agent_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// The agent's program; for another account a copy, which it reaches wherever this tree is.
    pub(crate) fn program(&self) -> String {
        let built = env!("CARGO_BIN_EXE_harmony-agent").to_owned();
        if self.agent_as.is_none() {
            return built;
        }
        let copy = self.dir.join("harmony-agent").to_str().unwrap().to_owned();
        if !fs::exists(&copy).unwrap() {
            // By a process of its own: what this one writes, a child of another test may hold open.
            assert!(Command::new("cp").args([&built, &copy]).status().unwrap().success());
        }
        copy
    }

    /// Starts the agent.
    pub(crate) fn start(&mut self) {
        let log: File =
            OpenOptions::new().create(true).append(true).open(self.dir.join("agent.log")).unwrap();
        self.child = Some(self.command().stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Runs the agent, which has to end by itself.
    pub(crate) fn run(&mut self) -> Output {
        self.start();
        let status = self.until_ended();
        Output { status, stdout: Vec::new(), stderr: self.log().into_bytes() }
    }

    /// Waits until the agent has ended by itself.
    pub(crate) fn until_ended(&mut self) -> ExitStatus {
        let status = until("the agent ends", || {
            self.child.as_mut().unwrap().try_wait().unwrap().ok_or_else(|| self.log_end())
        });
        self.child = None;
        status
    }

    /// How the agent ended, once, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// Process id of the agent, while there is one.
    pub(crate) fn agent_pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// The agent has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Ends the agent with -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }

    /// Sends the agent a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.agent(), signal).unwrap();
    }

    /// Process id of the agent.
    pub(crate) fn agent(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Asks the agent to end, and waits until it did.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.until_ended()
    }

    /// Makes the agent read its settings again, and waits until it did, or refused to.
    pub(crate) fn reload(&self) {
        let count = || self.log().matches("settings read again").count() + self.refusals();
        let before = count();
        self.write_settings();
        self.signal(Signal::HUP);
        until("the settings are read", || {
            (count() > before).then_some(()).ok_or_else(|| self.log_end())
        });
    }

    /// How often settings were not read again.
    pub(crate) fn refusals(&self) -> usize {
        self.log().matches("settings not read again").count()
    }

    /// Process id of the postmaster.
    pub(crate) fn postmaster(&self) -> Pid {
        until("postmaster.pid", || {
            let path = self.data_dir().join("postmaster.pid");
            let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
            let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
            pid.and_then(Pid::from_raw).ok_or(text)
        })
    }

    /// Sends a signal to the postmaster and all its children.
    pub(crate) fn signal_server(&self, signal: Signal) {
        let pid = self.postmaster();
        kill_process(pid, signal).unwrap();
        let children = format!("/proc/{pid}/task/{pid}/children", pid = pid.as_raw_nonzero());
        for child in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            // It may have ended meanwhile.
            let _ended = kill_process(Pid::from_raw(child.parse().unwrap()).unwrap(), signal);
        }
    }

    /// Process ids of the watchdogs of this member.
    pub(crate) fn watchdogs(&self) -> Vec<Pid> {
        let socket = self.dir.join("state").join("watchdog.sock");
        let socket = socket.to_str().unwrap();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        entries
            .filter(|entry| {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).split('\0').any(|word| word == socket)
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
            .collect()
    }

    /// Everything the agent has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("{}\n{}", self.dir.display(), lines[lines.len().saturating_sub(15)..].join("\n"))
    }

    /// Code and body of one page of the agent.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, Value), String> {
        let limit = Duration::from_secs(2);
        let text = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&self.http, limit)?;
            stream.set_read_timeout(Some(limit))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = text().map_err(|error| error.to_string())?;
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = text.split_once("\r\n\r\n").and_then(|(_, b)| serde_json::from_str(b).ok());
        code.zip(body).ok_or(text)
    }

    /// `/status`, or null without an answer.
    pub(crate) fn status(&self) -> Value {
        self.get("/status").map_or(Value::Null, |(_, body)| body)
    }

    /// Waits until the status is as wanted.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(what, || {
            let status = self.status();
            if wanted(&status) {
                return Ok(status);
            }
            Err(format!("{}\n{status:#}", self.log_end()))
        })
    }

    /// Waits until the member is a healthy primary that writes.
    pub(crate) fn until_leads(&self) -> Value {
        let leads =
            |status: &Value| status["state"] == "primary_healthy" && status["writable"] == true;
        let status = self.until("it leads", leads);
        until("it writes", || self.sql("create temp table x (n int)"));
        status
    }

    /// Waits until the member streams from a primary.
    pub(crate) fn until_follows(&self) -> Value {
        self.until("it follows", |status| {
            status["state"] == "replica_watching" && status["database"]["streaming"] == true
        })
    }

    /// Waits until somebody else could take over, as this member knows, and one of its senders serves.
    pub(crate) fn until_has_candidate(&self) {
        self.until("somebody could take over", |status| {
            let standbys = status["database"]["standbys"].as_array();
            let served = standbys.is_some_and(|standbys| !standbys.is_empty());
            served && status["takeover"].as_str().is_some_and(|text| !text.starts_with("nobody"))
        });
    }

    /// Waits until an alarm is up.
    pub(crate) fn until_alarm(&self, alarm: &str) -> Value {
        self.until(alarm, |status| has_alarm(status, alarm))
    }

    /// Waits until the agent has logged this.
    pub(crate) fn until_says(&self, words: &str) {
        until(words, || self.log().contains(words).then_some(()).ok_or_else(|| self.log_end()));
    }
}

pub(crate) fn has_alarm(status: &Value, alarm: &str) -> bool {
    status["alarms"].as_array().is_some_and(|alarms| alarms.iter().any(|a| *a == alarm))
}

/// User and group PostgreSQL runs as when the tests run as root.
pub(crate) fn postgres_ids() -> (u32, u32) {
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let line = accounts.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let mut ids = line.split(':').skip(2).map(|id| id.parse().unwrap());
    (ids.next().unwrap(), ids.next().unwrap())
}
