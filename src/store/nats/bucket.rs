//! The bucket: the stream we make for it, whether it is still that one, and reading from it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::RawMessage;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant as Deadline, sleep};

use super::classify::ApiError;
use super::connect::jitter;
use super::link::{Link, Unanswered};
use super::stream::{self, INCARNATION, Info};
use crate::core::ids::{ClusterId, Incarnation, Revision};
use crate::core::time::{Instant, StoreTime};
use crate::store::pulse::boot_time;
use crate::store::{Key, OpenError, ReadError, Rejection, Versioned, new_incarnation};

/// A leader that was replaced without knowing can be behind for so long; a stream of three that is
/// behind for longer was restored from a backup.
const LONGEST_BEHIND: Duration = Duration::from_secs(25);

/// Times that the servers have to say that there is no such stream until it is believed.
const GONE: u32 = 3;

/// Bounds of the wait for one answer, when there is time to ask again.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

const NO_STREAM: u32 = 10059;
const NO_MESSAGE: u32 = 10037;
const NAME_TAKEN: u32 = 10058;

/// An open bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) link: Link,
    pub(super) incarnation: Incarnation,
    pub(super) stream: String,
    name: String,
    created: String,
    seen: Mutex<Seen>,
}

/// What was seen before, and must not be undone.
#[derive(Debug, Default)]
struct Seen {
    keys: BTreeMap<Key, Revision>,
    newest: u64,
    behind_since: Option<Instant>,
    /// Since when a key is read at an older revision than before. The bucket as a whole may be past
    /// that one again: those who saw nothing of it go on writing to what was restored.
    keys_behind: BTreeMap<Key, Instant>,
    /// How long being behind is put down to a leader that was replaced.
    patience: Duration,
    gone: u32,
    lost: Option<Rejection>,
    /// Operations whose outcome is unknown to those who asked for them.
    doubtful: Vec<String>,
}

/// What an API request came to.
pub(super) enum Asked<T> {
    Answer(T),
    Error(ApiError),
}

#[derive(Deserialize)]
pub(super) struct Found {
    pub(super) message: RawMessage,
}

impl Bucket {
    /// Opens the bucket, creating it when there is none; tells how many replicas it has.
    pub(super) async fn open(
        link: Link,
        cluster: &ClusterId,
        replicas: u8,
        deadline: Deadline,
    ) -> Result<(Self, u8), OpenError> {
        let name = format!("harmony_{cluster}");
        let stream = format!("KV_{name}");
        let info = found_or_made(&link, &name, &stream, replicas, deadline).await?;
        let incarnation = stream::check(&info, &name)?;
        let found = info.replicas();
        if found != replicas {
            tracing::warn!(found, configured = replicas, stream, "another number of replicas");
        }
        let newest = info.state.last_seq;
        let seen = Mutex::new(Seen { newest, patience: patience(&info), ..Seen::default() });
        let created = info.created;
        Ok((Self { link, incarnation, stream, name, created, seen }, found))
    }

    /// The subject of a key.
    pub(super) fn subject(&self, key: &Key) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// Where the server tells of changes.
    pub(super) fn hints(&self) -> String {
        format!("ev.{}.>", self.name)
    }

    /// The key that a hint on `subject` is about; none of the journal, by which nobody decides.
    pub(super) fn hinted(&self, subject: &str) -> Option<Key> {
        let rest = subject.strip_prefix("ev.")?.strip_prefix(&self.name)?;
        Key::parse(rest.strip_prefix('.')?).filter(|key| !key.is_journal())
    }

    /// Whether the bucket is the one opened, as far as known.
    pub(super) fn guard(&self) -> Result<(), Rejection> {
        self.seen().lost.clone().map_or(Ok(()), Err)
    }

    /// Asks the servers whether the bucket is the one opened.
    pub(super) async fn examine(&self, deadline: Deadline) -> Result<(), ReadError> {
        self.link.check_server()?;
        self.info(deadline).await.map(|_| ())
    }

    /// The newest revision of `key`, from the leader.
    pub(super) async fn newest(
        &self,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<Versioned>, ReadError> {
        let question = json!({ "last_by_subj": self.subject(key) });
        // What is seen while the question is under way may be newer than its answer.
        let before = self.seen().keys.get(key).copied();
        let found = self.message(question, deadline).await?;
        if found.as_ref().map(|versioned| versioned.revision) < before {
            return Err(self.key_behind(key));
        }
        self.seen().keys_behind.remove(key);
        if let Some(found) = &found {
            self.saw(key, found.revision);
        }
        Ok(found)
    }

    /// What reading `key` at an older revision than before says of the bucket.
    fn key_behind(&self, key: &Key) -> ReadError {
        let mut seen = self.seen();
        let since = *seen.keys_behind.entry(key.clone()).or_insert_with(boot_time);
        if boot_time().since(since) < seen.patience {
            return ReadError::Unavailable(format!(
                "{key} was read at an older revision than before: a leader that was replaced, or a \
                 restored backup"
            ));
        }
        let found = format!("{} with {key} at an older revision than before", self.incarnation);
        ReadError::from(Rejection::Incarnation { expected: self.incarnation.clone(), found })
    }

    /// The first revision of `key` after `revision`: the one write that replaced it.
    pub(super) async fn successor(
        &self,
        key: &Key,
        revision: Revision,
        deadline: Deadline,
    ) -> Result<Option<Versioned>, ReadError> {
        let from = revision.0.saturating_add(1);
        let question = json!({ "seq": from, "next_by_subj": self.subject(key) });
        self.message(question, deadline).await
    }

    /// The newest revision of every key but the journal's, in order of keys.
    pub(super) async fn list(&self, deadline: Deadline) -> Result<Vec<Versioned>, ReadError> {
        let info = self.info(deadline).await?;
        let prefix = format!("$KV.{}.", self.name);
        let names = info.state.subjects.unwrap_or_default();
        let mut keys: Vec<_> =
            names.keys().filter_map(|subject| Key::parse(subject.strip_prefix(&prefix)?)).collect();
        keys.retain(|key| !key.is_journal());
        keys.sort();
        let reads = keys.iter().map(|key| self.newest(key, deadline));
        Ok(try_join_all(reads).await?.into_iter().flatten().collect())
    }

    /// The kept revisions of `key`, oldest first.
    pub(super) async fn history(
        &self,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Vec<Versioned>, ReadError> {
        let mut history: Vec<Versioned> = Vec::new();
        loop {
            let last = history.last().map_or(Revision(0), |versioned| versioned.revision);
            match self.successor(key, last, deadline).await? {
                Some(next) => history.push(next),
                None => return Ok(history),
            }
        }
    }

    /// The newest revision seen of any key.
    pub(super) fn floor(&self) -> u64 {
        self.seen().newest
    }

    /// Remembers that `key` is at `revision`.
    pub(super) fn saw(&self, key: &Key, revision: Revision) {
        self.seen().saw(key, revision);
    }

    /// Whether an earlier call for this operation ended without knowing its outcome.
    pub(super) fn is_doubtful(&self, operation: &str) -> bool {
        self.seen().doubtful.iter().any(|known| known == operation)
    }

    /// Remembers whether the outcome of an operation is unknown. An agent has few at once.
    pub(super) fn doubt(&self, operation: &str, doubtful: bool) {
        let mut seen = self.seen();
        seen.doubtful.retain(|known| known != operation);
        if doubtful {
            seen.doubtful.push(operation.to_owned());
            let surplus = seen.doubtful.len().saturating_sub(64);
            seen.doubtful.drain(..surplus);
        }
    }

    async fn info(&self, deadline: Deadline) -> Result<Info, ReadError> {
        let filter = json!({ "subjects_filter": format!("$KV.{}.>", self.name) });
        let subject = format!("$JS.API.STREAM.INFO.{}", self.stream);
        let floor = self.floor();
        match ask::<Info>(&self.link, &subject, &filter, deadline).await? {
            Asked::Answer(info) => {
                self.compare(&info, floor)?;
                Ok(info)
            }
            Asked::Error(error) if error.err_code == NO_STREAM => {
                let mut seen = self.seen();
                seen.gone += 1;
                if seen.gone >= GONE {
                    let expected = self.incarnation.clone();
                    let found = "none".to_owned();
                    seen.lost = Some(Rejection::Incarnation { expected, found });
                }
                match seen.lost.clone() {
                    Some(lost) => Err(lost.into()),
                    None => Err(ReadError::Unavailable("the bucket seems to be gone".to_owned())),
                }
            }
            Asked::Error(error) => Err(ReadError::Unavailable(error.to_string())),
        }
    }

    /// Whether `info` is of the bucket as opened, and not older than `floor`, the newest revision
    /// seen when it was asked for; settles what [`Bucket::guard`] says.
    fn compare(&self, info: &Info, floor: u64) -> Result<(), ReadError> {
        let mut seen = self.seen();
        seen.gone = 0;
        seen.patience = patience(info);
        let found = info.metadata(INCARNATION);
        let other = if found != self.incarnation.as_str() {
            Some(found.to_owned())
        } else if info.created != self.created {
            Some(format!("{found} created anew at {}", info.created))
        } else if info.state.last_seq >= floor {
            seen.behind_since = None;
            None
        } else {
            let since = *seen.behind_since.get_or_insert_with(boot_time);
            let at = format!("at {}, seen before {floor}", info.state.last_seq);
            if boot_time().since(since) < seen.patience {
                return Err(ReadError::Unavailable(format!("the bucket is {at}")));
            }
            Some(format!("{found} {at}"))
        };
        seen.lost =
            other.map(|found| Rejection::Incarnation { expected: self.incarnation.clone(), found });
        seen.lost.clone().map_or(Ok(()), |lost| Err(lost.into()))
    }

    async fn message(
        &self,
        question: Value,
        deadline: Deadline,
    ) -> Result<Option<Versioned>, ReadError> {
        self.guard()?;
        let subject = format!("$JS.API.STREAM.MSG.GET.{}", self.stream);
        match ask::<Found>(&self.link, &subject, &question, deadline).await? {
            Asked::Answer(found) => versioned(&self.name, found.message).map(Some),
            Asked::Error(error) if error.err_code == NO_MESSAGE => Ok(None),
            Asked::Error(error) => Err(ReadError::Unavailable(error.to_string())),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A single server is never behind.
fn patience(info: &Info) -> Duration {
    if info.replicas() > 1 { LONGEST_BEHIND } else { Duration::ZERO }
}

/// A message of the bucket called `name`.
pub(super) fn versioned(name: &str, message: RawMessage) -> Result<Versioned, ReadError> {
    let unclear = |what: &str| ReadError::Unavailable(format!("an answer with {what}"));
    let prefix = format!("$KV.{name}.");
    let key = message.subject.strip_prefix(&prefix).and_then(Key::parse);
    let message = StreamMessage::try_from(message).map_err(|_| unclear("no message"))?;
    let created = i64::try_from(message.time.unix_timestamp_nanos());
    Ok(Versioned {
        key: key.ok_or_else(|| unclear("a foreign subject"))?,
        value: message.payload.to_vec(),
        revision: Revision(message.sequence),
        created: StoreTime(created.map_err(|_| unclear("a foreign time"))?),
    })
}

impl Seen {
    fn saw(&mut self, key: &Key, revision: Revision) {
        self.newest = self.newest.max(revision.0);
        let known = self.keys.entry(key.clone()).or_default();
        *known = revision.max(*known);
    }
}

/// Removes the bucket, if it is there.
pub(super) async fn remove(
    link: &Link,
    cluster: &ClusterId,
    deadline: Deadline,
) -> Result<(), ReadError> {
    let subject = format!("$JS.API.STREAM.DELETE.KV_harmony_{cluster}");
    match ask::<Value>(link, &subject, &json!({}), deadline).await? {
        Asked::Answer(_) => Ok(()),
        Asked::Error(error) if error.err_code == NO_STREAM => Ok(()),
        Asked::Error(error) => Err(ReadError::Unavailable(error.to_string())),
    }
}

async fn found_or_made(
    link: &Link,
    name: &str,
    stream: &str,
    replicas: u8,
    deadline: Deadline,
) -> Result<Info, OpenError> {
    let find = format!("$JS.API.STREAM.INFO.{stream}");
    let make = format!("$JS.API.STREAM.CREATE.{stream}");
    let incarnation = new_incarnation();
    let config = stream::config(name, stream, replicas, incarnation.as_str());
    loop {
        let failed = match ask::<Info>(link, &find, &json!({}), deadline).await? {
            Asked::Answer(info) => return Ok(info),
            Asked::Error(error) if error.err_code == NO_STREAM => {
                match ask::<Info>(link, &make, &config, deadline).await? {
                    // What was made is read back: a server may have dropped what it does not know.
                    Asked::Answer(_) => continue,
                    // Another agent was faster.
                    Asked::Error(error) if error.err_code == NAME_TAKEN => error,
                    Asked::Error(error) if error.code == 503 => error,
                    Asked::Error(error) => {
                        let text = format!("cannot create stream {stream}: {error}");
                        return Err(OpenError::Rejected(Rejection::Other(text)));
                    }
                }
            }
            Asked::Error(error) => error,
        };
        let pause = Duration::from_millis(100 + jitter(50));
        if Deadline::now() + pause >= deadline {
            return Err(OpenError::Unavailable(failed.to_string()));
        }
        sleep(pause).await;
    }
}

/// Asks until there is an answer that means something, or `deadline`. Only for questions that may
/// be asked twice.
async fn ask<T: DeserializeOwned>(
    link: &Link,
    subject: &str,
    question: &Value,
    deadline: Deadline,
) -> Result<Asked<T>, ReadError> {
    loop {
        let payload = question.to_string().into_bytes();
        let wait = until_asked_again(deadline);
        let trouble = match link.request(subject, HeaderMap::new(), payload, wait).await {
            Ok(message) => match parse(&message.payload)? {
                Asked::Error(error) if error.code == 503 => error.to_string(),
                settled @ (Asked::Answer(_) | Asked::Error(_)) => return Ok(settled),
            },
            Err(Unanswered::Denied(rejection)) => return Err(rejection.into()),
            Err(other) => other.to_string(),
        };
        let pause = Duration::from_millis(50 + jitter(20));
        if Deadline::now() + pause >= deadline {
            return Err(ReadError::Unavailable(trouble));
        }
        sleep(pause).await;
    }
}

/// Servers without a leader often do not answer at all.
fn until_asked_again(deadline: Deadline) -> Deadline {
    let remaining = deadline.saturating_duration_since(Deadline::now());
    let wait = (remaining / 2).clamp(SHORTEST_WAIT, LONGEST_WAIT);
    deadline.min(Deadline::now() + wait)
}

pub(super) fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<Asked<T>, ReadError> {
    #[derive(Deserialize)]
    struct Failed {
        error: Option<ApiError>,
    }
    let unclear = |error: serde_json::Error| {
        ReadError::Unavailable(format!("the server's answer is not understood: {error}"))
    };
    let failed: Failed = serde_json::from_slice(payload).map_err(unclear)?;
    match failed.error {
        Some(error) => Ok(Asked::Error(error)),
        None => serde_json::from_slice(payload).map(Asked::Answer).map_err(unclear),
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(text) => Self::Unavailable(text),
            ReadError::Rejected(rejection) => Self::Rejected(rejection),
        }
    }
}
