//! A compare-and-set, and finding out what became of it.
//!
//! ```text
//! send ──▶ stored ────────────────────────────▶ Applied
//!   ▲ ───▶ key moved on ──▶ whose write replaced the expected revision? ──▶ Applied / Refused
//!   │ ───▶ no answer ──▶ in doubt ─┐
//!   └──────────────────────────────┘  the identical operation, until the deadline
//! ```

use std::time::Duration;

use async_nats::HeaderMap;
use tokio::time::{Instant as Deadline, sleep, sleep_until};

use super::bucket::Bucket;
use super::classify::{self, Answer};
use super::connect::jitter;
use super::link::Unanswered;
use crate::core::ids::Revision;
use crate::store::codec::operation_of;
use crate::store::{Expected, LONGEST_VALUE, ReadError, Rejection, Versioned, Write, WriteOutcome};

/// Shortest wait for one answer, when there is time for more than one.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);

/// Writes, and settles what became of it as far as it can be known until `deadline`.
pub(super) async fn settle(bucket: &Bucket, write: &Write, deadline: Deadline) -> WriteOutcome {
    if write.value.len() > LONGEST_VALUE {
        let bytes = write.value.len();
        return WriteOutcome::Rejected(Rejection::TooLong { bytes, limit: LONGEST_VALUE });
    }
    let in_doubt = bucket.is_doubtful(&write.operation);
    // Given up from outside, its outcome is unknown too: in doubt until settled.
    bucket.doubt(&write.operation, true);
    let outcome = Attempt { bucket, write, deadline, in_doubt, tries: 0 }.run().await;
    bucket.doubt(&write.operation, matches!(outcome, WriteOutcome::Unknown { .. }));
    if let WriteOutcome::Applied { revision } = &outcome {
        bucket.saw(&write.key, *revision);
    }
    outcome
}

struct Attempt<'a> {
    bucket: &'a Bucket,
    write: &'a Write,
    deadline: Deadline,
    /// An earlier sending may have landed, or may yet.
    in_doubt: bool,
    tries: u32,
}

/// What one sending came to.
enum Step {
    Settled(WriteOutcome),
    /// Try again, for this reason.
    Again(String),
}

impl Attempt<'_> {
    async fn run(mut self) -> WriteOutcome {
        loop {
            let cause = match self.step().await {
                Step::Settled(outcome) => return outcome,
                Step::Again(cause) => cause,
            };
            let pause = (50 << self.tries.min(4)).min(500);
            let pause = Duration::from_millis(pause - pause / 5 + jitter(pause * 2 / 5));
            self.tries += 1;
            if Deadline::now() + pause >= self.deadline {
                sleep_until(self.deadline).await;
                return self.ended(cause);
            }
            sleep(pause).await;
        }
    }

    fn ended(&self, cause: String) -> WriteOutcome {
        if self.in_doubt {
            WriteOutcome::Unknown { cause }
        } else {
            WriteOutcome::NotSent { cause }
        }
    }

    async fn step(&mut self) -> Step {
        if let Err(rejection) = self.bucket.guard() {
            return self.rejected(rejection);
        }
        let remaining = self.deadline.saturating_duration_since(Deadline::now());
        let wait = (remaining / 2).max(SHORTEST_WAIT).min(remaining);
        let floor = self.bucket.floor();
        let subject = self.bucket.subject(&self.write.key);
        let sent = self.bucket.link.request(
            &subject,
            self.headers(),
            self.write.value.clone(),
            Deadline::now() + wait,
        );
        match sent.await {
            Ok(message) => self.answered(classify::answer(&message.payload), floor).await,
            Err(Unanswered::NotSent(cause)) => Step::Again(cause),
            Err(unanswered @ Unanswered::NobodyThere) => Step::Again(unanswered.to_string()),
            Err(Unanswered::Denied(rejection)) => self.rejected(rejection),
            Err(Unanswered::Lost(cause)) => {
                self.in_doubt = true;
                Step::Again(cause)
            }
        }
    }

    fn headers(&self) -> HeaderMap {
        let expected = match self.write.expected {
            Expected::Absent => 0,
            Expected::Revision(revision) => revision.0,
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", self.bucket.stream.as_str());
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        headers.insert("Nats-Msg-Id", self.write.operation.as_str());
        headers
    }

    async fn answered(&mut self, answer: Answer, floor: u64) -> Step {
        match answer {
            Answer::Stored { sequence, duplicate } => self.stored(sequence, duplicate, floor).await,
            Answer::MovedOn => self.moved_on().await,
            Answer::Busy => Step::Again("another write of the key is under way".to_owned()),
            Answer::UnderWay => {
                self.in_doubt = true;
                Step::Again("an earlier sending is under way".to_owned())
            }
            Answer::Unavailable(error) => Step::Again(error.to_string()),
            Answer::Full(error) => self.full(error.to_string()).await,
            Answer::TooLong => {
                let bytes = self.write.value.len();
                self.rejected(Rejection::TooLong { bytes, limit: bytes.saturating_sub(1) })
            }
            Answer::Wrong(error) => self.rejected(Rejection::Other(error.to_string())),
            Answer::Unclear(text) => {
                self.in_doubt = true;
                Step::Again(text)
            }
        }
    }

    /// A new write below what was seen before landed in another bucket than the one opened.
    async fn stored(&mut self, sequence: u64, duplicate: bool, floor: u64) -> Step {
        let revision = Revision(sequence);
        if duplicate || sequence > floor {
            return Step::Settled(WriteOutcome::Applied { revision });
        }
        match self.bucket.examine(self.deadline).await {
            Err(ReadError::Rejected(rejection)) => Step::Settled(WriteOutcome::Rejected(rejection)),
            Ok(()) | Err(ReadError::Unavailable(_)) => Step::Settled(WriteOutcome::Unknown {
                cause: format!("stored as {sequence}, though {floor} was there before"),
            }),
        }
    }

    /// Whose write replaced the expected revision: only one could.
    async fn moved_on(&mut self) -> Step {
        let expected = match self.write.expected {
            Expected::Absent => Revision(0),
            Expected::Revision(revision) => revision,
        };
        match self.bucket.successor(&self.write.key, expected, self.deadline).await {
            Ok(Some(found)) if self.is_ours(&found) => {
                Step::Settled(WriteOutcome::Applied { revision: found.revision })
            }
            Ok(Some(found)) => {
                let newest = self.bucket.newest(&self.write.key, self.deadline).await;
                let newest = newest.ok().flatten().unwrap_or(found);
                Step::Settled(WriteOutcome::Refused { current: Some(newest.revision) })
            }
            // A leader behind the revision expected: a doubt cannot be settled with it.
            Ok(None) if self.in_doubt => Step::Again("a leader that is behind".to_owned()),
            Err(error) if self.in_doubt => Step::Again(error.to_string()),
            Ok(None) | Err(_) => Step::Settled(WriteOutcome::Refused { current: None }),
        }
    }

    /// Followers may have stored what the leader had no room for.
    async fn full(&mut self, text: String) -> Step {
        match self.bucket.newest(&self.write.key, self.deadline).await {
            Ok(Some(found)) if self.is_ours(&found) => {
                Step::Settled(WriteOutcome::Applied { revision: found.revision })
            }
            Ok(_) | Err(_) => self.rejected(Rejection::Full(text)),
        }
    }

    fn is_ours(&self, found: &Versioned) -> bool {
        found.value == self.write.value
            || operation_of(&found.value).is_some_and(|found| found == self.write.operation)
    }

    /// This sending did not land; an earlier one may have.
    fn rejected(&self, rejection: Rejection) -> Step {
        Step::Settled(if self.in_doubt && !matches!(rejection, Rejection::Incarnation { .. }) {
            WriteOutcome::Unknown { cause: rejection.to_string() }
        } else {
            WriteOutcome::Rejected(rejection)
        })
    }
}
