//! Clients that write all the time: one pinned to each member, from inside its machine, so that no
//! cut hides what it accepts; and one over the network that goes wherever writes are accepted.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::history::Commit;

/// Time between two tries.
const PACE: Duration = Duration::from_millis(8);
const CONNECT: Duration = Duration::from_secs(2);

/// Where a member is reached.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) socket_dir: PathBuf,
    pub(super) address: String,
}

/// The clients of a round.
pub(super) struct Clients {
    end: Arc<AtomicBool>,
    commits: Arc<Mutex<Vec<Commit>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Clients {
    /// Starts them. An answer later than `patience` is none.
    pub(super) fn start(doors: &[Door], patience: Duration) -> Self {
        let (end, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut clients: Vec<Writer> = Vec::new();
        for client in 0..=doors.len() {
            let pinned = (client < doors.len()).then_some(client);
            clients.push(Writer {
                client,
                doors: doors.to_vec(),
                pinned,
                patience,
                number: 0,
                end: Arc::clone(&end),
                commits: Arc::clone(&commits),
            });
        }
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let clients = clients.into_iter().map(Writer::run);
            runtime.unwrap().block_on(futures_util::future::join_all(clients));
        });
        Self { end, commits, thread: Some(thread) }
    }

    /// What was acknowledged so far.
    pub(super) fn commits(&self) -> Vec<Commit> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last acknowledged commit.
    pub(super) fn last(&self) -> Option<Commit> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// Ends them; what was acknowledged.
    pub(super) fn stop(mut self) -> Vec<Commit> {
        self.finish();
        self.commits()
    }

    fn finish(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // A round that is being left has more to say than its clients.
        let _ended = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

struct Writer {
    client: usize,
    doors: Vec<Door>,
    pinned: Option<usize>,
    patience: Duration,
    number: u64,
    end: Arc<AtomicBool>,
    commits: Arc<Mutex<Vec<Commit>>>,
}

impl Writer {
    async fn run(mut self) {
        let mut connected: Option<(Client, usize)> = None;
        let mut next = 0;
        while !self.end.load(Ordering::Relaxed) {
            connected = connected.filter(|(client, _)| !client.is_closed());
            match &connected {
                Some((client, member)) => {
                    if !self.write(client, *member).await {
                        connected = None;
                    }
                }
                None => {
                    let member = self.pinned.unwrap_or(next % self.doors.len());
                    next += 1;
                    connected = self.connect(member).await.map(|client| (client, member));
                }
            }
            sleep(PACE).await;
        }
    }

    async fn connect(&self, member: usize) -> Option<Client> {
        let mut config = Config::new();
        config.user("postgres").dbname("postgres").port(5432).connect_timeout(CONNECT);
        let door = &self.doors[member];
        if self.pinned.is_some() {
            config.host_path(&door.socket_dir);
        } else {
            config.host(&door.address).target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let (client, connection) = timeout(CONNECT, config.connect(NoTls)).await.ok()?.ok()?;
        // Ends with the client; its error reaches the client, too.
        tokio::spawn(async move { drop(connection.await) });
        Some(client)
    }

    /// One commit; whether the connection may be used again. It is the simple protocol on purpose:
    /// there the statement is complete when it is committed, in the extended one before.
    async fn write(&mut self, client: &Client, member: usize) -> bool {
        self.number += 1;
        let sql = format!(
            "insert into soak values ({}, {}) returning pg_walfile_name(pg_current_wal_insert_lsn())",
            self.client, self.number
        );
        let sent = Instant::now();
        let answer = timeout(self.patience, client.simple_query(&sql)).await;
        let acknowledged = Instant::now();
        let Ok(Ok(messages)) = answer else {
            // Refused on a standby, which may become a primary: the connection stays.
            return answer.is_ok_and(|answer| answer.is_err_and(|why| why.code().is_some()));
        };
        let file = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let timeline = file.and_then(|file| u32::from_str_radix(file.get(..8)?, 16).ok());
        let commit = Commit {
            client: self.client,
            number: self.number,
            member,
            timeline: timeline.unwrap_or(0),
            sent,
            acknowledged,
        };
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).push(commit);
        true
    }
}
