//! What the agents cost a busy server; run by hand, in release: `just bench-synchronous`.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use super::checks::assert_sound;
use super::cluster::{Member, Place};
use super::orders::done;

/// Pairs of a run with and one without, so that both see the same noise; every other pair the other way
/// round, so that neither has the better place.
const PAIRS: usize = 24;
const SECONDS: u32 = 5;

fn pgbench(member: &Member, arguments: &[&str]) -> String {
    let mut command: Command = member.tool("pgbench");
    command.args(["-U", "postgres", "-h"]).arg(member.dir.join("socket"));
    command.arg("-p").arg(member.port.to_string()).args(arguments).arg("postgres");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pgbench {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Transactions a second.
fn throughput(member: &Member) -> f64 {
    let seconds = SECONDS.to_string();
    let said = pgbench(member, &["-n", "-M", "prepared", "-c", "8", "-j", "2", "-T", &seconds]);
    let line = said.lines().find_map(|line| line.strip_prefix("tps = ")).expect("tps");
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The same two servers, the same commits waiting for the standby's disk: with the agents at work, and with
/// them stopped, which is plain PostgreSQL with `synchronous_standby_names`. A lease of half an hour lets
/// them be stopped for a while.
#[test]
#[ignore = "a benchmark of four minutes"]
fn strict_against_plain_synchronous_replication() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    done(&a, &["config", "set", "synchronous.mode", "strict", "timing.lease_duration", "30m"]);
    a.until("commits wait for b", |status| status["synchronous"]["members"] == json!(["b"]));
    pgbench(&a, &["-i", "-q", "-s", "5"]);
    throughput(&a);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let order = if pair % 2 == 0 { [true, false] } else { [false, true] };
        for agents in order {
            if agents {
                with.push(throughput(&a));
            } else {
                a.signal(Signal::STOP);
                b.signal(Signal::STOP);
                without.push(throughput(&a));
                a.signal(Signal::CONT);
                b.signal(Signal::CONT);
            }
        }
    }
    assert_eq!(a.sql("select sync_state from pg_stat_replication").unwrap(), "sync");
    println!("with agents {with:.0?}, without {without:.0?}");
    let ratios: Vec<f64> =
        with.iter().zip(&without).map(|(with, without)| with / without).collect();
    let (with, without) = (median(with), median(without));
    println!(
        "strict: {with:.0} transactions/s; plain PostgreSQL, the same servers with the agents stopped: \
         {without:.0}; ratio of the medians {:.3}, median of the pairs' ratios {:.3}",
        with / without,
        median(ratios)
    );
    assert_sound(&mut [&mut a, &mut b]);
}
