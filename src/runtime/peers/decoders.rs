//! Doors to what reads messages of other agents, for the fuzzing in `tests/fuzz`.

use ring::hmac;

use super::seal::Seal;
use crate::core::ids::ClusterId;
use crate::core::promise::{PromiseAnswer, PromiseRequest};

/// Reads and writes messages with a secret given as it is, or without one.
#[derive(Debug)]
pub struct Messages {
    seal: Seal,
    key: Option<hmac::Key>,
}

impl Messages {
    /// Those of `cluster`.
    pub fn new(cluster: ClusterId, secret: Option<&str>) -> Self {
        let key = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
        Self { seal: Seal::new(cluster, None), key }
    }

    /// A request as another agent may have sent it.
    ///
    /// # Errors
    /// Why it is not trusted.
    pub fn request(&self, bytes: &[u8]) -> Result<PromiseRequest, String> {
        self.seal.open(self.key.as_ref(), "promise_request", bytes)
    }

    /// An answer.
    ///
    /// # Errors
    /// As above.
    pub fn answer(&self, bytes: &[u8]) -> Result<PromiseAnswer, String> {
        self.seal.open(self.key.as_ref(), "promise_answer", bytes)
    }

    /// A request of ours.
    ///
    /// # Errors
    /// It cannot be written, which none of its values gives a cause for.
    pub fn write_request(&self, request: &PromiseRequest) -> Result<Vec<u8>, String> {
        self.seal.seal(self.key.as_ref(), "promise_request", request)
    }

    /// An answer of ours.
    ///
    /// # Errors
    /// As above.
    pub fn write_answer(&self, answer: &PromiseAnswer) -> Result<Vec<u8>, String> {
        self.seal.seal(self.key.as_ref(), "promise_answer", answer)
    }
}
