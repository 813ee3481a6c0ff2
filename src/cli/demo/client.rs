//! The clients: one that follows the primary, and one pinned to each member.
//!
//! They live on a thread of their own, so that what the rest of the demo does is not mistaken for
//! a gap, and acknowledgements are noted in the order they arrive.

use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls};
use tokio_util::sync::CancellationToken;

use super::ledger::{Ack, SharedLedger, Writer};
use crate::postmaster::now;

/// Time between two rows of the following client.
const PACE: Duration = Duration::from_millis(5);
/// Time between two tries of a pinned writer: it is a witness, not the load.
const PINNED_PACE: Duration = Duration::from_millis(10);
/// How long a connection may take before the next host is tried.
const CONNECT: Duration = Duration::from_millis(200);
/// Pause after all hosts were tried in vain.
const BACK_OFF: Duration = Duration::from_millis(3);
/// An answer later than this is none: what became of the row is not known.
const ANSWER: Duration = Duration::from_secs(2);

const INSERT: &str = "insert into demo (run, writer, seq) values ($1, $2, $3) \
     returning substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";

/// A member as clients see it.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Address of its PostgreSQL.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
}

impl Host {
    fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user("postgres")
            .dbname("postgres")
            .application_name("harmony-demo")
            .connect_timeout(CONNECT)
            // A refused write is what a pinned writer expects: no reason to fill the server's log.
            .options("-c statement_timeout=2s -c log_min_messages=panic");
        config
    }

    /// A session for questions.
    ///
    /// # Errors
    /// It does not let us in.
    pub(super) async fn session(&self) -> Result<Client, tokio_postgres::Error> {
        open(&self.config()).await
    }
}

async fn open(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client; its error reaches the client, too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Makes the table the clients write to.
///
/// # Errors
/// The primary refuses.
pub(super) async fn make_table(primary: &Host) -> anyhow::Result<()> {
    let client = primary.session().await.context("connect to the primary")?;
    let sql = "create table if not exists demo (run int, writer text, seq bigint)";
    client.batch_execute(sql).await.context("create the table of the demo")
}

/// The rows of `run` that `primary` has.
///
/// # Errors
/// The primary does not answer.
pub(super) async fn rows(primary: &Host, run: i32) -> anyhow::Result<BTreeSet<(String, i64)>> {
    let client = primary.session().await.context("connect to the primary")?;
    let rows = client
        .query("select writer, seq from demo where run = $1", &[&run])
        .await
        .context("read the rows that were kept")?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The clients of one run, writing until dropped.
#[derive(Debug)]
pub(super) struct Clients {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    /// Starts one client that follows the primary among `hosts`, and one pinned to each.
    ///
    /// # Errors
    /// There is no thread or runtime to be had.
    pub(super) fn start(hosts: Vec<Host>, run: i32, ledger: &SharedLedger) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the clients")?;
        let stop = CancellationToken::new();
        let (ledger, token) = (ledger.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("clients".to_owned())
            .spawn(move || runtime.block_on(write(hosts, run, ledger, token)))
            .context("start the clients")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops them; afterwards nothing more is acknowledged.
    ///
    /// # Errors
    /// They had a panic.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let joined = self.thread.take().map_or(Ok(()), JoinHandle::join);
        joined.map_err(|_| anyhow!("the demo's clients panicked; their figures are not to be used"))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn write(hosts: Vec<Host>, run: i32, ledger: SharedLedger, stop: CancellationToken) {
    let pen =
        |writer: Writer| Pen { run, writer, name: writer.name(), seq: 0, ledger: ledger.clone() };
    let pinned = hosts.iter().enumerate().map(|(i, host)| pinned(i, host, pen(Writer::Pinned(i))));
    let everyone = futures_util::future::join(
        follow(&hosts, pen(Writer::Following)),
        futures_util::future::join_all(pinned),
    );
    tokio::select! {
        _ = everyone => {}
        () = stop.cancelled() => {}
    }
}

/// Writes rows and notes what was acknowledged.
struct Pen {
    run: i32,
    writer: Writer,
    name: String,
    seq: i64,
    ledger: SharedLedger,
}

/// What became of one row.
enum Written {
    Acknowledged,
    /// The member does not take writes; the session is good.
    ReadOnly,
    /// The session is not to be used any more; nobody knows about the row.
    Broken,
}

impl Pen {
    async fn write(&mut self, client: &Client, member: usize) -> Written {
        self.seq += 1;
        let types = [
            (&self.run as _, Type::INT4),
            (&self.name as _, Type::TEXT),
            (&self.seq as _, Type::INT8),
        ];
        // One round trip, and complete only with ReadyForQuery: that is after the commit.
        let answer = timeout(ANSWER, client.query_typed(INSERT, &types)).await;
        let rows = match answer {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                return Written::ReadOnly;
            }
            Ok(Err(_)) | Err(_) => return Written::Broken,
        };
        let at = now();
        let timeline = rows.first().and_then(|row| row.try_get::<_, &str>(0).ok());
        let timeline = timeline.and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0);
        let (writer, seq) = (self.writer, self.seq);
        self.ledger.lock().push(Ack { at, writer, member, timeline, seq });
        Written::Acknowledged
    }
}

/// As libpq with several hosts and `target_session_attrs=read-write`, reconnecting at once.
async fn follow(hosts: &[Host], mut pen: Pen) {
    let configs: Vec<Config> = hosts
        .iter()
        .map(|host| {
            let mut config = host.config();
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            config
        })
        .collect();
    loop {
        for (member, config) in configs.iter().enumerate() {
            // The limit of the socket does not cover the greeting.
            let Ok(Ok(client)) = timeout(CONNECT, open(config)).await else { continue };
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                match pen.write(&client, member).await {
                    Written::Acknowledged => {}
                    Written::ReadOnly | Written::Broken => break,
                }
            }
        }
        sleep(BACK_OFF).await;
    }
}

async fn pinned(member: usize, host: &Host, mut pen: Pen) {
    let config = host.config();
    loop {
        if let Ok(Ok(client)) = timeout(CONNECT, open(&config)).await {
            while let Written::Acknowledged | Written::ReadOnly = pen.write(&client, member).await {
                sleep(PINNED_PACE).await;
            }
        }
        sleep(PINNED_PACE).await;
    }
}
