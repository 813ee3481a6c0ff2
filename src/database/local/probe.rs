//! The write probe: a small commit, because a server that answers questions may still be unable to write.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shared;
use super::sql::{Session, Trouble};

/// Writes a few bytes of WAL and flushes them, without waiting for any standby.
const WRITE: &str = "select pg_logical_emit_message(true, 'harmony', '')";

/// The probe's state from look to look.
#[derive(Debug, Default)]
pub(super) struct Probe {
    session: Option<Arc<Session>>,
    writing: Option<JoinHandle<(Option<Arc<Session>>, Result<(), Trouble>)>>,
    began: Option<Instant>,
    last: Option<Instant>,
    silent: Duration,
    full: Option<String>,
}

/// What the probe has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// Nothing against the server.
    Fine,
    /// Writes fail for want of space.
    DiskFull(String),
    /// The last write has not finished for too long.
    Hung(String),
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(writing) = &self.writing {
            writing.abort();
        }
    }
}

impl Probe {
    /// Looks after the write under way and starts one when it is time. Never waits for it.
    pub(super) async fn check(
        &mut self,
        shared: &Arc<Shared>,
        step_limit: Duration,
    ) -> ProbeResult {
        let settings = &shared.place.settings;
        if settings.write_probe_interval.is_zero() {
            return ProbeResult::Fine;
        }
        self.collect(step_limit).await;
        let due = self.began.is_none_or(|began| began.elapsed() >= settings.write_probe_interval);
        if self.writing.is_none() && due {
            self.began = Some(Instant::now());
            self.silent = Duration::ZERO;
            let session = self.session.take().filter(|session| session.is_open());
            self.writing = Some(tokio::spawn(write(Arc::clone(shared), session)));
        }
        if let Some(text) = &self.full {
            return ProbeResult::DiskFull(text.clone());
        }
        if self.writing.is_some() && self.silent >= settings.hung_after {
            return ProbeResult::Hung(format!("a write has not finished for {:?}", self.silent));
        }
        ProbeResult::Fine
    }

    async fn collect(&mut self, step_limit: Duration) {
        let now = Instant::now();
        let step = self.last.replace(now).map_or(Duration::ZERO, |last| now - last);
        let Some(writing) = self.writing.as_mut() else { return };
        self.silent += step.min(step_limit);
        if !writing.is_finished() {
            return;
        }
        let done = writing.await;
        self.writing = None;
        self.silent = Duration::ZERO;
        let Ok((session, result)) = done else { return };
        self.session = session;
        match result {
            Ok(()) => self.full = None,
            Err(Trouble::DiskFull(text)) => self.full = Some(text),
            // The question asked beside it says better what is wrong.
            Err(trouble) => tracing::debug!(%trouble, "the write probe failed"),
        }
    }
}

async fn write(
    shared: Arc<Shared>,
    session: Option<Arc<Session>>,
) -> (Option<Arc<Session>>, Result<(), Trouble>) {
    let session = match session {
        Some(session) => session,
        None => match Session::open(&shared.place).await {
            Ok(session) => Arc::new(session),
            Err(trouble) => return (None, Err(trouble)),
        },
    };
    let result = session.client.batch_execute(WRITE).await.map_err(Trouble::from);
    (Some(session), result)
}
