//! The searches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::invariants;
use super::mutant::Mutant;
use super::run::{Outcome, Violation, run};
use super::setup::Setup;
use super::shrink::shrink;
use super::world::fault::Kind;

/// Seeds when nobody says how many: enough to see that everything works.
const FEW: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a search came to.
#[derive(Default)]
struct Searched {
    found: Option<(u64, Outcome)>,
    steps: u64,
    /// How many runs were not expected to converge, by why.
    unjudged: BTreeMap<&'static str, u64>,
}

/// Runs seeds on two threads until one violates something that `counts`.
fn search(
    seeds: std::ops::Range<u64>,
    setup: impl Fn(u64) -> Setup + Sync,
    counts: impl Fn(u64, &Violation) -> bool + Sync,
) -> Searched {
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new(Searched::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let earlier = all.lock().unwrap().found.as_ref().map(|(first, _)| *first);
                    if seed >= seeds.end || earlier.is_some_and(|first| first < seed) {
                        return;
                    }
                    let outcome = run(&setup(seed), None, false);
                    let mut all = all.lock().unwrap();
                    all.steps += outcome.steps;
                    if let Some(why) = outcome.unjudged {
                        *all.unjudged.entry(why).or_default() += 1;
                    }
                    let violates =
                        outcome.violation.as_ref().is_some_and(|found| counts(seed, found));
                    if violates && all.found.as_ref().is_none_or(|(first, _)| seed < *first) {
                        all.found = Some((seed, outcome));
                    }
                }
            });
        }
    });
    all.into_inner().unwrap()
}

/// What to read about a violation.
fn explain(setup: &Setup, outcome: &Outcome) -> String {
    let Some(violation) = &outcome.violation else { return "no violation".to_owned() };
    let story = shrink(setup, &outcome.story, violation.invariant);
    let told = run(setup, Some(&story), true);
    let text = told.violation.map_or(String::new(), |violation| violation.text);
    let from = told.log.len().saturating_sub(250);
    format!(
        "seed {seed} violates {name}: {sentence}\n{text}\n{setup:?}\nreplay: just sim {seed}, which is\n\
         SIM_SEED={seed} cargo test --locked --profile proof --test integration sim::tests::seeds -- --nocapture\n\
         shrunk from {all} faults to {few}:\n{log}\n",
        seed = setup.seed,
        name = violation.invariant,
        sentence = violation.sentence,
        all = outcome.story.len(),
        few = story.len(),
        log = told.log[from..].join("\n"),
    )
}

#[test]
fn a_same_seed_gives_the_same_log() {
    // Seeds with long stories.
    for seed in [0, 1, 3, 4] {
        let logs = [(); 2].map(|()| run(&Setup::of(seed), None, true));
        assert!(logs[0].log.len() > 50, "seed {seed} logs nothing");
        assert_eq!(logs[0].log, logs[1].log, "seed {seed}");
        assert_eq!(logs[0].steps, logs[1].steps, "seed {seed}");
        // A story told again is the same story.
        let again = run(&Setup::of(seed), Some(&logs[0].story), true);
        assert_eq!(logs[0].log, again.log, "seed {seed} told again");
    }
}

/// What nothing leads to is not searched.
#[test]
fn chaos_reaches_every_state_and_every_fault() {
    let mut states = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for seed in 0..150 {
        let outcome = run(&Setup::of(seed), None, true);
        kinds.extend(outcome.story.iter().map(|(_, fault)| format!("{:?}", fault.kind)));
        for state in harmony_agent::core::event::State::ALL {
            let name = format!(": {} (", state.name());
            if outcome.log.iter().any(|line| line.contains(&name)) {
                states.insert(state.name());
            }
        }
    }
    assert_eq!(states.len(), harmony_agent::core::event::State::ALL.len(), "{states:?}");
    let missing: Vec<_> =
        Kind::ALL.iter().filter(|kind| !kinds.contains(&format!("{kind:?}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_invariant_has_a_sentence_a_source_and_a_mutant() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let (protocol, proof) = (read("docs/protocol.md"), read("docs/proof.md"));
    let mut names = BTreeSet::from(["mod".to_owned()]);
    for invariant in invariants::all() {
        let (name, source) = (invariant.name(), invariant.source());
        assert!(invariant.sentence().ends_with('.'), "{name}");
        let has = Mutant::ALL.iter().any(|(_, violated)| *violated == name);
        assert!(has, "{name} has no mutant");
        assert!(proof.contains(&format!("`{name}`")), "docs/proof.md does not list {name}");
        let mut found = 0;
        for section in source.split("section ").skip(1) {
            let number: String = section.chars().take_while(char::is_ascii_digit).collect();
            let head = format!("## {number}. ");
            let exists = protocol.lines().any(|line| line.starts_with(&head));
            assert!(exists, "{name}: docs/protocol.md has no section {number:?}");
            found += 1;
        }
        for path in source.split([' ', ',']).filter(|word| word.contains('/')) {
            assert!(root.join(path).is_file(), "{name}: there is no {path}");
            found += 1;
        }
        assert!(found > 0, "{name} has no source");
        names.insert(name.to_owned());
    }
    let files = fs::read_dir(root.join("tests/sim/invariants")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<_> = files.map(|file| file.trim_end_matches(".rs").to_owned()).collect();
    assert_eq!(names, files, "one file each");
}

/// A core that falls over tells what led to it as any other violation does.
#[test]
fn a_panic_is_told_as_a_short_story() {
    let mutant = Mutant::BadDataCrashes;
    let setup = |seed| Setup { only: Some("never_panics"), ..mutant.setup(seed) };
    let (seed, outcome) = search(0..1_000, setup, |_, _| true).found.unwrap();
    let text = outcome.violation.clone().unwrap().text;
    assert!(text.starts_with("unexpected lease (tests/sim/world/"), "{text}");
    let told = explain(&setup(seed), &outcome);
    let faults = told.lines().filter(|line| line.contains(" !! ") && !line.contains("over:"));
    assert!((1..=3).contains(&faults.count()), "{told}");
    assert!(told.contains(&format!("VIOLATED never_panics: {text}")), "{told}");
}

/// Every seed that violates something, for whoever has to mend more than one thing.
fn list(seeds: std::ops::Range<u64>) {
    let found = AtomicU64::new(0);
    let tell = |seed, violation: &Violation| {
        println!("{seed} {} {}", violation.invariant, violation.text);
        found.fetch_add(1, Ordering::Relaxed);
        false
    };
    let steps = search(seeds, Setup::of, tell).steps;
    println!("{steps} steps");
    assert_eq!(found.into_inner(), 0, "seeds that violate something");
}

#[allow(clippy::disallowed_types, reason = "how fast it is, for people")]
#[test]
fn seeds_violate_nothing() {
    let began = std::time::Instant::now();
    if let Some(seed) = number("SIM_SEED") {
        let setup = Setup::of(seed);
        let outcome = run(&setup, None, true);
        println!("{}", outcome.log.join("\n"));
        assert!(outcome.violation.is_none(), "{}", explain(&setup, &outcome));
        return;
    }
    let from = number("SIM_FROM").unwrap_or(0);
    let count = number("SIM_SEEDS").unwrap_or(FEW);
    if number("SIM_ALL").is_some() {
        return list(from..from + count);
    }
    let Searched { found, steps, unjudged } = search(from..from + count, Setup::of, |_, _| true);
    if let Some((seed, outcome)) = found {
        panic!("{}", explain(&Setup::of(seed), &outcome));
    }
    let judged = count - unjudged.values().sum::<u64>();
    println!("convergence was judged in {judged} of {count} seeds; not judged: {unjudged:?}");
    let speed = u128::from(steps) * 1_000 / began.elapsed().as_millis().max(1);
    println!("sim: {count} seeds, {steps} steps, {speed} steps/s, 0 violations");
}

#[test]
fn every_mutant_is_found() {
    let mut missed = Vec::new();
    for (mutant, invariant) in Mutant::ALL {
        let setup = |seed| Setup { only: Some(invariant), ..mutant.setup(seed) };
        let is_it = |_, violation: &Violation| violation.invariant == *invariant;
        // What takes three things that are rare together is looked for where it is not far.
        let first = if *mutant == Mutant::LossAccepted { 1_500 } else { 0 };
        let Searched { found, steps, .. } = search(first..4_000, setup, is_it);
        match found {
            Some((seed, outcome)) => {
                let text = outcome.violation.map_or(String::new(), |violation| violation.text);
                println!("{mutant:?}: {invariant}, seed {seed}, {steps} steps: {text}");
            }
            None => missed.push((mutant, invariant)),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
