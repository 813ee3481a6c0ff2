//! The watchdog process itself: one thread, no async runtime, no allocation once it serves.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, listen, recv, send, socket_with,
};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit, setsid, umask};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime,
    timerfd_create, timerfd_settime,
};

use super::frame::{Answer, Order, Reply, Request, SIZE};
use super::warden::{Phase, Warden};
use crate::core::time::Instant;
use crate::postmaster::port::{Hold, Listening};
use crate::postmaster::{Instance, Killed, now};

/// How long a watchdog without an agent and without a deadline waits for the next agent.
pub const LINGER: Duration = Duration::from_secs(10);
/// Exit code: another watchdog serves this socket.
pub const ALREADY_RUNNING: i32 = 3;
/// Exit code: the command line makes no sense (`EX_USAGE`).
pub const USAGE: i32 = 64;

/// One attempt to kill; between attempts the agent is answered.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Pause between attempts without proof.
const RETRY: Duration = Duration::from_millis(20);
/// How often it looks whether what it killed came up again.
const SWEEP: Duration = Duration::from_millis(200);
/// It looks at the clock at least this often, should a timer ever be lost.
const HEARTBEAT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Frames read before the clock is looked at again.
const BURST: usize = 16;

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Args {
    socket: PathBuf,
    data_dir: PathBuf,
    linger: Duration,
    hold_port: Option<u16>,
}

/// Runs the watchdog and gives its exit code: 0 when it was told to quit or had nothing to do,
/// [`ALREADY_RUNNING`], [`USAGE`], or 1 when it could not start.
///
/// `args` follow the subcommand: `--socket PATH --data-dir PATH [--linger-ms N] [--hold-port PORT]`. With
/// `--hold-port`, for where something else than the agent starts PostgreSQL, what is down is kept so by its port:
/// what was killed, for as long as it is kept down, and whatever there is while there is no agent. Beside the socket
/// it keeps `.lock` (one watchdog per socket) and `.log` (a line for each start, firing and end).
pub fn run(args: impl IntoIterator<Item = OsString>) -> i32 {
    let Some(args) = Args::parse(args) else {
        complain(format_args!(
            "usage: watchdog --socket PATH --data-dir PATH [--linger-ms N] [--hold-port PORT]"
        ));
        return USAGE;
    };
    // Fails only for a leader of its own group, which an agent's child is not.
    let _ = setsid();
    umask(Mode::from_raw_mode(0o177));
    match start(&args) {
        Ok(Some(mut watchdog)) => watchdog.serve(),
        Ok(None) => ALREADY_RUNNING,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            1
        }
    }
}

impl Args {
    fn parse(args: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let (mut socket, mut data_dir, mut linger) = (None, None, LINGER);
        let mut hold_port = None;
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let value = args.next()?;
            match name.to_str()? {
                "--socket" => socket = Some(PathBuf::from(value)),
                "--data-dir" => data_dir = Some(PathBuf::from(value)),
                "--linger-ms" => {
                    linger = Duration::from_millis(value.to_str()?.parse().ok()?);
                }
                "--hold-port" => hold_port = Some(value.to_str()?.parse().ok()?),
                _ => return None,
            }
        }
        Some(Self { socket: socket?, data_dir: data_dir?, linger, hold_port })
    }
}

/// Takes everything it will need; `None` when another watchdog serves the socket.
fn start(args: &Args) -> io::Result<Option<Watchdog>> {
    ignore_signals()?;
    let lock = create(&args.socket.with_extension("lock"), OFlags::RDWR)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let watchdog = Watchdog {
        instance: Instance::new(&args.data_dir)?,
        warden: Warden::default(),
        listener: listen_on(&args.socket)?,
        timer: timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?,
        log: create(&args.socket.with_extension("log"), OFlags::WRONLY | OFlags::APPEND)?,
        agent: None,
        agent_pid: None,
        armed_by: None,
        alone_since: now(),
        linger: args.linger,
        quit: false,
        fired_at: Instant::ZERO,
        attempts: 0,
        socket: args.socket.clone(),
        hold_port: args.hold_port,
        listening: None,
        held: None,
        _lock: lock,
    };
    harden();
    rehearse();
    watchdog.log(format_args!("started for {}", args.data_dir.display()));
    Ok(Some(watchdog))
}

fn create(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CREATE | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::from_raw_mode(0o600))?)
}

/// The lock is held, so a socket that is there belongs to nobody.
fn listen_on(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = socket()?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    listen(&listener, 8)?;
    Ok(listener)
}

/// A socket of the kind both sides use: packets, so that no frame is ever half read.
pub(super) fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Makes SIGTERM, SIGINT and SIGHUP do nothing, for good: whoever stops the service must not take
/// the guard away with the agent. Ignoring a signal needs `unsafe`, except through tokio, whose
/// handlers stay in place after the runtime that installed them is gone, and then have no effect.
fn ignore_signals() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        drop(signal(kind)?);
    }
    Ok(())
}

/// Whatever of this the system grants makes it likelier to act in time on a machine in trouble.
fn harden() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = setpriority_process(None, -20);
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
}

/// Walks the way of a kill where there is nothing to kill, so that its code and buffers are in
/// memory (and locked there) and need not be read from a disk that may hang by then.
fn rehearse() {
    if let Ok(mut nobody) = Instance::new(Path::new("/proc/self/fdinfo")) {
        let _ = nobody.remnants();
        let _ = nobody.kill(Duration::ZERO);
    }
}

fn complain(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "harmony-agent watchdog: {what}");
}

struct Watchdog {
    instance: Instance,
    warden: Warden,
    listener: OwnedFd,
    timer: OwnedFd,
    log: OwnedFd,
    /// The newest connection; only it counts.
    agent: Option<OwnedFd>,
    /// Process id of whoever is, or last was, on the newest connection.
    agent_pid: Option<i32>,
    /// Who set the deadline.
    armed_by: Option<i32>,
    alone_since: Instant,
    linger: Duration,
    quit: bool,
    fired_at: Instant,
    attempts: u32,
    socket: PathBuf,
    /// The port by which it is to be kept down, too.
    hold_port: Option<u16>,
    /// Where it last listened.
    listening: Option<Listening>,
    held: Option<Hold>,
    _lock: OwnedFd,
}

impl Watchdog {
    fn serve(&mut self) -> i32 {
        while !self.is_done(now()) {
            self.set_timer();
            self.wait();
            self.accept();
            // Orders that came in time count even when this process was late to read them.
            self.listen_to_agent();
            self.act(now());
        }
        // Before the lock goes, or a successor's socket could be the one removed.
        let _ = std::fs::remove_file(&self.socket);
        self.log(format_args!("ended"));
        0
    }

    fn is_done(&self, now: Instant) -> bool {
        let linger_over = self.agent.is_none() && now >= self.alone_since + self.linger;
        match self.warden.status().phase {
            Phase::Idle => self.quit || linger_over,
            Phase::Fired => linger_over,
            Phase::Armed | Phase::Firing => false,
        }
    }

    fn set_timer(&self) {
        let status = self.warden.status();
        let linger = self.agent.is_none().then_some(self.alone_since + self.linger);
        let is_free = self.hold_port.is_some() && self.held.is_none();
        let wake = match status.phase {
            Phase::Idle if is_free => linger.map(|at| at.min(now() + SWEEP)),
            Phase::Idle => linger,
            Phase::Armed => Some(status.deadline),
            Phase::Firing => Some(now() + RETRY),
            Phase::Fired => Some(linger.map_or(now() + SWEEP, |at| at.min(now() + SWEEP))),
        };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = wake
            .map_or(zero, |at| Timespec::try_from(at.since(Instant::ZERO)).unwrap_or(HEARTBEAT));
        let spec = Itimerspec { it_interval: zero, it_value };
        // Cannot fail for a valid time, and the heartbeat would make up for it.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec);
    }

    fn wait(&self) {
        let agent = self.agent.as_ref().unwrap_or(&self.listener);
        let mut fds = [&self.timer, &self.listener, agent].map(|fd| PollFd::new(fd, PollFlags::IN));
        // Interrupted or not, everything is looked at afterwards.
        let _ = poll(&mut fds, Some(&HEARTBEAT));
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(connection) = accept_with(&self.listener, flags) {
            let pid = socket_peercred(&connection).ok().map(|peer| peer.pid.as_raw_nonzero().get());
            self.agent_pid = pid;
            self.agent = Some(connection);
            self.welcome();
            self.say(0, Answer::Hello);
        }
    }

    /// An agent that is not the one that armed starts from what it sees.
    fn welcome(&mut self) {
        if self.agent.is_some() && (self.agent_pid.is_none() || self.agent_pid != self.armed_by) {
            self.warden.other_agent();
        }
    }

    fn listen_to_agent(&mut self) {
        let mut packet = [0; SIZE + 1];
        for _ in 0..BURST {
            let Some(agent) = &self.agent else { return };
            match recv(agent, &mut packet[..], RecvFlags::TRUNC) {
                Ok((_, length)) => match packet.get(..length).and_then(Request::decode) {
                    Some(request) => self.obey(request),
                    // The end, or garbage: whoever is there is not heard any more.
                    None => self.hang_up(),
                },
                Err(Errno::WOULDBLOCK) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.hang_up(),
            }
        }
    }

    fn hang_up(&mut self) {
        self.agent = None;
        self.alone_since = now();
    }

    fn obey(&mut self, request: Request) {
        let before = self.warden.status();
        let outcome = match request.order {
            Order::Arm(deadline, epoch) => self.warden.arm(now(), deadline, epoch),
            Order::Release(epoch) => self.warden.release(epoch),
            Order::Ping => Ok(()),
            Order::Quit => self.warden.may_quit().map(|()| self.quit = true),
        };
        self.say(request.number, outcome.map_or_else(Answer::Refused, |()| Answer::Done));
        let after = self.warden.status();
        if matches!((request.order, outcome), (Order::Arm(..), Ok(()))) {
            self.armed_by = self.agent_pid;
        }
        let newly_armed = after.phase == Phase::Armed
            && (before.phase != Phase::Armed || before.epoch != after.epoch);
        if newly_armed {
            // Get to know the directory while the disk works; not each time, as it may hang.
            let _ = self.instance.remnants();
        }
    }

    fn say(&mut self, number: u64, answer: Answer) {
        let status = self.warden.status();
        let reply = Reply { number, answer, status, pid: std::process::id() }.encode();
        let Some(agent) = &self.agent else { return };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match send(agent, &reply, flags) {
            // A frozen agent reads nothing: what it misses it asks for when it is back.
            Ok(_) | Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(_) => self.hang_up(),
        }
    }

    fn act(&mut self, now: Instant) {
        if self.warden.expire(now) {
            self.fired_at = now;
            self.attempts = 0;
        }
        match self.warden.status().phase {
            // Whoever could say that it may start is not there.
            Phase::Idle if self.agent.is_none() => self.hold(),
            Phase::Idle | Phase::Armed => self.held = None,
            Phase::Firing => self.fire(),
            Phase::Fired => {
                self.sweep();
                self.hold();
            }
        }
    }

    /// One attempt. Nothing is written before the proof: the disk may be what hangs.
    fn fire(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        match self.instance.kill(ATTEMPT) {
            Ok(Killed { killed }) => {
                self.warden.proven();
                self.welcome();
                self.say(0, Answer::Fired);
                let status = self.warden.status();
                self.log(format_args!(
                    "fired: epoch {} ended at {} without a new deadline; {} processes killed in the \
                     last of {} attempts, none left after {} ms",
                    status.epoch.0,
                    status.deadline,
                    killed,
                    self.attempts,
                    now().since(self.fired_at).as_millis(),
                ));
            }
            Err(_) if self.attempts == 1 => self.say(0, Answer::Fired),
            Err(_) => {}
        }
    }

    /// Keeps its port, if it is down. Its file is read only while there is nothing to kill: the disk may hang.
    fn hold(&mut self) {
        let Some(port) = self.hold_port.filter(|_| self.held.is_none()) else { return };
        if let Ok(Some(listening)) = self.instance.listening() {
            self.listening = Some(listening);
        }
        let listening = self.listening.unwrap_or_else(|| Listening::everywhere(port));
        self.held = listening.hold().ok();
    }

    /// What comes up again without a guard, because somebody was slow to stop starting it, is killed
    /// again; until the agent releases or re-arms, or another agent comes.
    fn sweep(&mut self) {
        if matches!(self.instance.remnants(), Ok(0)) {
            return;
        }
        let outcome = self.instance.kill(ATTEMPT);
        if let Ok(Killed { killed: 1.. }) = outcome {
            self.log(format_args!("killed again: it came up without a guard"));
        }
    }

    fn log(&self, what: fmt::Arguments<'_>) {
        let mut line = [0; 512];
        let length = line.len();
        let mut rest = &mut line[..length - 1];
        let time = clock_gettime(ClockId::Realtime);
        // A line that is too long is cut.
        let _ = write!(rest, "{}.{:03} watchdog ", time.tv_sec, time.tv_nsec / 1_000_000);
        let _ = rest.write_fmt(what);
        let end = length - 1 - rest.len();
        line[end] = b'\n';
        let _ = rustix::io::write(&self.log, &line[..=end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Option<Args> {
        Args::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_exact() {
        let args = parse(&["--socket", "/s", "--data-dir", "/d", "--linger-ms", "5"]).unwrap();
        assert_eq!((args.linger, args.hold_port), (Duration::from_millis(5), None));
        let args = parse(&["--socket", "/s", "--hold-port", "5432", "--data-dir", "/d"]).unwrap();
        assert_eq!((args.linger, args.hold_port), (LINGER, Some(5432)));
        assert_eq!(parse(&["--socket", "/s", "--data-dir", "/d", "--hold-port"]), None);
        assert_eq!(parse(&["--socket", "/s", "--data-dir", "/d"]).unwrap().linger, LINGER);
        for bad in [&["--socket", "/s"][..], &["--socket"], &["--data-dir", "/d", "--sock", "/s"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
