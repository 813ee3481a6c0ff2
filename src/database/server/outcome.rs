//! How a step of an action ends.

use std::io;
use std::path::Path;
use std::time::Duration;

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

/// File work that takes longer than this hangs: a disk, or what is mounted.
const HANGS: Duration = Duration::from_secs(10);

/// Runs file work where it may block. It has no end of its own, as nothing takes it back; that it hangs is said, once.
pub(in crate::database) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Step<T> + Send + 'static,
) -> Step<T> {
    let hangs = || {
        tracing::warn!(
            after = ?HANGS,
            "the disk or the kernel does not answer: a look at PostgreSQL's files and processes hangs"
        );
    };
    match watched(HANGS, tokio::task::spawn_blocking(work), hangs).await {
        Ok(result) => result,
        Err(error) => {
            Err(Failure::Unknown(format!("a step of the database adapter ended: {error}")))
        }
    }
}

/// Waits for `work`; after `limit` says that it hangs, and waits on.
async fn watched<T>(limit: Duration, work: impl Future<Output = T>, hangs: impl FnOnce()) -> T {
    let mut work = std::pin::pin!(work);
    match tokio::time::timeout(limit, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            hangs();
            work.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{poll_fn, ready};
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn what_hangs_is_said_once_and_waited_for() {
        let said = Cell::new(0);
        let hangs = || said.set(said.get() + 1);
        assert_eq!(watched(HANGS, ready(7), hangs).await, 7);
        assert_eq!(said.get(), 0);
        let until_said = poll_fn(|_| if said.get() > 0 { Poll::Ready(8) } else { Poll::Pending });
        let waited = watched(Duration::from_millis(1), until_said, hangs);
        let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
        assert_eq!(waited, Ok(8), "it is not said");
        assert_eq!(said.get(), 1);
    }
}
