//! How a step of an action ends.

use std::io;
use std::path::Path;

use crate::core::event::{ActionOutcome, Done};

/// Why a step did not get to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::database) enum Failure {
    /// It did not happen and will not.
    Refused(String),
    /// It may have happened.
    Unknown(String),
    /// The server runs, but waits for what will not come. It did not happen, and will not by itself.
    Stuck(String),
    /// The caller took it back.
    Cancelled,
}

/// What a step gives.
pub(in crate::database) type Step<T> = Result<T, Failure>;

impl Failure {
    /// A refusal about a file.
    pub(in crate::database) fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::Refused(format!("cannot {what} {}: {error}", path.display()))
    }

    /// The text, for a log line.
    pub(in crate::database) fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Stuck(text) | Self::Unknown(text) => text,
            Self::Cancelled => "cancelled",
        }
    }
}

/// The answer to the caller.
pub(in crate::database) fn outcome(name: &'static str, result: Step<Done>) -> ActionOutcome {
    match result {
        Ok(done) => ActionOutcome::Applied(done),
        Err(Failure::Refused(why) | Failure::Stuck(why)) => ActionOutcome::Refused(why),
        Err(Failure::Unknown(why)) => ActionOutcome::Unknown(why),
        Err(Failure::Cancelled) => ActionOutcome::Unknown(format!("{name} was cancelled")),
    }
}

/// Runs file work where it may block.
pub(in crate::database) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Step<T> + Send + 'static,
) -> Step<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(Failure::Unknown(format!("a step of the database adapter ended: {error}")))
        }
    }
}
