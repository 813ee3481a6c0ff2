//! Whether a standby that does not answer yet gets anywhere: by what its processes do.
//!
//! A standby answers once it is consistent. When WAL it needs for that is gone everywhere, it waits for
//! it forever, asking its upstream again every `wal_retrieve_retry_interval`. No question can be asked
//! of it then, but its processes can be looked at: recovery neither computes nor reads, runs no command
//! that fetches WAL, and no WAL receiver lives for long.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

/// How long a standby may do nothing before it answers: a few of its own tries to get WAL.
const PATIENCE: Duration = Duration::from_secs(12);

/// A WAL receiver that lives for so long was let in: one that is refused ends at once.
const LET_IN: Duration = Duration::from_secs(1);

/// How often the processes are looked at.
const EVERY: Duration = Duration::from_millis(100);

/// More than this between two looks is not counted: nobody was there to see.
const STEP: Duration = Duration::from_millis(500);

/// What one look at the processes sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    /// Processor time recovery has used so far, in ticks; `None` when there is no such process.
    recovery: Option<u64>,
    /// It computes or waits for the disk, the processor, a debugger or a command that fetches WAL:
    /// for anything but WAL to come.
    busy: bool,
    /// The WAL receiver's process.
    receiver: Option<i32>,
}

/// Watches one start.
#[derive(Debug, Default)]
pub(in crate::database) struct Progress {
    looked: Option<(Instant, Look)>,
    /// Since when the same WAL receiver has been there.
    received: Option<(i32, Instant)>,
    idle: Duration,
}

impl Progress {
    /// Looks at the children of `postmaster`, when it is time. True when the standby has done nothing
    /// for so long that it is waiting for what does not come.
    pub(in crate::database) fn is_stuck(
        &mut self,
        postmaster: impl FnOnce() -> Option<i32>,
    ) -> bool {
        let due = self.looked.is_none_or(|(at, _)| at.elapsed() >= EVERY);
        if due && let Some(look) = postmaster().and_then(look) {
            self.note(Instant::now(), look);
        }
        self.idle >= PATIENCE
    }

    /// Idleness grows while nothing is done and shrinks while something is: fetching that fails every
    /// few seconds is mostly idle, fetching that is slow is not.
    fn note(&mut self, now: Instant, look: Look) {
        match (look.receiver, self.received) {
            (Some(pid), Some((known, _))) if pid == known => {}
            (Some(pid), _) => self.received = Some((pid, now)),
            (None, _) => self.received = None,
        }
        if let Some((at, last)) = self.looked {
            let step = (now - at).min(STEP);
            let streams = self.received.is_some_and(|(_, since)| now - since >= LET_IN);
            // Without recovery it is shutting down, or has not begun: no business of ours.
            let idles = look.recovery.is_some() && look.recovery == last.recovery;
            if idles && !look.busy && !streams {
                self.idle += step;
            } else {
                self.idle = self.idle.saturating_sub(step);
            }
        }
        self.looked = Some((now, look));
    }
}

/// Looks at the children of `postmaster`; `None` when this kernel does not list them.
fn look(postmaster: i32) -> Option<Look> {
    let mut look = Look::default();
    for child in children(postmaster)? {
        let Ok(title) = fs::read(format!("/proc/{child}/cmdline")) else { continue };
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        match role(&title) {
            Some("startup") => {
                let (state, ticks) = stat(child)?;
                look.recovery = Some(ticks);
                look.busy = state != 'S' || !children(child)?.is_empty();
            }
            Some("walreceiver") => look.receiver = Some(child),
            Some(_) | None => {}
        }
    }
    Some(look)
}

fn children(pid: i32) -> Option<Vec<i32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Some(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// What kind of process calls itself so: the first word behind `postgres:` and the cluster's name.
pub(in crate::database) fn role(title: &str) -> Option<&str> {
    let words = title.strip_prefix("postgres: ")?;
    let kind = |word: &&str| ["startup", "walreceiver"].contains(word);
    let mut before = None;
    for word in words.split_whitespace() {
        let begins = before.is_none_or(|before: &str| before.ends_with(':'));
        if begins && kind(&word) {
            return Some(word);
        }
        before = Some(word);
    }
    None
}

/// State and used processor time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    read_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

pub(in crate::database) fn read_stat(text: &str) -> Option<(char, u64)> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((fields.first()?.chars().next()?, ticks(11)?.saturating_add(ticks(12)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes a look every 100 ms for `seconds`; what it is like depends on its number.
    fn after(seconds: u64, mut look: impl FnMut(u64) -> Look) -> Duration {
        let mut progress = Progress::default();
        let began = Instant::now();
        for number in 0..=seconds * 10 {
            progress.note(began + Duration::from_millis(100 * number), look(number));
        }
        progress.idle
    }

    const IDLE: Look = Look { recovery: Some(7), busy: false, receiver: None };

    #[test]
    fn doing_nothing_is_stuck_even_with_tries_in_between() {
        assert_eq!(after(12, |_| IDLE), PATIENCE);
        // A receiver that is refused, a command that finds nothing, a tick: each once in 5 s.
        let tries = |number: u64| match number % 50 {
            0 => Look { receiver: Some(i32::try_from(number).unwrap() + 1), ..IDLE },
            20..23 => Look { busy: true, ..IDLE },
            _ => Look { recovery: Some(number / 50), ..IDLE },
        };
        assert!(after(16, tries) >= PATIENCE);
    }

    #[test]
    fn slow_is_not_stuck() {
        let computes = |number: u64| Look { recovery: Some(number / 2), ..IDLE };
        let reads = |number: u64| Look { busy: number.is_multiple_of(2), ..IDLE };
        let fetches = |number: u64| Look { busy: number % 50 < 30, ..IDLE };
        let streams = |_| Look { receiver: Some(9), ..IDLE };
        let none = |_| Look { recovery: None, ..IDLE };
        for look in [&computes as &dyn Fn(u64) -> Look, &reads, &fetches, &streams, &none] {
            assert!(after(600, look) <= Duration::from_secs(3));
        }
    }

    #[test]
    fn an_agent_that_was_frozen_counts_nothing() {
        let mut progress = Progress::default();
        let began = Instant::now();
        progress.note(began, IDLE);
        progress.note(began + Duration::from_secs(60), IDLE);
        assert_eq!(progress.idle, STEP);
    }

    #[test]
    fn processes_are_known_by_their_titles() {
        assert_eq!(role("postgres: startup recovering 00000001"), Some("startup"));
        assert_eq!(role("postgres: main: walreceiver streaming 0/3000148"), Some("walreceiver"));
        assert_eq!(role("postgres: my startup: checkpointer "), None);
        assert_eq!(role("postgres: app startup [local] idle"), None);
        assert_eq!(role("postgres: main: startup waiting for 00000001"), Some("startup"));
        assert_eq!(role("/usr/bin/postgres -D startup"), None);
    }
}
