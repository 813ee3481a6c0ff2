//! The searches of the suite `model`.

use std::collections::BTreeSet;

use harmony_agent::core::event::State;

use super::bounds::{BEYOND, CI, CLAIMS, Claim, MORE, SMALL};
use super::canon::mark;
use super::search::{Report, explain, explore};
use super::terms::{Search, Start};
use crate::sim::mutant::Mutant;
use crate::sim::run::Run;
use crate::sim::world::fault::Kind;
use crate::sim::world::{Item, World};

/// Goes through searches and says what each came to.
#[allow(clippy::disallowed_types, reason = "how long it takes, for people")]
fn go(searches: &[Search]) -> Vec<Report> {
    let explored = |search: &Search| {
        let began = std::time::Instant::now();
        let report = explore(search, None, 2);
        let Report { states, ways, steps, .. } = &report;
        let seconds = began.elapsed().as_secs();
        println!("{search}:\n  {states} states, {ways} ways, {steps} steps of cores, {seconds} s");
        let (members, kinds) = (report.members.len(), report.kinds.len());
        println!("  members in {members} states, {kinds} kinds of faults");
        println!("  states by layer: {:?}", report.layers.values().collect::<Vec<_>>());
        assert!(report.found.is_none(), "{}", explain(search, None, report.found.as_ref()));
        report
    };
    searches.iter().map(explored).collect()
}

#[test]
fn nothing_is_violated_within_the_bounds() {
    let more = std::env::var("MODEL_MORE").ok();
    let reports = match more.as_deref() {
        None => go(CI),
        Some("") => go(MORE),
        Some(word) => {
            let all = || CI.iter().chain(MORE).copied();
            let exact = all().any(|search| search.name == word);
            let named = |name: &str| if exact { name == word } else { name.contains(word) };
            go(&all().filter(|search| named(search.name)).collect::<Vec<_>>())
        }
    };
    let states: u64 = reports.iter().map(|report| report.states).sum();
    println!("model: {states} states, 0 violations");
    if more.is_none() {
        // What nothing leads to is not searched.
        let members: BTreeSet<State> = reports.iter().flat_map(|it| it.members.clone()).collect();
        let kinds: BTreeSet<Kind> = reports.iter().flat_map(|it| it.kinds.clone()).collect();
        let missing: Vec<_> = Kind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
        assert!(members.len() == State::ALL.len(), "{members:?}");
    }
}

#[allow(clippy::disallowed_types, reason = "how long it takes, for people")]
#[test]
fn every_mutant_within_the_bounds_is_found() {
    let mut missed = Vec::new();
    for Claim { mutant, invariant, search } in CLAIMS {
        let began = std::time::Instant::now();
        let report = explore(search, Some((*mutant, invariant)), 2);
        match report.found {
            Some(found) if found.violation.invariant == *invariant => {
                let (layer, faults, text) = (found.layer, found.faults(), found.violation.text);
                let took = began.elapsed().as_millis();
                println!(
                    "{mutant:?}: {invariant}, {faults} faults, layer {layer}, {took} ms: {text}"
                );
            }
            Some(_) | None => missed.push((mutant, invariant)),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn every_mutant_is_claimed_or_said_to_be_beyond() {
    let claimed = |mutant: Mutant, name: &str| {
        let found = CLAIMS.iter().any(|claim| claim.mutant == mutant && claim.invariant == name);
        found != BEYOND.iter().any(|(beyond, of, _)| *beyond == mutant && *of == name)
    };
    let left: Vec<_> =
        Mutant::ALL.iter().filter(|(mutant, name)| !claimed(*mutant, name)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Checked before the figures are believed.
#[test]
fn a_result_does_not_depend_on_threads() {
    for mutant in [None, Some((Mutant::ImpatientCandidate, "one_writer"))] {
        let [one, two] = [1, 2].map(|threads| explore(&SMALL, mutant, threads));
        assert_eq!(one.found, two.found);
        assert_eq!(mutant.is_some(), one.found.is_some());
        if mutant.is_none() {
            assert_eq!(one, two);
        }
        // A path told again leads to the same.
        if let Some(found) = &one.found {
            let told = explain(&SMALL, mutant, Some(found));
            assert!(told.contains(&format!("VIOLATED one_writer: {}", found.violation.text)));
        }
    }
}

/// With less time it is not found, with a little more it is found just there.
#[test]
fn a_counterexample_is_the_shortest() {
    let mutant = Some((Mutant::ImpatientCandidate, "one_writer"));
    let within = |horizon| explore(&Search { horizon, ..SMALL }, mutant, 2).found;
    let found = within(SMALL.horizon).expect("a violation");
    let enough = found.layer.div_ceil(SMALL.layers) - SMALL.first;
    assert_eq!(within(enough).map(|it| it.layer), Some(found.layer));
    assert_eq!(within(enough - 1), None);
}

/// That is why the first fault is looked for within one heartbeat interval only.
#[test]
fn a_cluster_that_works_repeats_itself() {
    let reports = [0, 1, 5].map(|later| {
        let start = Start { later, ..SMALL.start };
        explore(&Search { start, ..SMALL }, None, 2)
    });
    for report in &reports[1..] {
        assert_eq!(report.layers, reports[0].layers);
        assert_eq!(report.ways, reports[0].ways);
    }
}

#[test]
fn only_what_can_matter_tells_states_apart() {
    let mut run = Run::new(World::new(SMALL.setups(None).remove(0), false));
    run.until_converged(u64::MAX / 4, "the cluster did not come up");
    let life = run.world.machines[0].agent.as_ref().map_or(0, |agent| agent.life);
    let with = |item: Item| {
        let mut other = run.clone();
        other.world.later(1, item);
        mark(&other, 0)
    };
    let known = mark(&run, 0);
    assert_eq!(known, with(Item::Wake(0, life, 0)), "a timer that was moved");
    assert_eq!(known, with(Item::Hint(0, life + 1)), "for an agent that is not there");
    assert_ne!(known, with(Item::Hint(0, life)));
    assert_ne!(known, with(Item::Hint(1, life)));
    assert_ne!(known, mark(&run, 1), "other settings");
    let mut other = run.clone();
    other.world.machines[1].db.fences += 1;
    assert_ne!(known, mark(&other, 0));
}
