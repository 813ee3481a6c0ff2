//! The soak itself, and short rounds for every run of the tests.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::Plan;
use super::report::Report;
use super::round;

/// The seed of the round in every run.
const ROUND: u64 = 201;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|why| panic!("{name}={text}: {why}")))
}

/// `just soak MINUTES [SEED]`: rounds until the time is up, or the round of one seed.
#[test]
#[ignore = "takes as long as it is told to: just soak MINUTES"]
fn soak() {
    crate::support::postgres::need_root();
    let minutes = setting("SOAK_MINUTES").unwrap_or(10);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let only = setting("SOAK_SEED");
    let mut seed = only.or(setting("SOAK_FROM")).unwrap_or_else(|| {
        let now = jiff::Timestamp::now().as_second();
        u64::try_from(now).unwrap() % 1_000_000 * 1_000
    });
    let mut report = Report::default();
    loop {
        let plan = Plan::new(seed);
        print!("{plan}");
        let outcome = round::run(&plan, true);
        println!("{}", outcome.story);
        for violation in &outcome.violations {
            println!("VIOLATION in seed {seed}: {violation}");
        }
        report.add(outcome);
        seed += 1;
        if only.is_some() || Instant::now() > end {
            break;
        }
    }
    println!("{}", report.table());
    assert_eq!(report.violations, [], "violations");
}

/// A short round in every run of the tests: the plan of a seed that has a bit of everything.
#[test]
fn a_round() {
    crate::support::postgres::need_root();
    let plan = Plan::new(ROUND);
    print!("{plan}");
    let outcome = round::run(&plan, true);
    println!("{}", outcome.story);
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert!(outcome.commits > 100 && !outcome.injected.is_empty(), "{outcome:?}");
}

#[test]
fn a_seed_gives_the_same_plan_again() {
    for seed in 0..50 {
        assert_eq!(Plan::new(seed), Plan::new(seed));
    }
    assert_ne!(Plan::new(1), Plan::new(2));
}
