use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use harmony_agent::core::ids::Epoch;
use harmony_agent::postmaster::now;
use harmony_agent::runtime::watchdog::frame::{Answer, Order, Request, SIZE};
use harmony_agent::runtime::watchdog::process::ALREADY_RUNNING;
use harmony_agent::runtime::watchdog::warden::{Phase, Refusal};
use rustix::process::Signal;

use super::eventually;
use super::postgres::{Postgres, as_postgres, open_dir, signal};
use super::wire::Dog;

const LINGER: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(300);
const LATER: Duration = Duration::from_secs(600);

fn exe() -> Command {
    Command::new(env!("CARGO_BIN_EXE_harmony-agent"))
}

/// One that keeps down by its port, too.
fn holding(port: u16) -> Command {
    // The name of the subcommand comes first; a wrapper puts the flag behind it.
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec \"$0\" \"$@\" --hold-port {port}"));
    command.arg(env!("CARGO_BIN_EXE_harmony-agent"));
    command
}

fn guarding(postgres: &Postgres) -> Dog {
    Dog::start(exe(), postgres.dir(), &postgres.data_dir(), LINGER)
}

#[test]
fn a_silent_agent_costs_the_instance_its_life_at_the_deadline() {
    let mut postgres = Postgres::started();
    postgres.busy(8);
    let dog = guarding(&postgres);
    let (agent, _) = dog.connect();
    let deadline = now() + SOON;
    assert_eq!(agent.arm(deadline, 4).phase, Phase::Armed);

    let fired = agent.hear().unwrap();
    eprintln!("fired, proof {:?} after the deadline", now().since(deadline));
    assert_eq!((fired.answer, fired.status.phase), (Answer::Fired, Phase::Fired));
    assert_eq!((fired.status.fired, fired.status.fired_epoch), (1, Epoch(4)));
    assert!(now() >= deadline);
    assert!(postgres.is_dead());
    eventually("it is in the log", || dog.log().contains("fired: epoch 4"));
}

#[test]
fn what_others_would_start_again_is_kept_down_by_its_port_until_it_is_released() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let is_free = || TcpListener::bind(("127.0.0.1", port)).is_ok();
    for holds in [true, false] {
        let mut postgres = Postgres::listening(port);
        let command = if holds { holding(port) } else { exe() };
        let dog = Dog::start(command, postgres.dir(), &postgres.data_dir(), LINGER);
        let (agent, _) = dog.connect();
        assert_eq!(agent.arm(now() + SOON, 4).phase, Phase::Armed);
        assert_eq!(agent.hear().unwrap().status.phase, Phase::Fired);
        eventually("the server is dead", || postgres.is_dead());
        if holds {
            eventually("the port is held", || !is_free());
            postgres.launch();
            eventually("it does not come up", || postgres.has_ended());
        }
        let released = agent.ask(Order::Release(Epoch(4)));
        assert_eq!(released.answer, Answer::Done);
        eventually("the port is free", is_free);
    }
}

/// Whoever could say that it may start is not there.
#[test]
fn what_others_would_start_is_kept_down_while_there_is_no_agent() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let is_free = || TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut postgres = Postgres::listening(port);
    let dog = Dog::start(holding(port), postgres.dir(), &postgres.data_dir(), LINGER);
    let (agent, _) = dog.connect();
    signal(postgres.pid(), Signal::INT);
    eventually("it has stopped", || postgres.has_ended());
    assert!(is_free(), "its agent says what may start");
    drop(agent);
    eventually("the port is held", || !is_free());
    postgres.launch();
    eventually("it does not come up", || postgres.has_ended());
    let (agent, _) = dog.connect();
    eventually("the next agent has it", is_free);
    postgres.start();
    // What runs goes on without one, and is held back when it is down again.
    drop(agent);
    let end = now() + 2 * SOON;
    while now() < end {
        assert!(postgres.answers());
    }
    signal(postgres.pid(), Signal::INT);
    eventually("it has stopped", || postgres.has_ended());
    eventually("the port is held", || !is_free());
}

#[test]
fn so_does_a_dead_one() {
    let mut postgres = Postgres::started();
    postgres.busy(2);
    let dog = guarding(&postgres);
    dog.connect().0.arm(now() + SOON, 1);
    eventually("the instance is killed", || postgres.is_dead());
}

#[test]
fn a_deadline_that_moves_on_kills_nobody() {
    let postgres = Postgres::started();
    let dog = guarding(&postgres);
    let (agent, _) = dog.connect();
    let first = now() + Duration::from_secs(2);
    agent.arm(first, 1);
    while now() < first + SOON {
        agent.arm(now() + Duration::from_secs(5), 1);
        std::thread::sleep(Duration::from_millis(100));
    }
    agent.arm(now() + LATER, 1);
    assert_eq!(agent.status().fired, 0);
    assert!(postgres.answers());
}

#[test]
fn the_next_agent_finds_the_deadline_and_only_it_is_heard() {
    let postgres = Postgres::started();
    let dog = guarding(&postgres);
    let (old, _) = dog.connect();
    let deadline = now() + LATER;
    old.arm(deadline, 7);
    let (new, hello) = dog.connect();
    assert_eq!((hello.status.phase, hello.status.epoch), (Phase::Armed, Epoch(7)));
    assert_eq!(hello.status.deadline, deadline);
    assert_eq!(i32::try_from(hello.pid).unwrap(), dog.pid());

    old.say_raw(&Request { number: 1, order: Order::Release(Epoch(7)) }.encode());
    assert!(old.hear().is_none());
    assert_eq!(new.status().phase, Phase::Armed);
    let refused = new.ask(Order::Arm(now() + LATER, Epoch(6)));
    assert_eq!(refused.answer, Answer::Refused(Refusal::OldEpoch));
    assert_eq!(new.ask(Order::Quit).answer, Answer::Refused(Refusal::Busy));
}

#[test]
fn garbage_ends_the_connection_and_not_the_guard() {
    let postgres = Postgres::started();
    let dog = guarding(&postgres);
    let deadline = now() + Duration::from_secs(2);
    dog.connect().0.arm(deadline, 1);
    let release = Request { number: 1, order: Order::Release(Epoch(1)) }.encode();
    let mut flipped = release;
    flipped[24] ^= 1;
    let mut long = release.to_vec();
    long.extend_from_slice(&release);
    for garbage in [&flipped[..], &long, &release[..SIZE - 1], b"x", &[0xff; 4096]] {
        let (agent, hello) = dog.connect();
        assert_eq!(hello.status.deadline, deadline);
        agent.say_raw(garbage);
        assert!(agent.hear().is_none(), "{} bytes of garbage were answered", garbage.len());
    }
    eventually("the instance is killed", || postgres.is_dead());
}

#[test]
fn polite_signals_do_nothing_and_a_second_watchdog_goes_away() {
    let postgres = Postgres::started();
    let dog = guarding(&postgres);
    let (agent, _) = dog.connect();
    agent.arm(now() + LATER, 1);
    for polite in [Signal::TERM, Signal::INT, Signal::HUP] {
        signal(dog.pid(), polite);
    }
    let mut second = guarding(&postgres);
    eventually("the second one ends", || second.ended().is_some());
    assert_eq!(second.ended().unwrap().code(), Some(ALREADY_RUNNING));
    assert_eq!(agent.status().phase, Phase::Armed);
}

#[test]
fn with_nothing_to_do_it_goes() {
    let dir = open_dir();
    let short = Duration::from_millis(200);
    let mut dog = Dog::start(exe(), dir.path(), &dir.path().join("absent"), short);
    let (agent, _) = dog.connect();
    agent.arm(now() + LATER, 1);
    drop(agent);
    std::thread::sleep(short * 3);
    assert!(dog.ended().is_none(), "it left its guard");
    let (agent, _) = dog.connect();
    assert_eq!(agent.ask(Order::Release(Epoch(1))).answer, Answer::Done);
    std::thread::sleep(short * 3);
    assert!(dog.ended().is_none(), "it left its agent");
    drop(agent);
    eventually("it goes", || dog.ended().is_some());
    assert!(dog.ended().unwrap().success());
    assert!(!dog.socket.exists());
}

#[test]
fn an_instance_that_is_down_is_proven_so() {
    let postgres = Postgres::stopped();
    let dog = guarding(&postgres);
    let (agent, _) = dog.connect();
    agent.arm(now() + SOON, 1);
    assert_eq!(agent.hear().unwrap().status.phase, Phase::Fired);
    assert!(dog.log().is_empty() || !dog.log().contains("killed again"));
}

#[test]
fn what_was_killed_stays_down_until_released() {
    let mut postgres = Postgres::started();
    let dog = guarding(&postgres);
    let (agent, _) = dog.connect();
    agent.arm(now() + SOON, 3);
    assert_eq!(agent.hear().unwrap().status.phase, Phase::Fired);
    let refused = agent.ask(Order::Arm(now() + LATER, Epoch(3)));
    assert_eq!(refused.answer, Answer::Refused(Refusal::Spent));

    postgres.launch();
    eventually("it is killed again", || dog.log().contains("killed again"));
    assert!(postgres.is_dead());

    assert_eq!(agent.ask(Order::Release(Epoch(3))).answer, Answer::Done);
    postgres.start();
    std::thread::sleep(Duration::from_millis(500));
    assert!(postgres.answers());
}

#[test]
fn it_kills_without_memory() {
    let mut postgres = Postgres::started();
    postgres.busy(8);
    let dog = guarding(&postgres);
    let (agent, _) = dog.connect();
    agent.arm(now() + Duration::from_secs(3), 1);
    let squeezed = Command::new("prlimit")
        .args(["--as=1", "--data=1", "--memlock=0", "--pid"])
        .arg(dog.pid().to_string())
        .status()
        .unwrap();
    assert!(squeezed.success());
    let status = std::fs::read_to_string(format!("/proc/{}/status", dog.pid())).unwrap();
    for line in status.lines().filter(|line| line.starts_with("Vm")) {
        eprintln!("watchdog {line}");
    }
    assert_eq!(agent.hear().unwrap().status.phase, Phase::Fired);
    assert!(postgres.is_dead());
}

#[test]
fn it_works_as_the_postgres_user() {
    let mut postgres = Postgres::started();
    postgres.busy(4);
    let program = postgres.dir().join("harmony-agent");
    std::fs::copy(env!("CARGO_BIN_EXE_harmony-agent"), &program).unwrap();
    let dog = Dog::start(as_postgres(program), postgres.dir(), &postgres.data_dir(), LINGER);
    let (agent, _) = dog.connect();
    agent.arm(now() + SOON, 1);
    assert_eq!(agent.hear().unwrap().status.phase, Phase::Fired);
    assert!(postgres.is_dead());
}
