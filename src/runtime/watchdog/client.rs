//! The agent's side: keeps a watchdog running, tells it the guard, and publishes how it is.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix, connect, recv, send};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::frame::{Answer, Order, Reply, Request, SIZE};
use super::process::socket;
use super::warden::{Phase, Status};
use crate::core::event::{Guard, WatchdogStatus};
use crate::core::ids::Epoch;
use crate::core::time::Instant;
use crate::postmaster::now;
use crate::supervise::{self, End as Ended};

/// The keeper's name in logs.
const NAME: &str = "watchdog keeper";

/// Time a started watchdog has until it answers; also for its first words.
const START: Duration = Duration::from_secs(3);
/// Silence after which it is asked how it is, and what it missed is said again.
const QUIET: Duration = Duration::from_secs(1);
/// Silence after which it counts as down. It is silent for a second at most, while it kills.
const STALL: Duration = Duration::from_secs(4);
/// Pause before the first new attempt; doubles up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Time between two looks for the socket of a watchdog that starts.
const LOOK: Duration = Duration::from_millis(10);

/// What to run, and for which instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This program.
    pub exe: PathBuf,
    /// Where the watchdog listens: in the agent's state directory, at most 107 bytes long.
    pub socket: PathBuf,
    /// The instance's data directory.
    pub data_dir: PathBuf,
    /// Where something else than the agent starts PostgreSQL: its port, by which what is down is kept so, too.
    pub hold_port: Option<u16>,
}

/// Firings of the watchdog that was last spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// How often it fired since it started.
    pub count: u64,
    /// The epoch of the last time.
    pub epoch: Epoch,
    /// The last kill is proven: nothing of the instance was left.
    pub proven: bool,
    /// Process id of the watchdog; the count starts again with another one.
    pub watchdog: u32,
}

/// A watchdog, kept running. Dropping it leaves the watchdog to its deadline.
#[derive(Debug)]
pub struct Client {
    wish: watch::Sender<Wish>,
    status: watch::Receiver<WatchdogStatus>,
    fired: watch::Receiver<Fired>,
    task: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    guard: Option<Guard>,
    quit: bool,
}

impl Client {
    /// Connects to the watchdog that serves the socket, or starts one; within a running tokio
    /// runtime. Until the first [`Client::arm`] a deadline that is armed already stands.
    pub fn start(settings: Settings) -> Self {
        let (wish, wishes) = watch::channel(Wish::default());
        let (status_out, status) = watch::channel(WatchdogStatus::Down);
        let (fired_out, fired) = watch::channel(Fired::default());
        let keeper = Keeper {
            settings,
            wishes,
            status: status_out,
            fired: fired_out,
            number: 0,
            armed_epoch: None,
        };
        // What it knows outlives a run of it that breaks.
        let keeper = Arc::new(Mutex::new(keeper));
        let run = move || {
            let keeper = Arc::clone(&keeper);
            async move {
                let mut keeper = keeper.lock().await;
                // However it ends, nobody speaks for the watchdog then.
                let _down = DownAtEnd(keeper.status.clone());
                keeper.run().await
            }
        };
        Self { wish, status, fired, task: supervise::keep(NAME, run) }
    }

    /// Tells the watchdog what to guard; returns at once. It is in force when [`Client::status`]
    /// says so. The latest guard counts, and is told again to every new watchdog.
    pub fn arm(&self, guard: Guard) {
        self.wish.send_modify(|wish| wish.guard = Some(guard));
    }

    /// How the watchdog is, by its own word: `Armed` only with the deadline it acknowledged. While
    /// it is killing that deadline lies in the past; after the proof it is `Idle`.
    pub fn status(&self) -> watch::Receiver<WatchdogStatus> {
        self.status.clone()
    }

    /// What it fired at, also before this agent started.
    pub fn fired(&self) -> watch::Receiver<Fired> {
        self.fired.clone()
    }

    /// Ends the watchdog if it has nothing to guard, and otherwise leaves it to its deadline; within
    /// `limit`.
    pub async fn quit(mut self, limit: Duration) {
        self.wish.send_modify(|wish| wish.quit = true);
        // Too late is no error: the watchdog lingers and goes by itself.
        let _ = timeout(limit, &mut self.task).await;
    }
}

fn publish(to: &watch::Sender<WatchdogStatus>, status: WatchdogStatus) {
    to.send_if_modified(|last| std::mem::replace(last, status) != status);
}

struct DownAtEnd(watch::Sender<WatchdogStatus>);

impl Drop for DownAtEnd {
    fn drop(&mut self) {
        publish(&self.0, WatchdogStatus::Down);
    }
}

/// How a connection ended.
enum End {
    Quit,
    Lost(io::Error),
}

struct Keeper {
    settings: Settings,
    wishes: watch::Receiver<Wish>,
    status: watch::Sender<WatchdogStatus>,
    fired: watch::Sender<Fired>,
    number: u64,
    /// The newest epoch this agent armed. It may release that one, not a successor's.
    armed_epoch: Option<Epoch>,
}

impl Keeper {
    async fn run(&mut self) -> Ended {
        let mut backoff = BACKOFF;
        loop {
            let began = now();
            let error = match self.session().await {
                End::Quit => return Ended::Done,
                End::Lost(error) => error,
            };
            self.publish(WatchdogStatus::Down);
            tracing::warn!(%error, "the watchdog is down");
            if self.wishes.borrow().quit {
                return Ended::Done;
            }
            if now().since(began) > STALL {
                backoff = BACKOFF;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn session(&mut self) -> End {
        let (link, hello) = match self.connect().await {
            Ok(connected) => connected,
            Err(error) => return End::Lost(error),
        };
        tracing::info!(pid = hello.pid, status = ?hello.status, "connected to the watchdog");
        self.hear(hello);
        match self.converse(&link, hello.status).await {
            Ok(()) => End::Quit,
            Err(error) => End::Lost(error),
        }
    }

    /// Says what is wished whenever the wish changes or the watchdog is quiet, and hears replies.
    async fn converse(&mut self, link: &Link, mut theirs: Status) -> io::Result<()> {
        let mut unanswered: Option<Instant> = None;
        loop {
            let wish = *self.wishes.borrow_and_update();
            let guarding = theirs.phase != Phase::Idle && wish.guard != Some(Guard::Released);
            if wish.quit && guarding {
                return Ok(());
            }
            let order = self.order(wish, theirs, now());
            let quitting = wish.quit && matches!(order, Order::Quit);
            self.say(link, order).await?;
            let asked = now();
            unanswered = unanswered.or(Some(asked));
            loop {
                let ask_again = QUIET.saturating_sub(now().since(asked));
                tokio::select! {
                    biased;
                    reply = link.receive() => match reply {
                        Ok(reply) => {
                            unanswered = None;
                            theirs = reply.status;
                            self.hear(reply);
                            if wish.quit && !quitting && theirs.phase == Phase::Idle {
                                break;
                            }
                        }
                        Err(_) if quitting => return Ok(()),
                        Err(error) => return Err(error),
                    },
                    changed = self.wishes.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        break;
                    }
                    () = sleep(ask_again) => break,
                }
            }
            if unanswered.is_some_and(|since| now().since(since) > STALL) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
            }
        }
    }

    /// What to say: the guard while the watchdog does not have it, else a mere ping.
    fn order(&self, wish: Wish, theirs: Status, now: Instant) -> Order {
        let idle = theirs.phase == Phase::Idle;
        match wish.guard {
            _ if wish.quit && idle => Order::Quit,
            Some(Guard::Until(deadline, epoch)) if deadline > now => {
                let has = theirs.phase == Phase::Armed
                    && (theirs.epoch > epoch
                        || theirs.epoch == epoch && theirs.deadline >= deadline);
                if has { Order::Ping } else { Order::Arm(deadline, epoch) }
            }
            Some(Guard::Released) if !idle => {
                Order::Release(self.armed_epoch.unwrap_or(theirs.epoch))
            }
            Some(Guard::Until(..) | Guard::Released) | None => Order::Ping,
        }
    }

    async fn say(&mut self, link: &Link, order: Order) -> io::Result<()> {
        if let Order::Arm(_, epoch) = order {
            self.armed_epoch = self.armed_epoch.max(Some(epoch));
        }
        self.number += 1;
        bounded(STALL, link.send(Request { number: self.number, order })).await
    }

    fn hear(&self, reply: Reply) {
        let status = reply.status;
        match reply.answer {
            Answer::Refused(refusal) => {
                tracing::warn!(?refusal, ?status, "the watchdog refused an order");
            }
            Answer::Fired => tracing::error!(?status, "the watchdog fired"),
            Answer::Hello | Answer::Done => {}
        }
        let fired = Fired {
            count: status.fired,
            epoch: status.fired_epoch,
            proven: status.fired > 0 && status.phase != Phase::Firing,
            watchdog: reply.pid,
        };
        self.fired.send_if_modified(|last| std::mem::replace(last, fired) != fired);
        self.publish(match status.phase {
            Phase::Idle | Phase::Fired => WatchdogStatus::Idle,
            Phase::Armed | Phase::Firing => WatchdogStatus::Armed(status.deadline),
        });
    }

    fn publish(&self, status: WatchdogStatus) {
        publish(&self.status, status);
    }

    /// The watchdog that is there, or a new one.
    async fn connect(&self) -> io::Result<(Link, Reply)> {
        let link = match Link::open(&self.settings.socket) {
            Ok(link) => link,
            Err(_) => {
                self.spawn()?;
                bounded(START, self.look_for_socket()).await?
            }
        };
        let hello = bounded(START, link.receive()).await?;
        match hello.answer {
            Answer::Hello => Ok((link, hello)),
            Answer::Done | Answer::Refused(_) | Answer::Fired => Err(garbled()),
        }
    }

    async fn look_for_socket(&self) -> io::Result<Link> {
        loop {
            match Link::open(&self.settings.socket) {
                Ok(link) => return Ok(link),
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// Starts one. With no pipe or directory of ours, so that it neither hangs nor dies with us.
    fn spawn(&self) -> io::Result<()> {
        let mut command = tokio::process::Command::new(&self.settings.exe);
        command.arg("watchdog");
        if let Some(port) = self.settings.hold_port {
            command.args(["--hold-port", &port.to_string()]);
        }
        let mut child = command
            .arg("--socket")
            .arg(&self.settings.socket)
            .arg("--data-dir")
            .arg(&self.settings.data_dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        tokio::spawn(async move {
            let status = child.wait().await;
            tracing::info!(?status, "a watchdog ended");
        });
        Ok(())
    }
}

async fn bounded<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it speaks another version, or garbage")
}

/// A connection. It carries packets, though tokio only knows streams: only the calls for packets
/// read and write it.
struct Link(UnixStream);

impl Link {
    fn open(path: &std::path::Path) -> io::Result<Self> {
        let socket = socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(UnixStream::from_std(socket.into())?))
    }

    async fn send(&self, request: Request) -> io::Result<()> {
        let frame = request.encode();
        let sent = || Ok(retry(|| send(&self.0, &frame, SendFlags::NOSIGNAL))?);
        self.0.async_io(Interest::WRITABLE, sent).await.map(drop)
    }

    async fn receive(&self) -> io::Result<Reply> {
        let mut packet = [0; SIZE + 1];
        let received = || {
            let (_, length) = retry(|| recv(&self.0, &mut packet[..], RecvFlags::TRUNC))?;
            Ok(length)
        };
        match self.0.async_io(Interest::READABLE, received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => packet.get(..length).and_then(Reply::decode).ok_or_else(garbled),
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}
