//! PostgreSQL instances of a test: on free ports, in a directory of their own, gone when dropped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harmony_agent::core::event::{
    Action, ActionOutcome, Condition, Done, FenceProof, Ladder, Observation, Upstream,
};
use harmony_agent::core::records::Address;
use harmony_agent::database::Database;
use harmony_agent::database::local::{Local, Settings};
use harmony_agent::postmaster::Instance;
use tokio_util::sync::CancellationToken;

/// User PostgreSQL runs as when the tests run as root.
const OS_USER: &str = "postgres";

/// Password of the replication user.
pub(crate) const PASSWORD: &str = r"it's a: \secret";

/// The directory of PostgreSQL's programs: `HARMONY_PG_BIN`, else the newest installed.
pub(crate) fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("HARMONY_PG_BIN") {
        return PathBuf::from(dir);
    }
    let version = |path: &Path| {
        path.parent()?.file_name()?.to_str()?.parse::<u32>().ok().filter(|_| path.is_dir())
    };
    std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .max_by_key(|path| version(path))
        .expect("no PostgreSQL in /usr/lib/postgresql/*/bin: run the tests with ./tests/run")
}

/// Whether the tests run as root, and PostgreSQL therefore as somebody else.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// For tests that mount a small file system or give files away: they fail, and do not pass untried.
pub(crate) fn need_root() {
    assert!(is_root(), "needs root: run ./tests/run");
}

/// A directory that PostgreSQL's user can reach, removed when dropped.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// A new, empty one.
    pub(crate) fn new() -> Self {
        Self::called("harmony-pg-")
    }

    /// A new, empty one whose directory's name begins so.
    pub(crate) fn called(prefix: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(std::env::temp_dir()).unwrap();
        let scene = Self { dir };
        scene.give_away(scene.path());
        std::fs::write(scene.password_file(), format!("{PASSWORD}\n")).unwrap();
        scene
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn password_file(&self) -> PathBuf {
        self.path().join("password")
    }

    /// Gives `path` to PostgreSQL's user.
    pub(crate) fn give_away(&self, path: &Path) {
        if is_root() {
            let status = Command::new("chown").arg("-R").arg(OS_USER).arg(path).status().unwrap();
            assert!(status.success());
        }
    }

    /// Settings of a member in this scene.
    pub(crate) fn settings(&self, name: &str) -> Settings {
        Settings {
            member: name.parse().unwrap(),
            data_dir: self.path().join(name),
            bin_dir: bin_dir(),
            port: free_port(),
            listen: "127.0.0.1".to_owned(),
            socket_dir: self.path().to_path_buf(),
            os_user: is_root().then(|| OS_USER.to_owned()),
            superuser: "postgres".to_owned(),
            database: "postgres".to_owned(),
            replication_user: "harmony_replica".to_owned(),
            replication_password_file: Some(self.password_file()),
            wal_keep_mib: 128,
            parameters: BTreeMap::from([
                ("shared_buffers".to_owned(), "16MB".to_owned()),
                ("max_connections".to_owned(), "20".to_owned()),
                // Tests kill processes, not machines.
                ("fsync".to_owned(), "off".to_owned()),
            ]),
            hung_after: Duration::from_secs(2),
            write_probe_interval: Duration::from_millis(200),
        }
    }

    /// A member with the usual settings.
    pub(crate) fn member(&self, name: &str) -> Member {
        Member::new(self.settings(name))
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One instance and its adapter. Its processes are killed when it is dropped.
pub(crate) struct Member {
    pub(crate) settings: Settings,
    pub(crate) local: Local,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Ok(mut instance) = Instance::new(&self.settings.data_dir) {
            // The assertion of the test that is being left matters more.
            let _ = instance.kill(Duration::from_secs(5));
        }
    }
}

impl Member {
    /// With settings of one's own.
    pub(crate) fn new(settings: Settings) -> Self {
        let local = Local::new(settings.clone()).unwrap();
        Self { settings, local }
    }

    /// This member as something to follow.
    pub(crate) fn upstream(&self) -> Upstream {
        Upstream {
            member: self.settings.member.clone(),
            address: Address { host: "127.0.0.1".to_owned(), port: self.settings.port, http: None },
            site: None,
        }
    }

    /// Does `action`, at most a minute.
    pub(crate) async fn act(&self, action: Action) -> ActionOutcome {
        let cancel = CancellationToken::new();
        let limit = cancel.clone();
        let _timer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            limit.cancel();
        });
        self.local.act(&action, cancel).await
    }

    /// Does `action`, which has to work.
    pub(crate) async fn done(&self, action: Action) -> Done {
        match self.act(action.clone()).await {
            ActionOutcome::Applied(done) => done,
            other => {
                panic!("{} of {}: {other:?}\n{}", action.name(), self.settings.member, self.log())
            }
        }
    }

    /// Does `action`, which has to be refused; gives the reason.
    pub(crate) async fn refused(&self, action: Action) -> String {
        match self.act(action.clone()).await {
            ActionOutcome::Refused(why) => why,
            other => panic!("{}: {other:?}", action.name()),
        }
    }

    /// Makes a new cluster and starts it.
    pub(crate) async fn begin(&self) {
        assert_eq!(self.done(Action::Bootstrap).await, Done::Done);
        assert_eq!(self.done(Action::StartPrimary).await, Done::Done);
    }

    /// Fences with the given times in milliseconds.
    pub(crate) async fn fence(&self, fast: u64, immediate: u64) -> FenceProof {
        let ladder = Ladder {
            fast: Duration::from_millis(fast),
            immediate: Duration::from_millis(immediate),
        };
        match self.done(Action::Fence { ladder }).await {
            Done::Fenced(proof) => proof,
            other => panic!("{other:?}"),
        }
    }

    /// One look.
    pub(crate) async fn look(&self) -> Observation {
        self.local.observe(Duration::from_secs(1)).await
    }

    /// One look with a limit of one's own.
    pub(crate) async fn local_look(&self, limit: Duration) -> Observation {
        self.local.observe(limit).await
    }

    /// Looks until `wanted`, at most 20 s.
    pub(crate) async fn until(&self, wanted: impl Fn(&Observation) -> bool) -> Observation {
        let mut seen = self.look().await;
        for _ in 0..800 {
            if wanted(&seen) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
            seen = self.look().await;
        }
        panic!("{} stays {seen:?}\n{}", self.settings.member, self.log());
    }

    /// Looks until the condition is fine and it streams from `upstream`.
    pub(crate) async fn until_streams_from(&self, upstream: &Self) -> Observation {
        let from = Some(("127.0.0.1".to_owned(), upstream.settings.port));
        self.until(|seen| {
            seen.condition == Condition::Ok && seen.streaming && seen.upstream == from
        })
        .await
    }

    /// Looks until everything written up to `lsn` was replayed.
    pub(crate) async fn until_has_all_of(&self, upstream: &Self) -> Observation {
        let end = upstream.look().await.lsn;
        self.until(|seen| seen.replayed >= end).await
    }

    /// Runs SQL as the superuser by psql; its output or its error.
    pub(crate) async fn sql(&self, sql: &str) -> Result<String, String> {
        let mut command = tokio::process::Command::new(self.settings.bin_dir.join("psql"));
        if is_root() {
            let id = |flag: &str| -> u32 {
                let output = Command::new("id").args([flag, OS_USER]).output().unwrap();
                String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
            };
            command.uid(id("-u")).gid(id("-g"));
        }
        let output = command
            .current_dir("/")
            .kill_on_drop(true)
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-c", sql])
            .arg("-h")
            .arg(&self.settings.socket_dir)
            .arg("-p")
            .arg(self.settings.port.to_string())
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Runs SQL that has to work.
    pub(crate) async fn query(&self, sql: &str) -> String {
        self.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}\n{}", self.log()))
    }

    /// The postmaster's process id.
    pub(crate) fn pid(&self) -> i32 {
        let path = self.settings.data_dir.join("postmaster.pid");
        std::fs::read_to_string(path).unwrap().lines().next().unwrap().trim().parse().unwrap()
    }

    /// Sends a signal to one process.
    pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal)
            .unwrap();
    }

    /// Process ids of the postmaster's children.
    pub(crate) fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// End of the server's log, for messages.
    pub(crate) fn log(&self) -> String {
        let mut path = self.settings.data_dir.clone().into_os_string();
        path.push(".harmony/postgres.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Directories set aside.
    pub(crate) fn aside(&self) -> Vec<PathBuf> {
        self.beside(".aside-")
    }

    /// Directories with WAL that was taken back.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        self.beside(".left-")
    }

    fn beside(&self, suffix: &str) -> Vec<PathBuf> {
        let prefix = format!("{}{suffix}", self.settings.data_dir.display());
        std::fs::read_dir(self.settings.data_dir.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().starts_with(&prefix))
            .collect()
    }
}

/// Two members: a primary and a standby that streams.
pub(crate) async fn pair(scene: &Scene) -> (Member, Member) {
    let (a, b) = (scene.member("a"), scene.member("b"));
    a.begin().await;
    a.query("create table t (n int)").await;
    b.done(Action::Clone { upstream: a.upstream() }).await;
    b.until_streams_from(&a).await;
    (a, b)
}

/// The time something took, printed with `--nocapture`.
pub(crate) async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = tokio::time::Instant::now();
    let done = work.await;
    println!("{what}: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    done
}
