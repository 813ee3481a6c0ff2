//! Asks the core again, and compares.

use std::fmt;
use std::io::{BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde_json::Value;

use super::difference;
use super::line::{BEGINS, LONGEST_LINE, Line, SCHEMA, Start, Step};
use crate::core::Agent;
use crate::core::event::Event;
use crate::core::time::Instant;

/// Where the recorded and the computed core part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Number of the step.
    pub step: u64,
    /// Line of the file, counted from 1.
    pub line: u64,
    /// The time of the step.
    pub at: Instant,
    /// What the core was told; `None` when a start shows another core than the steps before it gave.
    pub event: Option<Value>,
    /// Effects, or core, as recorded.
    pub recorded: Vec<Value>,
    /// The same, computed now.
    pub computed: Vec<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, line, at, event, recorded, computed } = self;
        writeln!(f, "first difference: step {step} at {at} (line {line})")?;
        match event {
            Some(event) => writeln!(f, "event:\n{event:#}\neffects, - recorded, + computed:")?,
            None => writeln!(f, "the core after the steps before, - recorded, + computed:")?,
        }
        f.write_str(&difference::compare(recorded, computed))
    }
}

/// A line that was replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The core was set up anew, or goes on.
    Start(Start),
    /// The core asked for the same.
    Same(Step),
    /// It did not; there is no going on.
    Differs(Box<Difference>),
    /// The last line has no end: it was cut off while it was being written.
    Cut,
}

/// Why a recording cannot be replayed any further.
#[derive(Debug)]
pub struct ReplayError {
    /// Line of the file, counted from 1.
    pub line: u64,
    /// Steps replayed before, without a difference.
    pub steps: u64,
    /// What is wrong.
    pub what: Trouble,
}

/// What is wrong with a recording.
#[derive(Debug)]
pub enum Trouble {
    /// The file cannot be read.
    Unreadable(std::io::Error),
    /// There is nothing in it.
    Empty,
    /// It is something else.
    Foreign(String),
    /// Another major version.
    Schema {
        /// The version of the recording.
        found: String,
    },
    /// The version is ours, but what it says is not understood.
    NotUnderstood(String),
    /// Damaged, or edited.
    Damaged(String),
    /// The core panicked.
    Broke(String),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Trouble::Unreadable(error) => write!(f, "cannot be read: {error}")?,
            Trouble::Empty => f.write_str(
                "is empty: nothing has been recorded; name the file of record.file, or the one before it (.1)",
            )?,
            Trouble::Foreign(why) => write!(
                f,
                "is no recording of harmony-agent ({why}); name the file of record.file, by default \
                 recording.jsonl in state_dir"
            )?,
            Trouble::Schema { found } => write!(
                f,
                "line {}: a recording of schema {found:?}, this release reads {SCHEMA}; replay it with \
                 the release that made it",
                self.line
            )?,
            Trouble::NotUnderstood(why) => write!(
                f,
                "line {}: {why}; if another release made it, replay it with that one",
                self.line
            )?,
            Trouble::Damaged(why) => write!(
                f,
                "line {}: {why}: damaged, or edited; what follows the next start can be replayed on its \
                 own: remove what is before it",
                self.line
            )?,
            Trouble::Broke(why) => {
                write!(f, "line {}: the core panicked: {why}; report this", self.line)?;
            }
        }
        if self.steps > 0 {
            write!(f, " ({} steps before it replayed without difference)", self.steps)?;
        }
        Ok(())
    }
}

impl std::error::Error for ReplayError {}

/// A core under way.
#[derive(Debug)]
struct Running {
    agent: Agent,
    next: u64,
    at: Instant,
}

/// Replays the lines of one recording, or of several in order.
#[derive(Debug, Default)]
pub struct Replay {
    running: Option<Running>,
    line: u64,
    steps: u64,
    lost: u64,
}

impl Replay {
    /// A replay of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Steps replayed without difference.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps that are not in the recording, as it says itself.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Replays a file until its end, or the first difference; `seen` is told of every line.
    ///
    /// # Errors
    /// The file cannot be read, or is no recording that this release understands.
    pub fn file(
        &mut self,
        mut file: impl BufRead,
        mut seen: impl FnMut(&Taken),
    ) -> Result<(), ReplayError> {
        self.line = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            self.line += 1;
            let read = file.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut line);
            let read = read.map_err(|error| self.error(Trouble::Unreadable(error)))?;
            if read == 0 {
                return match self.line {
                    1 => Err(self.error(Trouble::Empty)),
                    _ => Ok(()),
                };
            }
            let taken = self.take(&line)?;
            seen(&taken);
            if matches!(taken, Taken::Differs(_) | Taken::Cut) {
                return Ok(());
            }
        }
    }

    fn error(&self, what: Trouble) -> ReplayError {
        ReplayError { line: self.line, steps: self.steps, what }
    }

    fn damaged(&self, why: impl Into<String>) -> ReplayError {
        self.error(Trouble::Damaged(why.into()))
    }

    fn take(&mut self, line: &[u8]) -> Result<Taken, ReplayError> {
        let cut = !line.ends_with(b"\n");
        if self.line == 1 {
            self.check_begin(line)?;
        }
        match serde_json::from_slice(line) {
            _ if line.len() > LONGEST_LINE => {
                Err(self.damaged(format!("longer than {LONGEST_LINE} bytes")))
            }
            Ok(Line::Start(start)) => self.start(start),
            Ok(Line::Step(step)) => self.step(step),
            Err(_) if cut && self.line > 1 => Ok(Taken::Cut),
            Err(error) => Err(self.damaged(format!("neither a start nor a step: {error}"))),
        }
    }

    /// Tells what is no recording, and one of a later release, before anything else is understood.
    fn check_begin(&self, line: &[u8]) -> Result<(), ReplayError> {
        #[derive(Deserialize)]
        struct Version {
            schema: String,
        }
        #[derive(Deserialize)]
        struct Begin {
            start: Version,
        }
        if !line.starts_with(BEGINS.as_bytes()) {
            let shown = String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned();
            return Err(self.error(Trouble::Foreign(format!("it begins with {shown:?}"))));
        }
        let begin: Begin = serde_json::from_slice(line)
            .map_err(|error| self.damaged(format!("its start is not whole: {error}")))?;
        let major = |version: &str| version.split('.').next().map(str::to_owned);
        let found = begin.start.schema;
        if major(&found) == major(SCHEMA) {
            return Ok(());
        }
        let found = found.chars().take(32).collect();
        Err(self.error(Trouble::Schema { found }))
    }

    fn start(&mut self, start: Start) -> Result<Taken, ReplayError> {
        let agent: Agent = Agent::deserialize(&start.state).map_err(|error| {
            let by = &start.agent;
            let why = format!("the core of agent {by:?} is not understood: {error}");
            self.error(Trouble::NotUnderstood(why))
        })?;
        let goes_on = self.running.take().filter(|running| {
            let same = running.agent.identity().boot == start.boot;
            same && running.next == start.step && start.lost == 0
        });
        self.lost = self.lost.saturating_add(start.lost);
        if let Some(running) = goes_on.filter(|running| running.agent != agent) {
            let computed = self.value(&running.agent)?;
            return Ok(Taken::Differs(Box::new(Difference {
                step: start.step,
                line: self.line,
                at: start.at,
                event: None,
                recorded: vec![start.state],
                computed: vec![computed],
            })));
        }
        self.running = Some(Running { agent, next: start.step, at: start.at });
        Ok(Taken::Start(start))
    }

    fn step(&mut self, step: Step) -> Result<Taken, ReplayError> {
        let Some(mut running) = self.running.take() else {
            return Err(self.damaged("a step without a start before it"));
        };
        if step.step != running.next {
            let (found, next) = (step.step, running.next);
            return Err(self.damaged(format!("step {found} where step {next} is due")));
        }
        if step.at < running.at {
            return Err(self.damaged(format!("its time {} is before {}", step.at, running.at)));
        }
        let event = Event::deserialize(&step.event).map_err(|error| {
            self.error(Trouble::NotUnderstood(format!("its event is not understood: {error}")))
        })?;
        let stepped = catch_unwind(AssertUnwindSafe(|| running.agent.step(step.at, event)));
        let effects = stepped.map_err(|panic| self.error(Trouble::Broke(message(&*panic))))?;
        let mut computed = Vec::with_capacity(effects.len());
        for effect in &effects {
            computed.push(self.value(effect)?);
        }
        if computed != step.effects {
            return Ok(Taken::Differs(Box::new(Difference {
                step: step.step,
                line: self.line,
                at: step.at,
                event: Some(step.event),
                recorded: step.effects,
                computed,
            })));
        }
        self.steps += 1;
        self.running =
            Some(Running { agent: running.agent, next: step.step.saturating_add(1), at: step.at });
        Ok(Taken::Same(step))
    }

    fn value(&self, value: &impl serde::Serialize) -> Result<Value, ReplayError> {
        serde_json::to_value(value).map_err(|error| self.damaged(error.to_string()))
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
    text.unwrap_or_else(|| "without a word".to_owned())
}
