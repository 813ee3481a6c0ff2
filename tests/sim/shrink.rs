//! A violation made short: faults are left out as long as it is still violated without them.

use super::run::{Story, run};
use super::setup::Setup;

/// Runs that shrinking may cost.
const TRIES: usize = 600;

/// The shortest story found in which `invariant` is violated.
pub(crate) fn shrink(setup: &Setup, story: &Story, invariant: &str) -> Story {
    let mut best = story.clone();
    let mut tries = 0;
    let mut parts = 2;
    while best.len() > 1 && tries < TRIES {
        let size = best.len().div_ceil(parts);
        let mut shorter = None;
        for begin in (0..best.len()).step_by(size) {
            let end = (begin + size).min(best.len());
            let rest: Story = best[..begin].iter().chain(&best[end..]).copied().collect();
            tries += 1;
            let outcome = run(setup, Some(&rest), false);
            if outcome.violation.is_some_and(|found| found.invariant == invariant) {
                shorter = Some(rest);
                break;
            }
        }
        match shorter {
            Some(story) => {
                best = story;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(best.len()),
        }
    }
    best
}
