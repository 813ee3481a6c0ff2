//! Clients of a member: questions by psql, a client that writes all the time, and clients pinned to
//! each member that note what was acknowledged by whom, and when.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, Config, NoTls};

use super::cluster::{Member, until};
use crate::support::postgres::bin_dir;

/// Time between two tries of a pinned client.
const PACE: Duration = Duration::from_millis(10);
/// An answer later than this is none.
const ANSWER: Duration = Duration::from_secs(2);

/// Two changes of the primary take longer than this: each has a stop, a lease and a promotion.
const TWO_CHANGES: Duration = Duration::from_millis(400);

impl Member {
    /// Runs SQL by psql.
    pub(crate) fn sql(&self, sql: &str) -> Result<String, String> {
        let output = self.psql(sql).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// psql with one statement, to be run.
    pub(crate) fn psql(&self, sql: &str) -> Command {
        let mut command = self.session();
        command.args(["-c", sql]);
        command
    }

    /// psql that reads statements, to be run.
    pub(crate) fn session(&self) -> Command {
        let mut command = self.tool("psql");
        command
            .env("PGCONNECT_TIMEOUT", "2")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres"])
            .arg("-h")
            .arg(self.socket_dir())
            .arg("-p")
            .arg(self.port.to_string());
        command
    }

    /// A program of PostgreSQL, run as its account.
    pub(crate) fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(bin_dir().join(name));
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Whether a server that accepts writes runs here.
    pub(crate) fn is_writable(&self) -> bool {
        self.sql("create temp table x (n int)").is_ok()
    }

    /// Lets clients on this machine in over TCP; a copy of this member inherits it.
    pub(crate) fn let_clients_in(&self) {
        let path = self.data_dir().join("pg_hba.conf");
        let rules = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("host all postgres 127.0.0.1/32 trust\n{rules}")).unwrap();
        self.sql("select pg_reload_conf()").unwrap();
    }

    /// Writes all the time from now on.
    pub(crate) fn writer(&self) -> Writer {
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let mut command = self.psql("insert into t values (1)");
        let thread = std::thread::spawn(move || {
            let (mut count, mut gap, mut last) = (0, Duration::ZERO, Instant::now());
            while !told.load(Ordering::Relaxed) {
                if command.stderr(Stdio::null()).status().unwrap().success() {
                    count += 1;
                    gap = gap.max(last.elapsed());
                    last = Instant::now();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            (count, gap.max(last.elapsed()))
        });
        Writer { end, thread }
    }
}

/// A client that writes all the time.
pub(crate) struct Writer {
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u32, Duration)>,
}

impl Writer {
    /// How many commits were acknowledged, and the longest time without one.
    pub(crate) fn stop(self) -> (u32, Duration) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// An acknowledged commit: when it arrived, and the index of the member.
type Ack = (Instant, usize);

/// When the statement of a commit that was acknowledged was sent, on the clock of the store.
type Sent = (Duration, usize);

/// The clock by which the store says when something was written: that of the machine since it was started.
pub(crate) fn store_clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap()
}

/// One client pinned to each of some members. All write all the time, wherever it is accepted.
pub(crate) struct Pinned {
    end: Arc<AtomicBool>,
    acks: Arc<Mutex<Vec<Ack>>>,
    sent: Arc<Mutex<Vec<Sent>>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Logs of the members, to be shown when one of them is waited for in vain.
    logs: Vec<PathBuf>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // A test that is being left has more to say than its clients.
        let _ended = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl Pinned {
    /// Starts one client for each member. One thread receives all answers, in the order they come.
    pub(crate) fn start(members: &[&Member]) -> Self {
        let (end, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
        let sent = Arc::default();
        let (told, noted) = (Arc::clone(&end), (Arc::clone(&acks), Arc::clone(&sent)));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let clients = ports
                .iter()
                .enumerate()
                .map(|(member, port)| write(member, *port, Arc::clone(&told), noted.clone()));
            runtime.unwrap().block_on(futures_util::future::join_all(clients));
        });
        let logs = members.iter().map(|member| member.dir.join("agent.log")).collect();
        Self { end, acks, sent, thread: Some(thread), logs }
    }

    fn acks(&self) -> Vec<Ack> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was sent and acknowledged, by whom, in the order of the acknowledgements.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many commits the member has acknowledged so far.
    pub(crate) fn count(&self, member: usize) -> usize {
        self.acks().iter().filter(|(_, by)| *by == member).count()
    }

    /// The time without an acknowledgement at which `to` began to acknowledge, after `from`, and the longest
    /// one since then.
    pub(crate) fn silences(&self, from: Instant, to: usize) -> Option<[Duration; 2]> {
        let acks = self.acks();
        let pairs = acks.windows(2).filter(|pair| pair[1].0 > from);
        let mut pairs = pairs.skip_while(|pair| pair[0].1 == to || pair[1].1 != to);
        let mut silence = || pairs.next().map(|pair| pair[1].0 - pair[0].0);
        let change = silence()?;
        Some([change, std::iter::from_fn(silence).max().unwrap_or_default()])
    }

    /// Waits until the member acknowledges commits, from now on.
    pub(crate) fn until_acknowledges(&self, member: usize) {
        let before = self.count(member);
        until("commits are acknowledged", || {
            let more = self.count(member) - before;
            (more >= 5).then_some(()).ok_or_else(|| {
                let logs = self.logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default());
                format!("{more} by member {member}\n{}", logs.collect::<Vec<_>>().join("\n"))
            })
        });
    }

    /// Ends the clients: whose turn it was to acknowledge, from when until when.
    fn turns(&mut self) -> Vec<(usize, Instant, Instant)> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let acks = self.acks();
        let mut turns: Vec<(usize, Instant, Instant)> = Vec::new();
        for (at, member) in acks {
            match turns.last_mut() {
                Some((last, _, until)) if *last == member => *until = at,
                Some(_) | None => turns.push((member, at, at)),
            }
        }
        turns
    }

    /// Ends the clients. No member acknowledged again so soon after another one that nobody can have
    /// handed over twice meanwhile.
    pub(crate) fn assert_never_at_once(mut self) {
        let turns = self.turns();
        for three in turns.windows(3) {
            let between = three[2].1 - three[0].2;
            let told = || self.logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default());
            assert!(
                between > TWO_CHANGES,
                "{between:?} for two changes: {turns:?}\n{}",
                told().collect::<Vec<_>>().join("\n")
            );
        }
    }

    /// Ends the clients. The members must have acknowledged one after the other, in this order.
    pub(crate) fn assert_one_after_the_other(mut self, order: &[usize]) {
        let turns = self.turns();
        for pair in turns.windows(2) {
            println!("{:?} without an acknowledgement", pair[1].1 - pair[0].2);
        }
        let members: Vec<usize> = turns.iter().map(|(member, ..)| *member).collect();
        assert_eq!(members, order, "members by turns of acknowledging: {turns:?}");
    }
}

type Noted = (Arc<Mutex<Vec<Ack>>>, Arc<Mutex<Vec<Sent>>>);

async fn write(member: usize, port: u16, end: Arc<AtomicBool>, (acks, sent): Noted) {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").dbname("postgres").connect_timeout(ANSWER);
    let mut client: Option<Client> = None;
    while !end.load(Ordering::Relaxed) {
        match client.take().filter(|client| !client.is_closed()) {
            Some(connected) => {
                let sql = "insert into t values (2)";
                let began = store_clock();
                let answer = timeout(ANSWER, connected.batch_execute(sql)).await;
                if matches!(answer, Ok(Ok(()))) {
                    let ack = (Instant::now(), member);
                    acks.lock().unwrap_or_else(PoisonError::into_inner).push(ack);
                    sent.lock().unwrap_or_else(PoisonError::into_inner).push((began, member));
                }
                client = answer.is_ok().then_some(connected);
            }
            None => {
                if let Ok(Ok((connected, connection))) =
                    timeout(ANSWER, config.connect(NoTls)).await
                {
                    // Ends with the client; its error reaches the client, too.
                    tokio::spawn(async move { drop(connection.await) });
                    client = Some(connected);
                }
            }
        }
        sleep(PACE).await;
    }
}
