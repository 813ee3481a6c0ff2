//! Messages between agents. `q`, `a`: a request or an answer as it comes. `Q`, `A`: its content as JSON,
//! which is signed, spoilt and opened here.

use std::fmt::Debug;

use harmony_agent::core::promise::{PromiseAnswer, PromiseRequest};
use harmony_agent::runtime::peers::decoders::Messages;

use super::{assert_says, split};

pub(crate) fn body(data: &[u8]) {
    let Some((kind, rest)) = split(data) else { return };
    let messages = |secret| Messages::new("c".parse().unwrap(), secret);
    let (open, signed) = (messages(None), messages(Some("a secret of the members")));
    match kind {
        b'q' => check(rest, |bytes| open.request(bytes), |one| open.write_request(one)),
        b'a' => check(rest, |bytes| open.answer(bytes), |one| open.write_answer(one)),
        b'Q' => {
            let Ok(request) = serde_json::from_slice::<PromiseRequest>(rest) else { return };
            let sealed = signed.write_request(&request).unwrap();
            spoil(&sealed, &request, |bytes| signed.request(bytes));
            assert!(signed.answer(&sealed).is_err(), "a request passed off as an answer");
        }
        b'A' => {
            let Ok(answer) = serde_json::from_slice::<PromiseAnswer>(rest) else { return };
            let sealed = signed.write_answer(&answer).unwrap();
            spoil(&sealed, &answer, |bytes| signed.answer(bytes));
            assert!(signed.request(&sealed).is_err(), "an answer passed off as a request");
        }
        _ => return,
    }
    // Nobody knows the secret: nothing that comes from outside is signed with it.
    for refused in [signed.request(rest).err(), signed.answer(rest).err()] {
        assert_says(&refused.unwrap_or_else(|| panic!("trusted without a signature")));
    }
}

/// What is understood is written and understood again.
fn check<T: PartialEq + Debug>(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> Result<T, String>,
    write: impl Fn(&T) -> Result<Vec<u8>, String>,
) {
    match read(bytes) {
        Err(error) => assert!(!error.trim().is_empty()),
        Ok(message) => {
            let written = write(&message).unwrap();
            // Text that is escaped may get longer than a message is allowed to be.
            if let Ok(again) = read(&written) {
                assert_eq!(again, message);
            }
        }
    }
}

/// A message is read as it was written; with one bit changed it says the same, or is not trusted.
fn spoil<T: PartialEq + Debug>(
    sealed: &[u8],
    message: &T,
    read: impl Fn(&[u8]) -> Result<T, String>,
) {
    match read(sealed) {
        Ok(read) => assert_eq!(read, *message),
        Err(error) => assert!(error.contains("bytes, at most"), "{error}"),
    }
    for at in (0..sealed.len()).step_by(sealed.len() / 16 + 1) {
        let mut spoilt = sealed.to_vec();
        spoilt[at] ^= 1 << (at % 8);
        if let Ok(read) = read(&spoilt) {
            assert_eq!(read, *message, "changed at {at}");
        }
    }
}
