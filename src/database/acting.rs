//! One action at a time, and a fence beside it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::server::outcome::{Step, outcome};
use crate::core::event::{Action, ActionOutcome, Done};

/// How long after a cancel an action may take to come to a safe place.
const GRACE: Duration = Duration::from_secs(2);

/// Held by the action under way, also after its caller has given up on it.
#[derive(Debug, Default)]
pub(super) struct Acting(Arc<Mutex<()>>);

impl Acting {
    /// Runs `action` in a task of its own, so that a step that blocks can be left behind: it keeps
    /// the next action out until it has ended.
    pub(super) async fn run<F>(
        &self,
        action: &Action,
        cancel: CancellationToken,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> ActionOutcome
    where
        F: Future<Output = Step<Done>> + Send + 'static,
    {
        let name = action.name();
        let guard = match Arc::clone(&self.0).try_lock_owned() {
            Ok(guard) => Some(guard),
            Err(_) if matches!(action, Action::Fence { .. }) => None,
            Err(_) => {
                return ActionOutcome::Refused("an earlier action has not ended yet".to_owned());
            }
        };
        let inner = cancel.child_token();
        // Whoever drops this future wants the action to end, too.
        let _ends_with_us = inner.clone().drop_guard();
        let work = work(inner);
        let mut task = tokio::spawn(async move {
            let _guard = guard;
            work.await
        });
        let ended = tokio::select! {
            ended = &mut task => Some(ended),
            () = async { cancel.cancelled().await; tokio::time::sleep(GRACE).await } => None,
        };
        match ended {
            Some(Ok(result)) => outcome(name, result),
            Some(Err(error)) => ActionOutcome::Unknown(format!("{name} ended early: {error}")),
            None => ActionOutcome::Unknown(format!("{name} was cancelled, but has not ended yet")),
        }
    }
}
