//! Records what the core is told and asks for (`crate::recording`), on a thread of its own.
//!
//! ```text
//!   driver ── bounded channel, never waited for ──► thread ─► record.file ─► record.file.1
//! ```
//!
//! The driver hands over copies; the thread turns them into lines and writes them. When it does not
//! keep up, steps are left out, and the recording says how many and goes on with the core as it is
//! then. When it cannot write, it says so once in the log, and recording is over until the agent is
//! started again. Nothing else depends on it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

use self::files::Files;
use crate::core::Agent;
use crate::core::event::{Effect, Event};
use crate::core::time::Instant;
use crate::recording::{Settings, line};

mod files;

/// Steps that may wait to be written.
const QUEUE: usize = 256;

/// One step on its way to the file.
#[derive(Debug)]
struct Message {
    /// The core before the step, when a start is due.
    state: Option<Box<Agent>>,
    lost: u64,
    step: u64,
    at: Instant,
    event: Event,
    effects: Vec<Effect>,
}

/// A step that has begun: what there was before it.
#[derive(Debug)]
pub struct Begun {
    state: Option<Box<Agent>>,
    at: Instant,
    event: Event,
}

/// The driver's end. Dropped, it ends the recording once what waits is written.
#[derive(Debug)]
pub struct Recording {
    steps: Option<SyncSender<Message>>,
    /// The thread wants a start with the next step.
    wanted: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
    step: u64,
    lost: u64,
}

impl Recording {
    /// Starts a recording; what hinders it is said in the log, now or later.
    pub fn start(settings: Settings) -> Self {
        let (sender, receiver) = sync_channel(QUEUE);
        let wanted = Arc::new(AtomicBool::new(true));
        let (end, ended) = oneshot::channel();
        let flag = Arc::clone(&wanted);
        let path = settings.file.clone();
        let thread = std::thread::Builder::new()
            .name("recording".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || {
                if let Err(error) = write(&settings, &receiver, &flag) {
                    say_over(&settings.file, &error);
                }
                drop(end);
            });
        if let Err(error) = &thread {
            say_over(&path, &format!("its thread cannot be started: {error}"));
        }
        let steps = thread.is_ok().then_some(sender);
        Self { steps, wanted, ended, step: 0, lost: 0 }
    }

    /// Takes down what the core is about to be told.
    pub fn begin(&self, agent: &Agent, at: Instant, event: &Event) -> Option<Begun> {
        self.steps.as_ref()?;
        let due = self.wanted.swap(false, Ordering::AcqRel) || self.lost > 0;
        let state = due.then(|| Box::new(agent.clone()));
        Some(Begun { state, at, event: event.clone() })
    }

    /// Takes down what the core asked for.
    pub fn end(&mut self, begun: Option<Begun>, effects: &[Effect]) {
        let (Some(Begun { state, at, event }), Some(steps)) = (begun, &self.steps) else { return };
        self.step += 1;
        let (lost, step, effects) = (self.lost, self.step, effects.to_vec());
        match steps.try_send(Message { state, lost, step, at, event, effects }) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(_)) => self.lost += 1,
            Err(TrySendError::Disconnected(_)) => self.steps = None,
        }
    }

    /// Ends it, waiting at most `limit` for what is not written yet.
    pub async fn close(mut self, limit: Duration) {
        self.steps = None;
        // Late or gone: there is nothing to be done about it.
        drop(tokio::time::timeout(limit, self.ended).await);
    }
}

fn say_over(file: &Path, error: &str) {
    tracing::warn!(
        file = %file.display(),
        error,
        "recording is over until the agent is started again; mend the cause, or set record.max_size = \"0B\""
    );
}

/// Writes what comes until nothing comes any more.
fn write(
    settings: &Settings,
    steps: &Receiver<Message>,
    wanted: &AtomicBool,
) -> Result<(), String> {
    let mut files = Files::open(&settings.file, settings.max_size / 2)?;
    // Steps left out here, beside those the driver left out.
    let mut lost = 0;
    while let Ok(Message { state, lost: before, step, at, event, effects }) = steps.recv() {
        let mut lines = Vec::new();
        lost += before;
        if let Some(agent) = &state {
            let time = jiff::Timestamp::now().to_string();
            lines = line::start(agent, step, at, lost, time).map_err(|error| error.to_string())?;
        }
        let line = line::step(step, at, &event, &effects).map_err(|error| error.to_string())?;
        lines.extend(line);
        if files.append(&lines, state.is_some())? {
            lost = if state.is_some() { 0 } else { lost };
        } else {
            lost += 1;
        }
        wanted.store(lost > 0 || files.is_nearly_full(), Ordering::Release);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
