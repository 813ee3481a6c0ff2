//! The agent's side: its client, in this process and in one that can be frozen and killed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harmony_agent::core::event::{Guard, WatchdogStatus};
use harmony_agent::core::ids::Epoch;
use harmony_agent::core::time::Instant;
use harmony_agent::postmaster::now;
use harmony_agent::runtime::watchdog::client::{Client, Settings};
use harmony_agent::supervise::trial;
use rustix::process::Signal;
use tokio::sync::watch;

use super::postgres::{Postgres, lives, signal};
use super::wire::Wire;
use super::{PATIENCE, eventually};

const LATER: Duration = Duration::from_secs(600);

fn settings(postgres: &Postgres) -> Settings {
    Settings {
        exe: env!("CARGO_BIN_EXE_harmony-agent").into(),
        socket: postgres.dir().join("dog.sock"),
        data_dir: postgres.data_dir(),
        hold_port: None,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn becomes<T: PartialEq>(
    receiver: &mut watch::Receiver<T>,
    what: impl Fn(&T) -> bool,
) -> watch::Ref<'_, T> {
    tokio::time::timeout(PATIENCE, receiver.wait_for(what)).await.unwrap().unwrap()
}

/// Ends a watchdog that nobody's drop would end.
struct Cleanup(Settings);

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Some(hello) = Wire::open(&self.0.socket).ok().and_then(|wire| wire.hear()) {
            signal(i32::try_from(hello.pid).unwrap(), Signal::KILL);
        }
    }
}

#[test]
fn a_killed_watchdog_is_noticed_replaced_and_armed_again() {
    let postgres = Postgres::started();
    let _cleanup = Cleanup(settings(&postgres));
    runtime().block_on(async {
        let client = Client::start(settings(&postgres));
        let (mut status, fired) = (client.status(), client.fired());
        let deadline = now() + LATER;
        client.arm(Guard::Until(deadline, Epoch(2)));
        becomes(&mut status, |s| *s == WatchdogStatus::Armed(deadline)).await;
        let first = fired.borrow().watchdog;

        signal(i32::try_from(first).unwrap(), Signal::KILL);
        becomes(&mut status, |s| *s == WatchdogStatus::Down).await;
        becomes(&mut status, |s| *s == WatchdogStatus::Armed(deadline)).await;
        assert_ne!(fired.borrow().watchdog, first);
        assert!(!lives(i32::try_from(first).unwrap()));
        assert!(postgres.answers());
    });
}

#[test]
fn a_keeper_that_panics_is_down_and_comes_back_with_what_it_knew() {
    let postgres = Postgres::started();
    let _cleanup = Cleanup(settings(&postgres));
    runtime().block_on(async {
        let client = Client::start(settings(&postgres));
        let (mut status, fired) = (client.status(), client.fired());
        let deadline = now() + LATER;
        client.arm(Guard::Until(deadline, Epoch(2)));
        becomes(&mut status, |s| *s == WatchdogStatus::Armed(deadline)).await;
        let first = fired.borrow().watchdog;

        trial::break_once("watchdog keeper");
        becomes(&mut status, |s| *s == WatchdogStatus::Down).await;
        becomes(&mut status, |s| *s == WatchdogStatus::Armed(deadline)).await;
        assert_eq!(fired.borrow().watchdog, first, "the watchdog itself was not touched");
        // Later wishes reach it, and it may still release what it armed before.
        let later = deadline + LATER;
        client.arm(Guard::Until(later, Epoch(3)));
        becomes(&mut status, |s| *s == WatchdogStatus::Armed(later)).await;
        client.arm(Guard::Released);
        becomes(&mut status, |s| *s == WatchdogStatus::Idle).await;
        client.quit(PATIENCE).await;
        eventually("it ends", || !lives(i32::try_from(first).unwrap()));
    });
}

#[test]
fn the_next_agent_takes_the_watchdog_over_and_may_release_and_end_it() {
    let postgres = Postgres::started();
    let _cleanup = Cleanup(settings(&postgres));
    runtime().block_on(async {
        let deadline = now() + LATER;
        let first = Client::start(settings(&postgres));
        first.arm(Guard::Until(deadline, Epoch(2)));
        becomes(&mut first.status(), |s| *s == WatchdogStatus::Armed(deadline)).await;
        let pid = first.fired().borrow().watchdog;
        drop(first);

        let second = Client::start(settings(&postgres));
        becomes(&mut second.status(), |s| *s == WatchdogStatus::Armed(deadline)).await;
        assert_eq!(second.fired().borrow().watchdog, pid);
        second.arm(Guard::Released);
        becomes(&mut second.status(), |s| *s == WatchdogStatus::Idle).await;
        second.quit(PATIENCE).await;
        eventually("it ends", || !lives(i32::try_from(pid).unwrap()));
    });
}

#[test]
fn the_agent_learns_that_it_fired() {
    let postgres = Postgres::started();
    let _cleanup = Cleanup(settings(&postgres));
    runtime().block_on(async {
        let client = Client::start(settings(&postgres));
        client.arm(Guard::Until(now() + Duration::from_millis(500), Epoch(5)));
        let mut fired = client.fired();
        let fired = *becomes(&mut fired, |f| f.proven).await;
        assert_eq!((fired.count, fired.epoch), (1, Epoch(5)));
        assert!(postgres.is_dead());
        becomes(&mut client.status(), |s| *s == WatchdogStatus::Idle).await;
    });
}

#[test]
fn a_frozen_agent_does_not_keep_the_instance_alive() {
    let postgres = Postgres::started();
    let settings = settings(&postgres);
    let _cleanup = Cleanup(settings.clone());
    let agent = Agent::start(&settings);
    agent.holds(&postgres);
    signal(agent.pid(), Signal::STOP);
    eventually("the instance is killed", || postgres.is_dead());
}

#[test]
fn nor_does_a_killed_one_and_one_restarted_in_time_does() {
    let postgres = Postgres::started();
    let settings = settings(&postgres);
    let _cleanup = Cleanup(settings.clone());
    let agent = Agent::start(&settings);
    agent.holds(&postgres);
    drop(agent);
    let agent = Agent::start(&settings);
    agent.holds(&postgres);
    drop(agent);
    eventually("the instance is killed", || postgres.is_dead());
}

const SOCKET: &str = "HARMONY_TEST_WATCHDOG_SOCKET";
const DATA_DIR: &str = "HARMONY_TEST_WATCHDOG_DATA_DIR";
const HOLD: Duration = Duration::from_secs(3);

/// This test binary, running [`agent_process`].
struct Agent(Child);

impl Agent {
    fn start(settings: &Settings) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "watchdog::agent::agent_process"]);
        command.env(SOCKET, &settings.socket).env(DATA_DIR, &settings.data_dir);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// It keeps the instance alive for longer than one deadline lasts.
    fn holds(&self, postgres: &Postgres) {
        let beat = postgres.dir().join("dog.sock.beat");
        let _ = std::fs::remove_file(&beat);
        eventually("the agent is armed", || beat.exists());
        std::thread::sleep(HOLD + HOLD / 3);
        assert!(postgres.answers());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "not a test: the agent that other tests freeze and kill"]
fn agent_process() {
    let (Some(socket), Some(data_dir)) = (std::env::var_os(SOCKET), std::env::var_os(DATA_DIR))
    else {
        return;
    };
    let beat = std::path::PathBuf::from(&socket).with_extension("sock.beat");
    let exe = env!("CARGO_BIN_EXE_harmony-agent").into();
    runtime().block_on(async {
        let client = Client::start(Settings {
            exe,
            socket: socket.into(),
            data_dir: data_dir.into(),
            hold_port: None,
        });
        let status = client.status();
        let end: Instant = now() + LATER;
        while now() < end {
            client.arm(Guard::Until(now() + HOLD, Epoch(1)));
            tokio::time::sleep(Duration::from_millis(100)).await;
            if matches!(*status.borrow(), WatchdogStatus::Armed(_)) {
                std::fs::write(&beat, "").unwrap();
            }
        }
    });
}
