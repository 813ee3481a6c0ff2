//! Scenarios as text, `tests/scenarios/*.txt`: what happens above the line, what is logged below it.
//! `UPDATE_SCENARIOS=1` writes the logs anew; read the difference before committing it.
//!
//! ```text
//! cluster a b c profile=standard watchdog=required      the first line; `twin` adds a namesake of a,
//!                                                       `promises=off` asks nobody
//! run 20s                                               time passes
//! KillDb primary                                        a fault (`world::fault::Kind`), on whom, how long
//! ----
//! t=… log
//! ```
//!
//! Each run checks all invariants, too.

use std::fs;
use std::path::{Path, PathBuf};

use harmony_agent::core::policy::WatchdogMode;

use super::run::Told;
use super::setup::{MS, Profile, Setup, policy};
use super::world::World;
use super::world::fault::{Fault, Kind};

const LINE: &str = "----";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn setup(words: &str) -> Setup {
    let mut setup = Setup::of(0);
    setup.members = words.split_whitespace().filter(|word| word.len() == 1).count();
    let has = |word: &str| words.split_whitespace().any(|found| found == word);
    setup.profile = if has("profile=fast") { Profile::Fast } else { Profile::Standard };
    setup.policy = policy(setup.profile);
    setup.policy.watchdog = match (has("watchdog=off"), has("watchdog=automatic")) {
        (true, _) => WatchdogMode::Off,
        (false, true) => WatchdogMode::Automatic,
        (false, false) => WatchdogMode::Required,
    };
    setup.policy.promises = !has("promises=off");
    setup.twin = has("twin");
    setup.store_loses = has("store-loses");
    setup.early = true;
    setup
}

fn time(word: &str) -> u64 {
    let (number, unit) = match word.strip_suffix("ms") {
        Some(number) => (number, MS),
        None => (word.trim_end_matches('s'), 1_000 * MS),
    };
    number.parse::<u64>().unwrap_or_else(|_| panic!("{word:?} is no time")) * unit
}

fn machine(world: &World, word: &str) -> usize {
    let primary = || (0..world.machines.len()).find(|m| world.can_acknowledge(*m));
    match word {
        "primary" => primary().unwrap_or_else(|| panic!("there is no primary")),
        "replica" => {
            let replica = (0..world.setup.members).find(|m| Some(*m) != primary());
            replica.unwrap_or_else(|| panic!("there is no replica"))
        }
        name => world
            .machines
            .iter()
            .position(|machine| machine.host == name)
            .unwrap_or_else(|| panic!("there is no machine {name:?}")),
    }
}

fn kind(word: &str) -> Kind {
    let found = Kind::ALL.into_iter().find(|kind| format!("{kind:?}") == word);
    found.unwrap_or_else(|| panic!("there is no fault {word:?}"))
}

/// Does what a line says.
fn obey(told: &mut Told, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["run", how_long] => told.pass(time(how_long)),
        ["converge"] => told.converge(),
        ["status"] => told.show(),
        [what, whom, rest @ ..] => {
            let lasts = rest.first().map_or(0, |word| time(word));
            let detail = rest.get(1).map_or(0, |word| time(word));
            let machine = machine(told.world(), whom);
            let fault = Fault { kind: kind(what), machine, lasts, detail };
            assert!(told.happens(fault), "{line:?} cannot happen now");
        }
        _ => panic!("{line:?} is no command"),
    }
}

/// The log of a scenario's commands.
fn tell(commands: &str) -> String {
    let mut lines = commands.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next().unwrap_or_default();
    let words = first.strip_prefix("cluster ").unwrap_or_else(|| panic!("first: cluster a b …"));
    let mut told = Told::new(&setup(words));
    told.converge();
    for line in lines {
        obey(&mut told, line);
    }
    told.end()
}

#[test]
fn every_scenario_is_told_as_it_is_written() {
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 12, "{} scenarios", paths.len());
    let mut different = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(path).unwrap();
        let (commands, expected) = text.split_once(LINE).unwrap_or((&text, ""));
        let log = tell(commands);
        if update {
            fs::write(path, format!("{}\n{LINE}\n{log}\n", commands.trim_end())).unwrap();
        } else if log != expected.trim() {
            let at = log.lines().zip(expected.trim().lines()).find(|(new, old)| new != old);
            different.push(format!("{}: {at:?}", path.display()));
        }
    }
    assert!(different.is_empty(), "told differently:\n{}", different.join("\n"));
    println!("scenarios: {} told, {} different", paths.len(), different.len());
}
