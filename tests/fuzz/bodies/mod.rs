//! What is done with an input: one body a family of decoders. libFuzzer runs them from `targets/`, the
//! integration tests run the very same over the committed corpus. An input begins with a character that
//! says which decoder of the family it is for, so that it can be read and written by hand.

#![allow(dead_code, reason = "each target of libFuzzer uses one")]
#![allow(clippy::unwrap_used, reason = "a body that cannot go on has found something")]

pub(crate) mod cnpg;
pub(crate) mod config;
pub(crate) mod nats;
pub(crate) mod peers;
pub(crate) mod postgres;
pub(crate) mod processes;
pub(crate) mod recording;
pub(crate) mod records;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod watchdog;

/// Longest error that a person would read.
const LONGEST_ERROR: usize = 16 * 1024;

/// The first character, and the rest.
fn split(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(first, rest)| (*first, rest))
}

/// What is refused is refused with words, and not with too many.
#[track_caller]
fn assert_says(error: &str) {
    assert!(!error.trim().is_empty(), "refused without a word");
    assert!(error.len() <= LONGEST_ERROR, "an error of {} bytes", error.len());
}
