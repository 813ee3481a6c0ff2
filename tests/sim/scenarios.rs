//! Scenarios as text, `tests/scenarios/*.txt`: what happens above the line, what is logged below it.
//! `UPDATE_SCENARIOS=1` writes the logs anew; read the difference before committing it.
//!
//! ```text
//! # Class A (fence deadline): …                         what it is about; classes are those of docs/proof.md
//! cluster a b c profile=standard watchdog=required      the first line; the words are in `setup`
//! run 20s                                               time passes
//! KillDb primary                                        a fault (`world::kind::Kind`), on whom, how long,
//!                                                       and a time or number that means something to it
//! lose-state a                                          the agent's state directory is gone
//! lose-lease                                            somebody deletes the lease from the store
//! status                                                where everybody is
//! converge                                              one primary, everybody follows, clients commit
//! ----
//! t=… log, from when the cluster is up
//! ```
//!
//! Each run checks all invariants, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harmony_agent::core::policy::{Reaction, WatchdogMode};
use harmony_agent::core::synchronous::SynchronousMode;

use super::setup::{MS, Profile, Setup, hook, policy};
use super::told::Told;
use super::world::World;
use super::world::fault::{Fault, Kind};

const LINE: &str = "----";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// The words of the first line: members (one letter each) and
/// - `profile=fast`; `watchdog=off`, `watchdog=automatic`; `promises=off`
/// - `twin`: one more machine, whose agent is called a; `late`: the last member is added by `Join`
/// - `mode=on`, `mode=strict`: the agents manage synchronous replication
/// - `synchronous`: PostgreSQL waits for all standbys; `on_hung=fail_over`, `on_disk_full=fail_over`; `lag=small`
/// - `prefer=b`: its priority is 5, the others' 1; `failback=10s`: by itself, once it has been fit for so long
/// - `demotes`: a database is made a standby before its lease is released, and promoted with a token
/// - `hook=required`, `hook=optional`: there is a `before_promote` hook
/// - `store-loses`: what an operator has to mend may happen; `from-start`: the log begins with the machines
/// - `at-once`: so do the commands, before there is a cluster; `running`: a's PostgreSQL does, without one
fn setup(words: &str) -> Setup {
    let has = |word: &str| words.split_whitespace().any(|found| found == word);
    let members = words.split_whitespace().filter(|word| word.len() == 1).count();
    let profile = if has("profile=fast") { Profile::Fast } else { Profile::Standard };
    let mut policy = policy(profile);
    policy.watchdog = match (has("watchdog=off"), has("watchdog=automatic")) {
        (true, _) => WatchdogMode::Off,
        (false, true) => WatchdogMode::Automatic,
        (false, false) => WatchdogMode::Required,
    };
    policy.promises = !has("promises=off");
    if has("on_hung=fail_over") {
        policy.on_hung = Reaction::FailOver;
    }
    if has("on_disk_full=fail_over") {
        policy.on_disk_full = Reaction::FailOver;
    }
    if has("lag=small") {
        policy.maximum_lag_on_failover = 2 << 10;
    }
    let members_named = || words.split_whitespace().filter(|word| word.len() == 1);
    let named = |prefix: &str| words.split_whitespace().find_map(|word| word.strip_prefix(prefix));
    let preferred = named("prefer=");
    let priority = |member: &str| if Some(member) == preferred { 5 } else { 1 };
    let priorities = members_named().map(priority).collect();
    policy.before_promote = named("hook=").map(|word| hook(profile, word == "required"));
    policy.demotes = has("demotes");
    policy.failback_after = named("failback=").map(|word| Duration::from_nanos(time(word)));
    policy.synchronous = match named("mode=") {
        Some("on") => SynchronousMode::On,
        Some("strict") => SynchronousMode::Strict,
        Some(other) => panic!("there is no mode {other:?}"),
        None => SynchronousMode::Off,
    };
    Setup {
        seed: 0,
        profile,
        members,
        twin: has("twin"),
        late: has("late"),
        synchronous: has("synchronous"),
        policy,
        priorities,
        store_loses: has("store-loses"),
        early: true,
        mutant: None,
        only: None,
        terms: None,
    }
}

fn time(word: &str) -> u64 {
    let (number, unit) = match word.strip_suffix("ms") {
        Some(number) => (number, MS),
        None => (word.trim_end_matches('s'), 1_000 * MS),
    };
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        return word.parse().unwrap();
    }
    number.parse::<u64>().unwrap_or_else(|_| panic!("{word:?} is no time")) * unit
}

fn machine(world: &World, word: &str) -> usize {
    let primary = || (0..world.machines.len()).find(|m| world.machines[*m].db.is_primary());
    match word {
        "primary" => primary().unwrap_or_else(|| panic!("there is no primary")),
        "replica" | "other-replica" => {
            let mut replicas = (0..world.setup.members).filter(|m| Some(*m) != primary());
            let replica = replicas.nth(usize::from(word == "other-replica"));
            replica.unwrap_or_else(|| panic!("there is no {word}"))
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
        ["lose-lease"] => told.lose_lease(),
        ["lose-state", whom] => told.lose_state(machine(told.world(), whom)),
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
    if words.contains("running") {
        told.runs_already();
    }
    if !words.contains("at-once") {
        told.converge();
    }
    if !words.contains("from-start") && !words.contains("at-once") {
        told.forget();
        told.show();
    }
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
        println!("{}", path.display());
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

/// All scenarios, each as its name and what is above the line.
fn all_commands() -> Vec<(String, String)> {
    let entries = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let commands = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text.split_once(LINE).map_or(text.clone(), |(commands, _)| commands.to_owned())
    };
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.map(|path| (name(&path), commands(&path))).collect()
}

#[test]
fn every_kind_of_fault_has_a_scenario() {
    let all = all_commands();
    let told = |kind: &Kind| {
        let word = format!("{kind:?} ");
        all.iter().any(|(_, commands)| commands.lines().any(|line| line.starts_with(&word)))
    };
    let missing: Vec<_> = Kind::ALL.iter().filter(|kind| !told(kind)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// `docs/proof.md` lists the classes of faults that others had, and the scenarios of each.
#[test]
fn every_class_of_fault_has_its_scenarios_in_the_documentation() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/proof.md");
    let page = fs::read_to_string(page).unwrap();
    let all = all_commands();
    for class in 'A'..='L' {
        let row = page.lines().find(|line| line.starts_with(&format!("| {class}: ")));
        let row = row.unwrap_or_else(|| panic!("docs/proof.md has no class {class}"));
        let head = format!("# Class {class} (");
        let mut of_class = 0;
        for (name, commands) in &all {
            let is = commands.lines().any(|line| line.starts_with(&head));
            let listed = row.contains(&format!("`{}`", name.trim_end_matches(".txt")));
            assert_eq!(is, listed, "{name} says class {class}: {is}, docs/proof.md: {listed}");
            of_class += usize::from(is);
        }
        assert!(of_class > 0, "class {class} has no scenario");
    }
}
