//! The searches.

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

/// Runs seeds on two threads until one violates something that `counts`; gives it, and the steps.
fn search(
    seeds: std::ops::Range<u64>,
    setup: impl Fn(u64) -> Setup + Sync,
    counts: impl Fn(u64, &Violation) -> bool + Sync,
) -> (Option<(u64, Outcome)>, u64) {
    let next = AtomicU64::new(seeds.start);
    let steps = AtomicU64::new(0);
    let found: Mutex<Option<(u64, Outcome)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let stop =
                        found.lock().unwrap().as_ref().is_some_and(|(first, _)| *first < seed);
                    if seed >= seeds.end || stop {
                        return;
                    }
                    let outcome = run(&setup(seed), None, false);
                    steps.fetch_add(outcome.steps, Ordering::Relaxed);
                    if outcome.violation.as_ref().is_some_and(|found| counts(seed, found)) {
                        let mut found = found.lock().unwrap();
                        if found.as_ref().is_none_or(|(first, _)| seed < *first) {
                            *found = Some((seed, outcome));
                        }
                    }
                }
            });
        }
    });
    (found.into_inner().unwrap(), steps.into_inner())
}

/// What to read about a violation.
fn explain(setup: &Setup, outcome: &Outcome) -> String {
    let Some(violation) = &outcome.violation else { return "no violation".to_owned() };
    let story = shrink(setup, &outcome.story, violation.invariant);
    let told = run(setup, Some(&story), true);
    let text = told.violation.map_or(String::new(), |violation| violation.text);
    let from = told.log.len().saturating_sub(250);
    format!(
        "seed {seed} violates {name}: {sentence}\n{text}\n{setup:?}\nreplay: just sim {seed}\n\
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
    let mut states = std::collections::BTreeSet::new();
    let mut kinds = std::collections::BTreeSet::new();
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
    for invariant in invariants::all() {
        assert!(invariant.sentence().ends_with('.'), "{}", invariant.name());
        assert!(invariant.source().contains("section") || invariant.source().contains("src/"));
        let has = Mutant::ALL.iter().any(|(_, name)| *name == invariant.name());
        assert!(has, "{} has no mutant", invariant.name());
    }
}

/// Every seed that violates something, for whoever has to mend more than one thing.
fn list(seeds: std::ops::Range<u64>) {
    let found = AtomicU64::new(0);
    let tell = |seed, violation: &Violation| {
        println!("{seed} {} {}", violation.invariant, violation.text);
        found.fetch_add(1, Ordering::Relaxed);
        false
    };
    let (_, steps) = search(seeds, Setup::of, tell);
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
    let (found, steps) = search(from..from + count, Setup::of, |_, _| true);
    if let Some((seed, outcome)) = found {
        panic!("{}", explain(&Setup::of(seed), &outcome));
    }
    let speed = u128::from(steps) * 1_000 / began.elapsed().as_millis().max(1);
    println!("sim: {count} seeds, {steps} steps, {speed} steps/s, 0 violations");
}

#[test]
fn every_mutant_is_found() {
    let mut missed = Vec::new();
    for (mutant, invariant) in Mutant::ALL {
        let setup = |seed| Setup { only: Some(invariant), ..mutant.setup(seed) };
        let (found, steps) = search(0..1_000, setup, |_, _| true);
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
