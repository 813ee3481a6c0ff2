//! What stands between us and the API server's answer, told apart by what can be done about it.

use std::time::Duration;

use serde::Deserialize;

/// Longest part of a foreign text that is repeated.
const LONGEST: usize = 400;

/// No word of this length in base64 is anything else than a token.
const SHORTEST_TOKEN: usize = 40;

/// Why a call to the API server gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// 404.
    #[error("there is no {0}: is its name right, and CloudNativePG installed?")]
    Absent(String),
    /// 401, 403: what the agent's role has to allow.
    #[error(
        "not allowed to {verb} {resource}: {said}; give the agent's service account a role with it"
    )]
    Denied {
        /// As Kubernetes calls it.
        verb: &'static str,
        /// Of what.
        resource: &'static str,
        /// The server's words.
        said: String,
    },
    /// 409: somebody else wrote since it was read.
    #[error("somebody else changed it meanwhile")]
    Conflict,
    /// 429, with the time the server wants to be left alone.
    #[error("the API server has too much to do")]
    Busy(Option<Duration>),
    /// 410.
    #[error("the API server does not have that version any more")]
    Gone,
    /// 500 in front of the object: nobody checks changes now, so none is taken.
    #[error("changes are refused while CloudNativePG's operator does not answer: {0}")]
    Webhook(String),
    /// Another 5xx.
    #[error("the API server failed: {0}")]
    Failed(String),
    /// 400, 422, or refused by an admission webhook.
    #[error("refused: {0}")]
    Invalid(String),
    /// It is no Cluster as CloudNativePG has it.
    #[error("the API server's answer is not understood: {0}")]
    Malformed(String),
    /// No answer in time, or a broken connection: a change may have been made.
    #[error("no answer of the API server: {0}")]
    Silent(String),
}

/// What one call was about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) verb: &'static str,
    pub(super) resource: &'static str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
}

/// CloudNativePG repeats the token that it has when it refuses any change of a Cluster.
fn without_tokens(text: &str) -> String {
    let is_between = |c: char| c.is_whitespace() || "\"'`,;:()[]{}<>\\".contains(c);
    let is_token = |word: &str| {
        let is_base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
        word.len() >= SHORTEST_TOKEN && word.bytes().all(is_base64)
    };
    let words = text.split_inclusive(is_between).map(|word| {
        let bare = word.trim_end_matches(is_between);
        if is_token(bare) { word.replace(bare, "(token)") } else { word.to_owned() }
    });
    words.collect()
}

impl Trouble {
    /// What an answer with this status means; neither `secret` nor another token is repeated.
    pub(super) fn of(
        call: Call,
        what: &str,
        code: u16,
        after: Option<Duration>,
        body: &[u8],
        secret: Option<&str>,
    ) -> Self {
        let status: Status = serde_json::from_slice(body).unwrap_or_default();
        let hidden = match secret.filter(|secret| !secret.is_empty()) {
            Some(secret) => status.message.replace(secret, "(token)"),
            None => status.message,
        };
        let mut said: String = without_tokens(&hidden).chars().take(LONGEST).collect();
        if said.is_empty() {
            said = format!("HTTP status {code}");
        }
        let webhook = said.contains("failed calling webhook");
        let admission = said.contains("admission webhook") && said.contains("denied the request");
        match code {
            404 => Self::Absent(what.to_owned()),
            403 if admission => Self::Invalid(said),
            401 | 403 => Self::Denied { verb: call.verb, resource: call.resource, said },
            409 => Self::Conflict,
            410 => Self::Gone,
            429 => Self::Busy(after),
            500.. if webhook => Self::Webhook(said),
            500.. => Self::Failed(said),
            _ => Self::Invalid(said),
        }
    }

    /// How long to wait before the next try; `None` when no try would change anything.
    pub(super) fn pause(&self, tries: u32) -> Option<Duration> {
        let backoff = Duration::from_millis(50 << tries.min(5));
        match self {
            Self::Absent(_) | Self::Denied { .. } | Self::Invalid(_) | Self::Malformed(_) => None,
            // The next read shows what is there now.
            Self::Conflict | Self::Gone => Some(Duration::from_millis(10 << tries.min(6))),
            Self::Busy(after) => {
                Some(after.unwrap_or(backoff).clamp(backoff, Duration::from_secs(10)))
            }
            Self::Webhook(_) | Self::Failed(_) | Self::Silent(_) => Some(backoff),
        }
    }

    /// The change may have been made all the same.
    pub(super) fn may_have_landed(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Failed(_) | Self::Malformed(_) => true,
            Self::Absent(_)
            | Self::Denied { .. }
            | Self::Conflict
            | Self::Busy(_)
            | Self::Gone
            | Self::Webhook(_)
            | Self::Invalid(_) => false,
        }
    }
}
