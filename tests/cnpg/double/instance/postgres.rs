//! A real PostgreSQL: its programs, its files, its process.

use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// User PostgreSQL runs as when the double runs as root, as it refuses to run as root.
const OS_USER: &str = "postgres";
/// The longest any of its programs may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest one statement may take.
const STATEMENT: Duration = Duration::from_secs(5);

/// The file that makes it a standby.
const SIGNAL: &str = "standby.signal";

/// One data directory and where its server listens.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    /// The data directory.
    pub(crate) data: PathBuf,
    /// Directory of its Unix socket.
    pub(crate) socket: PathBuf,
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
}

/// Directory of PostgreSQL's programs: `HARMONY_PG_BIN`, else the newest installed.
pub(crate) fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("HARMONY_PG_BIN") {
        return PathBuf::from(dir);
    }
    let version = |path: &Path| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    installed
        .map(|entry| entry.path().join("bin"))
        .filter(|path| path.is_dir())
        .max_by_key(|path| version(path))
        .expect("no PostgreSQL in /usr/lib/postgresql/*/bin: run the tests with ./tests/run")
}

fn os_user() -> Option<(u32, u32)> {
    static IDS: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *IDS.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let id = |flag: &str| {
            let output = std::process::Command::new("id").args([flag, OS_USER]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        Some((id("-u")?, id("-g")?))
    })
}

/// Gives a directory or file to PostgreSQL's user.
pub(crate) fn give_away(path: &Path) -> io::Result<()> {
    os_user().map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
}

impl Postgres {
    /// In `dir`, which is made.
    pub(crate) fn new(dir: &Path, port: u16) -> io::Result<Self> {
        let socket = dir.join("run");
        std::fs::create_dir_all(&socket)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        give_away(dir)?;
        give_away(&socket)?;
        Ok(Self { data: dir.join("pgdata"), socket, port })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(bin_dir().join(program));
        if let Some((user, group)) = os_user() {
            command.uid(user).gid(group);
        }
        command.current_dir("/").env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command(program);
        command.args(arguments);
        // What a server that was started by `pg_ctl` inherits would never end.
        let output = timeout(PATIENCE, command.output())
            .await
            .map_err(|_| format!("{program} took more than {PATIENCE:?}"))?
            .map_err(|error| format!("{program}: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(format!("{program}: {}{text}", String::from_utf8_lossy(&output.stderr)))
    }

    fn data_dir(&self) -> &str {
        self.data.to_str().unwrap_or_default()
    }

    /// Whether there is a data directory.
    pub(crate) fn exists(&self) -> bool {
        self.data.join("global/pg_control").exists()
    }

    /// Whether its data are a standby's.
    pub(crate) fn is_standby(&self) -> bool {
        self.data.join(SIGNAL).exists()
    }

    /// Makes them a standby's.
    pub(crate) fn make_standby(&self) -> Result<(), String> {
        self.write(SIGNAL, "").map(|_| ())
    }

    /// Writes a file in the data directory; whether it says something new.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<bool, String> {
        let path = self.data.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(false);
        }
        let written = std::fs::write(&path, text).and_then(|()| give_away(&path));
        written.map(|()| true).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A new, empty cluster with CloudNativePG's users and files.
    pub(crate) async fn initdb(&self) -> Result<(), String> {
        let arguments = [
            "-D",
            self.data_dir(),
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--no-sync",
            "--no-instructions",
        ];
        self.run("initdb", &arguments).await?;
        let conf = std::fs::read_to_string(self.data.join("postgresql.conf"));
        let conf = conf.map_err(|error| error.to_string())?;
        self.write(
            "postgresql.conf",
            &format!("{conf}\ninclude 'custom.conf'\ninclude_if_exists 'override.conf'\n"),
        )?;
        // CloudNativePG has `hostssl … cert` for what comes over the network; the double has no certificates.
        self.write(
            "pg_hba.conf",
            "local all all peer map=local\nhost all all 127.0.0.0/8 trust\n\
             host replication streaming_replica 127.0.0.0/8 trust\n",
        )?;
        // Whoever runs the tests asks as the pod's user does.
        self.write("pg_ident.conf", "local postgres postgres\nlocal root postgres\n")?;
        Ok(())
    }

    /// What the job of `initdb` does in a server nobody can reach yet.
    pub(crate) async fn first_users(&self) -> Result<(), String> {
        let sql = [
            "CREATE ROLE streaming_replica LOGIN REPLICATION",
            "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), \
             pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) \
             TO streaming_replica",
            "CREATE ROLE app LOGIN",
            "CREATE DATABASE app OWNER app",
        ];
        for statement in sql {
            self.sql(statement).await?;
        }
        Ok(())
    }

    /// A copy of what `conninfo` reaches.
    pub(crate) async fn copy_from(&self, conninfo: &str) -> Result<(), String> {
        let arguments =
            ["-D", self.data_dir(), "-d", conninfo, "--no-sync", "-X", "stream", "-c", "fast"];
        if let Err(error) = self.run("pg_basebackup", &arguments).await {
            let _ = std::fs::remove_dir_all(&self.data);
            return Err(error);
        }
        self.make_standby()
    }

    /// Takes back what the server `conninfo` reaches does not have.
    pub(crate) async fn rewind(&self, conninfo: &str) -> Result<(), String> {
        let source = format!("--source-server={conninfo} dbname=postgres");
        self.run("pg_rewind", &["-D", self.data_dir(), &source, "--no-sync"]).await.map(|_| ())
    }

    /// Starts the server as a child.
    pub(crate) fn start(&self) -> Result<Child, String> {
        let log = self.socket.join("postgres.log");
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let (out, err) =
            open().and_then(|out| Ok((out, open()?))).map_err(|error| error.to_string())?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data).stdout(out).stderr(err);
        command.spawn().map_err(|error| format!("postgres: {error}"))
    }

    /// Asks the server to stop, waits so many seconds.
    pub(crate) async fn stop(&self, mode: &str, seconds: u64) -> Result<(), String> {
        let seconds = seconds.min(PATIENCE.as_secs() - 5).to_string();
        let arguments = ["stop", "-D", self.data_dir(), "-m", mode, "-w", "-t", &seconds];
        self.run("pg_ctl", &arguments).await.map(|_| ())
    }

    /// Reads its configuration again.
    pub(crate) async fn reload(&self) -> Result<(), String> {
        self.run("pg_ctl", &["reload", "-D", self.data_dir()]).await.map(|_| ())
    }

    /// Makes a standby a primary.
    pub(crate) async fn promote(&self) -> Result<(), String> {
        self.run("pg_ctl", &["promote", "-D", self.data_dir(), "-w"]).await.map(|_| ())
    }

    /// What `pg_controldata` says.
    pub(crate) async fn control(&self) -> Result<String, String> {
        self.run("pg_controldata", &["-D", self.data_dir()]).await
    }

    /// The first column of the first row of a statement, over the socket.
    pub(crate) async fn sql(&self, statement: &str) -> Result<String, String> {
        self.ask(statement, STATEMENT).await
    }

    /// The same with a limit of one's own.
    pub(crate) async fn ask(&self, statement: &str, limit: Duration) -> Result<String, String> {
        let work = async {
            let mut config = tokio_postgres::Config::new();
            config.host_path(&self.socket).port(self.port).user("postgres").dbname("postgres");
            config.application_name("cnpg-instance-manager");
            let (client, connection) = config.connect(NoTls).await.map_err(told)?;
            let connection = tokio::spawn(connection);
            let rows = client.simple_query(statement).await.map_err(told);
            connection.abort();
            let first = rows?.into_iter().find_map(|message| {
                if let SimpleQueryMessage::Row(row) = message {
                    Some(row.get(0).unwrap_or_default().to_owned())
                } else {
                    None
                }
            });
            Ok::<String, String>(first.unwrap_or_default())
        };
        timeout(limit, work).await.map_err(|_| format!("no answer for {limit:?}: {statement}"))?
    }

    /// End of the server's log, for messages.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.socket.join("postgres.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

fn told(error: tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}
