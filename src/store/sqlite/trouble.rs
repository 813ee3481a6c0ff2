//! What goes wrong inside SQLite, and what it means for a read or a write.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::store::{ReadError, Rejection, WriteOutcome};

/// What went wrong inside SQLite.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Somebody else held the lock, or the disk failed: trying again is sensible.
    Passing(String),
    /// An operator has to mend it.
    Rejected(Rejection),
}

impl Trouble {
    pub(super) fn before_commit(self) -> WriteOutcome {
        match self {
            Self::Passing(cause) => WriteOutcome::NotSent { cause },
            Self::Rejected(rejection) => WriteOutcome::Rejected(rejection),
        }
    }

    pub(super) fn at_commit(self) -> WriteOutcome {
        match self {
            Self::Passing(cause) => WriteOutcome::Unknown { cause },
            Self::Rejected(rejection) => WriteOutcome::Rejected(rejection),
        }
    }

    pub(super) fn about(self, path: &Path) -> Self {
        let about = |text: String| format!("{}: {text}", path.display());
        match self {
            Self::Passing(cause) => Self::Passing(about(cause)),
            Self::Rejected(Rejection::Permission(text)) => {
                Self::Rejected(Rejection::Permission(about(text)))
            }
            Self::Rejected(Rejection::Other(text)) => Self::Rejected(Rejection::Other(about(text))),
            Self::Rejected(
                rejection @ (Rejection::Incarnation { .. }
                | Rejection::TooLong { .. }
                | Rejection::Full(_)),
            ) => Self::Rejected(rejection),
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Rejected(Rejection::Full(text)),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::Rejected(Rejection::Permission(text))
            }
            Some(ErrorCode::CannotOpen) => Self::Rejected(Rejection::Other(format!(
                "{text}; check that its directory exists and that this user may write there"
            ))),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Rejected(Rejection::Other(format!(
                    "{text}; the store's file is damaged or not a store: move it away or restore it"
                )))
            }
            Some(_) | None => Self::Passing(text),
        }
    }
}

impl From<Trouble> for ReadError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Passing(cause) => Self::Unavailable(cause),
            Trouble::Rejected(rejection) => Self::Rejected(rejection),
        }
    }
}

/// What is known of a write whose first commit ended without an answer, because of `cause`: `again` is what
/// became of the same write sent once more. One that did not get as far says nothing of the first.
pub(super) fn settle(cause: String, again: WriteOutcome) -> WriteOutcome {
    match again {
        WriteOutcome::NotSent { .. } | WriteOutcome::Rejected(_) => WriteOutcome::Unknown { cause },
        settled @ (WriteOutcome::Applied { .. }
        | WriteOutcome::Refused { .. }
        | WriteOutcome::Unknown { .. }) => settled,
    }
}

/// What is known of a write after whose commit the file was not under its name any more, for `rejection`. One
/// that was removed took the write with it; one that was moved has it when it is put back.
pub(super) fn astray(outcome: &WriteOutcome, rejection: Rejection) -> WriteOutcome {
    if matches!(outcome, WriteOutcome::Applied { .. }) {
        WriteOutcome::Unknown { cause: rejection.to_string() }
    } else {
        WriteOutcome::Rejected(rejection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::Revision;

    fn full() -> Rejection {
        Rejection::Full("the disk".to_owned())
    }

    #[test]
    fn who_got_in_no_second_time_may_have_landed_the_first() {
        let again = |outcome| settle("the disk failed".to_owned(), outcome);
        let unknown = WriteOutcome::Unknown { cause: "the disk failed".to_owned() };
        assert_eq!(again(WriteOutcome::NotSent { cause: "busy".to_owned() }), unknown);
        assert_eq!(again(WriteOutcome::Rejected(full())), unknown);
        for settled in [
            WriteOutcome::Applied { revision: Revision(3) },
            WriteOutcome::Refused { current: None },
        ] {
            assert_eq!(again(settled.clone()), settled);
        }
    }

    #[test]
    fn a_commit_in_a_file_that_was_moved_is_not_known() {
        let applied = WriteOutcome::Applied { revision: Revision(3) };
        assert!(matches!(astray(&applied, full()), WriteOutcome::Unknown { .. }));
        let refused = WriteOutcome::Refused { current: None };
        assert_eq!(astray(&refused, full()), WriteOutcome::Rejected(full()));
    }
}
