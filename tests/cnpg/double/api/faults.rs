//! What tests break: the network in front of the server, the webhook, single answers.

use std::time::Duration;

use serde::Deserialize;

use super::failure::Failure;
use super::resource::Place;

/// How the server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Network {
    /// As usual.
    #[default]
    Up,
    /// Connections are cut, new ones refused.
    Refused,
    /// Connections are taken and nothing is ever answered.
    Silent,
}

/// What is answered instead, or how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// 409, as if somebody else had just written.
    Conflict,
    /// 429 with `Retry-After` in seconds.
    TooMany(u32),
    /// An error of the server, by its code.
    Server(u16),
    /// The right answer, so many milliseconds late.
    Slow(u64),
    /// It is done, and the connection breaks before anybody learns of it.
    Lost,
}

/// One fault: which requests it meets, and how often.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Fault {
    /// Only those of this account.
    #[serde(default)]
    pub(crate) account: Option<String>,
    /// Only this verb.
    #[serde(default)]
    pub(crate) verb: Option<String>,
    /// Only this resource, as in roles: `clusters/status`.
    #[serde(default)]
    pub(crate) resource: Option<String>,
    /// What is answered.
    pub(crate) answer: Answer,
    /// So many times; always without.
    #[serde(default)]
    pub(crate) times: Option<u32>,
}

impl Fault {
    /// `answer` to everybody, always.
    pub(crate) fn always(answer: Answer) -> Self {
        Self { account: None, verb: None, resource: None, answer, times: None }
    }

    /// `answer` to everybody, so many times.
    pub(crate) fn times(answer: Answer, times: u32) -> Self {
        Self { times: Some(times), ..Self::always(answer) }
    }

    /// Only requests with this verb for this resource.
    pub(crate) fn on(mut self, verb: &str, resource: &str) -> Self {
        (self.verb, self.resource) = (Some(verb.to_owned()), Some(resource.to_owned()));
        self
    }

    /// Only requests of this account.
    pub(crate) fn of(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }
}

/// Everything that is broken.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The admission webhook of CloudNativePG does not answer.
    pub(crate) webhook_down: bool,
    /// Its configuration was deleted: nobody asks it, and everything is taken.
    pub(crate) webhook_gone: bool,
    /// Faults of single answers.
    pub(crate) list: Vec<Fault>,
}

/// What becomes of one request.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Fate {
    /// Waits so long before anything happens.
    pub(crate) delay: Duration,
    /// Answered so, and nothing done.
    pub(crate) failure: Option<Failure>,
    /// Done, and not answered.
    pub(crate) lost: bool,
}

impl Faults {
    /// What becomes of this request; counts.
    pub(crate) fn fate(&mut self, who: &str, verb: &str, place: &Place) -> Fate {
        let mut fate = Fate::default();
        let is = |wanted: &Option<String>, seen: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == seen)
        };
        let resource = place.in_roles();
        for fault in &mut self.list {
            let meets = is(&fault.account, who)
                && is(&fault.verb, verb)
                && is(&fault.resource, &resource)
                && fault.times != Some(0);
            if !meets || fate.failure.is_some() {
                continue;
            }
            let name = place.name.as_deref().unwrap_or_default();
            match fault.answer {
                Answer::Conflict if matches!(verb, "get" | "list" | "watch") => continue,
                Answer::Conflict => fate.failure = Some(Failure::conflict(place.resource, name)),
                Answer::TooMany(seconds) => fate.failure = Some(Failure::too_many(seconds)),
                Answer::Server(code) => fate.failure = Some(Failure::server(code)),
                Answer::Slow(milliseconds) => fate.delay += Duration::from_millis(milliseconds),
                Answer::Lost => fate.lost = true,
            }
            if let Some(left) = &mut fault.times {
                *left -= 1;
            }
        }
        fate
    }
}
