//! Connections: the superuser's over the Unix socket, and what an answer that is not rows means.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::{Uid, set_thread_uid};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, Config, NoTls};

use super::place::Place;

/// What stands in the way of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::database) enum Trouble {
    /// Nobody listens on the socket.
    NotListening(String),
    /// Starting up or shutting down: it answers, but not to questions.
    NotReady,
    /// No connection left.
    Exhausted,
    /// It does not let us in.
    Denied(String),
    /// No space left.
    DiskFull(String),
    /// The connection broke, or there is no room to connect.
    Lost(String),
    /// The server answered with an error.
    Answered(String),
}

impl Trouble {
    /// The server itself said it, so it is alive.
    pub(in crate::database) fn is_answer(&self) -> bool {
        match self {
            Self::NotReady
            | Self::Exhausted
            | Self::Denied(_)
            | Self::DiskFull(_)
            | Self::Answered(_) => true,
            Self::NotListening(_) | Self::Lost(_) => false,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("the server is starting up or shutting down"),
            Self::Exhausted => f.write_str("the server has no connection left"),
            Self::NotListening(text)
            | Self::Denied(text)
            | Self::DiskFull(text)
            | Self::Lost(text)
            | Self::Answered(text) => f.write_str(text),
        }
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(answer) => Self::of(answer),
            None => Self::Lost(chain(&error)),
        }
    }
}

impl Trouble {
    fn of(answer: &DbError) -> Self {
        let text = format!("{} ({})", answer.message(), answer.code().code());
        let code = answer.code();
        if *code == SqlState::CANNOT_CONNECT_NOW {
            Self::NotReady
        } else if *code == SqlState::TOO_MANY_CONNECTIONS {
            Self::Exhausted
        } else if *code == SqlState::DISK_FULL {
            Self::DiskFull(text)
        } else if [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code) {
            Self::Lost(text)
        } else if code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME {
            Self::Denied(text)
        } else {
            Self::Answered(text)
        }
    }
}

/// An error with its causes.
pub(in crate::database) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// An open connection; dropping it closes it.
#[derive(Debug)]
pub(in crate::database) struct Session {
    pub(in crate::database) client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// False once the connection is known to be broken.
    pub(in crate::database) fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    /// Connects as the superuser over the Unix socket. The caller bounds it in time.
    pub(in crate::database) async fn open(place: &Place) -> Result<Self, Trouble> {
        let stream = dial(place).await?;
        let mut config = Config::new();
        config
            .user(&place.at.superuser)
            .dbname(&place.at.database)
            .application_name("harmony-agent")
            .options(options(place.major));
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        Ok(Self { client, driver: tokio::spawn(drive(connection)) })
    }

    /// Connects over TCP as `user` to another member.
    pub(in crate::database) async fn remote(
        host: &str,
        port: u16,
        user: &str,
        password: Option<&str>,
        database: &str,
        limit: Duration,
    ) -> Result<Self, Trouble> {
        let mut config = Config::new();
        config
            .host(host)
            .port(port)
            .user(user)
            .dbname(database)
            .application_name("harmony-agent")
            .options("-c search_path=pg_catalog")
            .connect_timeout(limit)
            .tcp_user_timeout(limit)
            .keepalives_idle(Duration::from_secs(1));
        if let Some(password) = password {
            config.password(password);
        }
        match tokio::time::timeout(limit, config.connect(NoTls)).await {
            Ok(result) => {
                let (client, connection) = result?;
                Ok(Self { client, driver: tokio::spawn(drive(connection)) })
            }
            Err(_) => Err(Trouble::Lost(format!("{host}:{port} did not answer within {limit:?}"))),
        }
    }
}

async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // Whoever asks next learns that it broke, and why.
    let _ = connection.await;
}

/// Settings of our sessions, whatever the user's defaults are.
fn options(major: u32) -> String {
    let mut text = String::from(
        "-c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0 \
         -c idle_in_transaction_session_timeout=0 -c synchronous_commit=local -c jit=off \
         -c default_transaction_read_only=off -c log_min_duration_statement=-1",
    );
    if major >= 14 {
        text.push_str(" -c idle_session_timeout=0");
    }
    text
}

/// Connects to the Unix socket as PostgreSQL's account, so that `peer` knows who it is.
async fn dial(place: &Place) -> Result<UnixStream, Trouble> {
    let path = place.socket();
    let uid = place.account.switch.then_some(place.account.uid);
    let at = path.clone();
    let connected = match uid {
        None => connect_now(&at),
        // The kernel notes a socket's user at connect. Only this thread changes its user, and ends.
        Some(uid) => {
            let (answer, connected) = tokio::sync::oneshot::channel();
            std::thread::Builder::new()
                .name("dial".to_owned())
                .spawn(move || {
                    let result = set_thread_uid(Uid::from_raw(uid)).and_then(|()| connect_now(&at));
                    // Nobody waits any more: the socket closes.
                    let _ = answer.send(result);
                })
                .map_err(|error| Trouble::Lost(format!("cannot start a thread: {error}")))?;
            connected.await.unwrap_or(Err(Errno::CANCELED))
        }
    };
    let failed = |error: io::Error| format!("cannot connect to {}: {error}", path.display());
    let fd = connected.map_err(|errno| {
        let text = failed(io::Error::from(errno));
        if [Errno::NOENT, Errno::CONNREFUSED].contains(&errno) {
            Trouble::NotListening(text)
        } else if [Errno::ACCESS, Errno::PERM].contains(&errno) {
            Trouble::Denied(text)
        } else {
            Trouble::Lost(text)
        }
    })?;
    UnixStream::from_std(StdStream::from(fd)).map_err(|error| Trouble::Lost(failed(error)))
}

/// Connects without ever waiting: a full queue is `EAGAIN`, as when the postmaster is stopped.
fn connect_now(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &address)?;
    Ok(fd)
}

/// Whether the socket at `path` takes connections.
pub(in crate::database) fn is_listening(place: &Place) -> bool {
    match connect_now(&place.socket()) {
        Ok(_) => true,
        Err(errno) => ![Errno::NOENT, Errno::CONNREFUSED].contains(&errno),
    }
}
