//! What many rounds came to, as a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use super::plan::Kind;
use super::round::{Outcome, directory};

/// Sums over rounds.
#[derive(Default)]
pub(super) struct Report {
    rounds: usize,
    synchronous: usize,
    injected: BTreeMap<Kind, usize>,
    skipped: usize,
    failovers: Vec<Duration>,
    pauses: [Vec<Duration>; 2],
    watched: [Duration; 2],
    converged: Vec<Duration>,
    promotions: usize,
    exits: usize,
    /// Asynchronous and synchronous, as all pairs here.
    commits: [usize; 2],
    lost: [usize; 2],
    alternations: usize,
    /// Seed and sentence.
    pub(super) violations: Vec<(u64, String)>,
}

impl Report {
    /// Adds a round, and writes the table anew.
    pub(super) fn add(&mut self, outcome: Outcome) {
        let mode = usize::from(outcome.synchronous);
        self.rounds += 1;
        self.synchronous += mode;
        for kind in outcome.injected {
            *self.injected.entry(kind).or_default() += 1;
        }
        self.skipped += outcome.skipped;
        self.failovers.extend(outcome.failovers);
        self.pauses[mode].extend(outcome.pauses);
        self.watched[mode] += outcome.watched;
        self.converged.extend(outcome.converged);
        self.promotions += outcome.promotions;
        self.exits += outcome.exits;
        self.commits[mode] += outcome.commits;
        self.lost[mode] += outcome.lost;
        self.alternations += outcome.alternations;
        self.violations.extend(outcome.violations.into_iter().map(|why| (outcome.seed, why)));
        let to = directory();
        if let Err(why) =
            fs::create_dir_all(&to).and_then(|()| fs::write(to.join("summary.md"), self.table()))
        {
            println!("{}: {why}", to.display());
        }
    }

    /// The table, in Markdown.
    pub(super) fn table(&self) -> String {
        let mut text = String::from("| what | figure |\n|---|---|\n");
        let mut row = |what: &str, figure: String| writeln!(text, "| {what} | {figure} |").unwrap();
        let faults: usize = self.injected.values().sum();
        row(
            "rounds (of them with synchronous replication)",
            format!("{} ({})", self.rounds, self.synchronous),
        );
        row(
            "time with clients and faults",
            format!("{:.1} min", self.watched.iter().sum::<Duration>().as_secs_f64() / 60.0),
        );
        row(
            "faults injected (planned, and not possible or excluded)",
            format!("{faults} ({})", self.skipped),
        );
        row("**violations**", format!("**{}**", self.violations.len()));
        row("alternations (commits of two members at once)", self.alternations.to_string());
        row(
            "acknowledged commits, asynchronous (lost)",
            format!("{} ({})", self.commits[0], self.lost[0]),
        );
        row(
            "acknowledged commits, synchronous (lost)",
            format!("{} ({})", self.commits[1], self.lost[1]),
        );
        row(
            "promotions; changes of who acknowledges",
            format!("{}; {}", self.promotions, self.failovers.len()),
        );
        row("write unavailability per such change: median, longest", two(&self.failovers));
        // A synchronous commit waits for every standby: most faults stop them.
        for (mode, name) in ["asynchronous", "synchronous"].into_iter().enumerate() {
            let pauses = &self.pauses[mode];
            let total: Duration = pauses.iter().sum();
            let share = 100.0 * total.as_secs_f64() / self.watched[mode].as_secs_f64().max(0.001);
            let sum = format!("{} times, {}, {share:.1} %", pauses.len(), seconds(total));
            row(&format!("no commit for more than 0.5 s, {name}: times, sum, share"), sum);
            row(&format!("these, {name}: median, longest"), two(pauses));
        }
        row("converged after all was mended: median, longest", two(&self.converged));
        row("agents that ended unasked", self.exits.to_string());
        text.push_str("\n| fault | injected |\n|---|---|\n");
        for kind in Kind::all() {
            let count = self.injected.get(&kind).copied().unwrap_or(0);
            writeln!(text, "| {kind} | {count} |").unwrap();
        }
        for (seed, why) in &self.violations {
            write!(text, "\nseed {seed}: {}\n", why.lines().next().unwrap_or_default()).unwrap();
        }
        text
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Median and maximum.
fn two(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    let (Some(median), Some(longest)) = (times.get(times.len() / 2), times.last()) else {
        return "–".to_owned();
    };
    format!("{}, {}", seconds(*median), seconds(*longest))
}
