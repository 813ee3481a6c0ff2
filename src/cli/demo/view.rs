//! What the demo shows while it runs: a table that refreshes on a terminal, plain lines otherwise.
//! All of it on standard error: standard output is for the report.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::output::{bytes, complain, table};
use super::ledger::{Ledger, SharedLedger};
use super::said::{Said, ask};
use crate::core::time::Instant;
use crate::postmaster::now;

/// Time between two pictures.
const REFRESH: Duration = Duration::from_millis(250);
/// Lines of progress shown below the table.
const NOTES: usize = 10;

/// Where the demo says what it does. Clones are the same board.
#[derive(Clone, Debug)]
pub(super) struct Board(Arc<Mutex<Contents>>);

#[derive(Debug)]
struct Contents {
    /// The table is drawn; otherwise notes are printed as they come.
    live: bool,
    notes: Vec<String>,
    run: Option<(SharedLedger, Instant)>,
    drawn: usize,
}

impl Board {
    /// An empty one.
    pub(super) fn new() -> Self {
        let live = std::io::stderr().is_terminal();
        Self(Arc::new(Mutex::new(Contents { live, notes: Vec::new(), run: None, drawn: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what happens.
    pub(super) fn say(&self, text: impl Into<String>) {
        let text = text.into();
        let mut contents = self.lock();
        if contents.live { contents.notes.push(text) } else { complain(&text) }
    }

    /// From now on the clients' figures come from `ledger`.
    pub(super) fn begin(&self, ledger: &SharedLedger) {
        self.lock().run = Some((ledger.clone(), now()));
    }

    /// Draws the members (name and HTTP address) again and again; without a terminal it never does.
    pub(super) async fn draw(&self, members: &[(String, String)]) {
        if !self.lock().live {
            return std::future::pending().await;
        }
        loop {
            let mut said = Vec::new();
            for (name, http) in members {
                said.push((name.clone(), ask(http).await));
            }
            self.frame(&said);
            tokio::time::sleep(REFRESH).await;
        }
    }

    fn frame(&self, said: &[(String, Option<Said>)]) {
        let mut contents = self.lock();
        let figures = contents
            .run
            .as_ref()
            .map_or_else(String::new, |(ledger, since)| figures(&ledger.lock(), *since, now()));
        let from = contents.notes.len().saturating_sub(NOTES);
        let text =
            format!("{}\n\n{figures}\n{}\n", members(said), contents.notes[from..].join("\n"));
        // Up over the last picture, and clear what is below.
        let up =
            if contents.drawn > 0 { format!("\x1b[{}A", contents.drawn) } else { String::new() };
        let mut stderr = std::io::stderr().lock();
        // Lines longer than the terminal is wide are cut: wrapped ones would not be counted.
        // A closed terminal is no reason to stop.
        drop(write!(stderr, "{up}\x1b[J\x1b[?7l{text}\x1b[?7h").and_then(|()| stderr.flush()));
        contents.drawn = text.lines().count();
    }
}

fn members(said: &[(String, Option<Said>)]) -> String {
    let leader = said.iter().find_map(|(_, said)| said.as_ref().filter(|said| said.leads()));
    let row = |(name, said): &(String, Option<Said>)| match said {
        None => vec![name.clone(), "no answer".to_owned(), "-".into(), "-".into(), "-".into()],
        Some(said) => {
            let lag = leader.and_then(|leader| leader.lag_of(name)).or_else(|| said.lag_of(name));
            vec![
                name.clone(),
                said.state.to_string(),
                if said.is_primary { "primary" } else { "replica" }.to_owned(),
                lag.map_or("-".to_owned(), bytes),
                said.epoch.to_string(),
            ]
        }
    };
    table(&["MEMBER", "STATE", "ROLE", "LAG", "EPOCH"], said.iter().map(row))
}

fn figures(ledger: &Ledger, since: Instant, now: Instant) -> String {
    let second = now - Duration::from_secs(1);
    let last = ledger
        .last()
        .map_or("none yet".to_owned(), |ack| format!("{} ms ago", now.since(ack.at).as_millis()));
    format!(
        "client: {} commits/s, last {last}, longest gap {} ms\n",
        ledger.count_since(second),
        ledger.longest_gap(since, now).as_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::ledger::{Ack, Writer};

    #[test]
    fn figures_are_of_the_last_second_and_the_whole_run() {
        let mut ledger = Ledger::default();
        for at in [1_000, 1_005, 2_900, 2_905] {
            let at = Instant::from_millis(at);
            ledger.push(Ack { at, writer: Writer::Following, member: 0, timeline: 1, seq: 1 });
        }
        assert_eq!(
            figures(&ledger, Instant::from_millis(900), Instant::from_millis(3_000)),
            "client: 2 commits/s, last 95 ms ago, longest gap 1895 ms\n"
        );
    }

    #[test]
    fn an_agent_that_does_not_answer_has_its_row() {
        let said: Said = serde_json::from_str(
            r#"{"state":"primary_healthy","epoch":2,"is_primary":true,"writable":true,
                "members":[{"member":"b","lag":5}]}"#,
        )
        .unwrap();
        let text = members(&[("a".to_owned(), Some(said)), ("b".to_owned(), None)]);
        assert!(text.contains("primary_healthy") && text.contains("no answer"), "{text}");
    }
}
