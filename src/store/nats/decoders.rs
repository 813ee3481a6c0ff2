//! Doors to what reads answers of NATS servers, for the fuzzing in `tests/fuzz`.

use super::bucket::{self, Asked, Found};
use super::classify::{self, Answer};
use super::stream::{self, Info};
use crate::core::ids::Incarnation;
use crate::store::Versioned;

/// What an answer to a write comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is in the store, with this revision.
    Stored(u64),
    /// It is not in the store: the key has moved on, or the value is too long.
    Refused,
    /// Nobody can say, or not now; with the text when there is one.
    Unknown(Option<String>),
}

/// The answer to a write.
pub fn write(payload: &[u8]) -> Write {
    match classify::answer(payload) {
        Answer::Stored { sequence, .. } => Write::Stored(sequence),
        Answer::MovedOn | Answer::TooLong => Write::Refused,
        Answer::Busy | Answer::UnderWay => Write::Unknown(None),
        Answer::Unavailable(error) | Answer::Full(error) | Answer::Wrong(error) => {
            Write::Unknown(Some(error.to_string()))
        }
        Answer::Unclear(text) => Write::Unknown(Some(text)),
    }
}

/// A stream's description: its incarnation, when it is one that may be counted on.
///
/// # Errors
/// Why not.
pub fn stream(payload: &[u8], name: &str) -> Result<Incarnation, String> {
    match bucket::parse::<Info>(payload) {
        Ok(Asked::Answer(info)) => {
            let _copies = info.replicas();
            stream::check(&info, name).map_err(|rejection| rejection.to_string())
        }
        Ok(Asked::Error(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// A message read from a stream.
///
/// # Errors
/// Why it is none of ours.
pub fn message(payload: &[u8], name: &str) -> Result<Versioned, String> {
    match bucket::parse::<Found>(payload) {
        Ok(Asked::Answer(found)) => {
            bucket::versioned(name, found.message).map_err(|error| error.to_string())
        }
        Ok(Asked::Error(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// A server's version that we may count on.
///
/// # Errors
/// Why not.
pub fn server(version: &str) -> Result<(), String> {
    super::link::check_version(version).map_err(|rejection| rejection.to_string())
}
