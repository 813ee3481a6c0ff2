//! How long clients cannot write when the primary changes its site, with the double at CloudNativePG's own times:
//! the figures of docs/cnpg/times.md. `just measure-cnpg`; CNPG_RUNS says how many runs, 3 without.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::json;
use tokio::time::Instant;

use super::super::double::Options;
use super::site::{Site, Two};
use super::switchover::{begin, until_served};
use crate::live::client::Pinned;
use crate::live::cluster::{PATIENT, until};
use crate::live::orders::ask;

/// Between two switchovers: an instance manager looks at nothing for 20 s after a fence.
const QUIET: Duration = Duration::from_secs(30);

/// What happens to the primary's site.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Switchover,
    PostgresKilled,
    NodeDies,
}

/// How long nobody could write, in one run.
#[derive(Clone, Copy, Debug)]
struct Figure {
    /// Until the other site acknowledged a commit.
    change: Duration,
    /// The longest time afterwards: CloudNativePG restarts what it has promoted.
    restart: Duration,
}

/// pg-a acts, pg-b follows; nothing is shortened.
fn started(profile: &str) -> Two {
    let mut two = Two::of(&Options { factor: 1.0, ..Options::default() });
    for site in [&mut two.a, &mut two.b] {
        site.member.settings["profile"] = json!(profile);
    }
    two.found();
    two
}

/// Waits for the second outage, too; `new` is index `at` of the clients.
fn figure(clients: &Pinned, at: usize, new: &Site, began: Instant) -> Figure {
    clients.until_acknowledges(at);
    until("it was restarted", || {
        let mode = new.member.sql("show archive_mode")?;
        (mode == "on").then_some(()).ok_or(mode)
    });
    clients.until_acknowledges(at);
    let [change, restart] = clients.silences(began, at).expect("it was seen to acknowledge");
    Figure { change, restart }
}

/// One switchover after the other, there and back.
fn switchovers(profile: &str, runs: usize) -> Vec<Figure> {
    let mut two = started(profile);
    let clients = two.clients();
    let mut figures = Vec::new();
    for run in 0..runs {
        let (old, new) = if run % 2 == 0 { (&two.a, &two.b) } else { (&two.b, &two.a) };
        clients.until_acknowledges(run % 2);
        std::thread::sleep(QUIET);
        until("it would be done", || {
            let said = ask(&old.member, &["switchover", "--to", new.name, "--dry-run"]);
            said.status.success().then_some(()).ok_or_else(|| format!("{said:?}"))
        });
        let began = Instant::now();
        let mut order = begin(old, new.name);
        figures.push(figure(&clients, 1 - run % 2, new, began));
        assert!(order.wait().unwrap().success(), "{}", old.member.log());
        until_served(old, new);
    }
    two.assert_sound();
    figures
}

/// What breaks a primary, whose site has to be built anew afterwards.
fn broken(profile: &str, fault: Fault) -> Figure {
    let mut two = started(profile);
    let clients = two.clients();
    clients.until_acknowledges(0);
    let began = Instant::now();
    match fault {
        Fault::NodeDies => two.a.node_dies(),
        Fault::PostgresKilled => kill_process(two.a.member.postmaster(), Signal::KILL).unwrap(),
        Fault::Switchover => unreachable!("breaks nothing"),
    }
    let figure = figure(&clients, 1, &two.b, began);
    two.assert_sound_b();
    figure
}

fn measure(profile: &str, fault: Fault) {
    PATIENT.store(8, Ordering::Relaxed);
    let runs = std::env::var("CNPG_RUNS").map_or(3, |runs| runs.parse().unwrap());
    let figures = match fault {
        Fault::Switchover => switchovers(profile, runs),
        Fault::PostgresKilled | Fault::NodeDies => {
            (0..runs).map(|_| broken(profile, fault)).collect()
        }
    };
    for (what, of) in [
        ("change", (|figure| figure.change) as fn(&Figure) -> Duration),
        ("restart", |figure| figure.restart),
    ] {
        let mut seconds: Vec<_> = figures.iter().map(|figure| of(figure).as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        println!("{profile} {fault:?} {what}: median {:.2} s of {seconds:.2?}", seconds[runs / 2]);
    }
}

#[test]
#[ignore = "figures for docs/cnpg/times.md, minutes: just measure-cnpg"]
fn switchover_fast() {
    measure("fast", Fault::Switchover);
}

#[test]
#[ignore = "figures for docs/cnpg/times.md, minutes: just measure-cnpg"]
fn switchover_wan() {
    measure("wan", Fault::Switchover);
}

#[test]
#[ignore = "figures for docs/cnpg/times.md, minutes: just measure-cnpg"]
fn postgres_killed_fast() {
    measure("fast", Fault::PostgresKilled);
}

#[test]
#[ignore = "figures for docs/cnpg/times.md, minutes: just measure-cnpg"]
fn postgres_killed_wan() {
    measure("wan", Fault::PostgresKilled);
}

#[test]
#[ignore = "figures for docs/cnpg/times.md, minutes: just measure-cnpg"]
fn node_dies_fast() {
    measure("fast", Fault::NodeDies);
}

#[test]
#[ignore = "figures for docs/cnpg/times.md, minutes: just measure-cnpg"]
fn node_dies_wan() {
    measure("wan", Fault::NodeDies);
}
