//! The write probe: a small commit, because a server that answers questions may still be unable to write.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Server;
use super::sql::{Session, Trouble};

/// Writes a few bytes of WAL and flushes them, without waiting for any standby.
const WRITE: &str = "select pg_logical_emit_message(true, 'harmony', '')";

/// How a write ended, and the connection while it is good.
type Written = (Option<Arc<Session>>, Result<(), Trouble>);

/// The probe's state from look to look.
#[derive(Debug, Default)]
pub(in crate::database) struct Probe {
    session: Option<Arc<Session>>,
    writing: Option<JoinHandle<Written>>,
    began: Option<Instant>,
    last: Option<Instant>,
    silent: Duration,
    /// The write under way is the second try, on a new connection.
    retried: bool,
    full: Option<String>,
}

/// What the probe has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::database) enum ProbeResult {
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
    pub(in crate::database) async fn check(
        &mut self,
        server: &Arc<Server>,
        step_limit: Duration,
    ) -> ProbeResult {
        let at = &server.place.at;
        if at.write_probe_interval.is_zero() {
            return ProbeResult::Fine;
        }
        self.collect(step_limit).await;
        let due = self.began.is_none_or(|began| began.elapsed() >= at.write_probe_interval);
        if self.writing.is_none() && due {
            self.began = Some(Instant::now());
            self.silent = Duration::ZERO;
            self.retried = false;
            let session = self.session.take().filter(|session| session.is_open());
            self.writing = Some(tokio::spawn(write(Arc::clone(server), session)));
        }
        // One connection may be stuck while the server is not. Once only: each try costs a connection.
        if let Some(writing) = &self.writing
            && !self.retried
            && self.silent > at.hung_after / 3
        {
            writing.abort();
            self.retried = true;
            self.writing = Some(tokio::spawn(write(Arc::clone(server), None)));
        }
        if let Some(text) = &self.full {
            return ProbeResult::DiskFull(text.clone());
        }
        if self.writing.is_some() && self.silent >= at.hung_after {
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
    server: Arc<Server>,
    session: Option<Arc<Session>>,
) -> (Option<Arc<Session>>, Result<(), Trouble>) {
    let session = match session {
        Some(session) => session,
        None => match Session::open(&server.place).await {
            Ok(session) => Arc::new(session),
            Err(trouble) => return (None, Err(trouble)),
        },
    };
    let result = session.client.batch_execute(WRITE).await.map_err(Trouble::from);
    (Some(session), result)
}
