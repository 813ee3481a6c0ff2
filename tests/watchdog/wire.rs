//! A watchdog process, and an agent that is nothing but a socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use harmony_agent::core::ids::Epoch;
use harmony_agent::core::time::Instant;
use harmony_agent::runtime::watchdog::frame::{Answer, Order, Reply, Request, SIZE};
use harmony_agent::runtime::watchdog::warden::Status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

use super::eventually;

pub struct Dog {
    process: Child,
    pub socket: PathBuf,
}

impl Dog {
    pub fn start(mut command: Command, dir: &Path, data_dir: &Path, linger: Duration) -> Self {
        let socket = dir.join("dog.sock");
        command.arg("watchdog").arg("--socket").arg(&socket).arg("--data-dir").arg(data_dir);
        command.arg("--linger-ms").arg(linger.as_millis().to_string());
        Self { process: command.spawn().unwrap(), socket }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.socket.with_extension("log")).unwrap_or_default()
    }

    pub fn connect(&self) -> (Wire, Reply) {
        let mut wire = None;
        eventually("the watchdog listens", || {
            wire = Wire::open(&self.socket).ok();
            wire.is_some()
        });
        let wire = wire.unwrap();
        let hello = wire.hear().expect("a hello");
        assert_eq!(hello.answer, Answer::Hello);
        (wire, hello)
    }
}

impl Drop for Dog {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub struct Wire(OwnedFd);

impl Wire {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    pub fn say_raw(&self, bytes: &[u8]) {
        let _ = send(&self.0, bytes, SendFlags::NOSIGNAL);
    }

    /// The next reply; `None` when the watchdog hung up.
    pub fn hear(&self) -> Option<Reply> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        // May be interrupted, as other tests' children end.
        eventually("the watchdog says something", || {
            matches!(poll(&mut fds, Some(&second)), Ok(1))
        });
        let mut packet = [0; SIZE];
        match recv(&self.0, &mut packet[..], RecvFlags::empty()) {
            Ok((_, SIZE)) => Some(Reply::decode(&packet).unwrap()),
            Ok(_) | Err(_) => None,
        }
    }

    /// Says it and hears the answer.
    pub fn ask(&self, order: Order) -> Reply {
        self.say_raw(&Request { number: 77, order }.encode());
        loop {
            let reply = self.hear().expect("an answer");
            if reply.number == 77 {
                return reply;
            }
        }
    }

    pub fn arm(&self, deadline: Instant, epoch: u64) -> Status {
        let reply = self.ask(Order::Arm(deadline, Epoch(epoch)));
        assert_eq!(reply.answer, Answer::Done);
        reply.status
    }

    pub fn status(&self) -> Status {
        self.ask(Order::Ping).status
    }
}
