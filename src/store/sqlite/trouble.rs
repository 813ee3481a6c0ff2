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
