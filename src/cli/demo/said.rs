//! What agents say of themselves, as far as the demo asks.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::core::event::State;
use crate::core::order::Answer;
use crate::core::reason::Alarm;
use crate::http::client::get;

/// An agent that does not answer within this is asked again later.
const ANSWER: Duration = Duration::from_millis(500);

/// What an agent says of its member; the part the demo needs of [`crate::http::view::View`].
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Said {
    /// Where it is in its workflow.
    pub(super) state: State,
    /// The epoch it knows.
    pub(super) epoch: u64,
    /// It holds the lease and its database is the primary.
    #[serde(default)]
    pub(super) is_primary: bool,
    /// Its database was seen to accept writes under its lease.
    #[serde(default)]
    pub(super) writable: bool,
    /// It knows that transitions are paused.
    #[serde(default, rename = "paused", deserialize_with = "is_there")]
    pub(super) is_paused: bool,
    /// Who would take over if the primary died now, best first.
    #[serde(default)]
    pub(super) line: Vec<String>,
    /// What became of the latest order.
    #[serde(default)]
    pub(super) answer: Option<Answer>,
    /// The alarms that stand.
    #[serde(default)]
    pub(super) alarms: Vec<String>,
    #[serde(default)]
    database: Option<SaidOfDatabase>,
    #[serde(default)]
    members: Vec<SaidOfMember>,
}

fn is_there<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    Option::<IgnoredAny>::deserialize(value).map(|found| found.is_some())
}

/// Alarms about the store.
const OF_STORE: [Alarm; 3] = [Alarm::StoreRejects, Alarm::StoreNotObeyed, Alarm::HeldByPromises];

#[derive(Clone, Debug, Deserialize)]
struct SaidOfDatabase {
    #[serde(default)]
    streaming: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct SaidOfMember {
    member: String,
    #[serde(default)]
    lag: Option<u64>,
}

impl Said {
    /// The member writes, and may.
    pub(super) fn leads(&self) -> bool {
        self.state == State::PrimaryHealthy && self.is_primary && self.writable
    }

    /// The member follows and gets everything.
    pub(super) fn follows(&self) -> bool {
        let streaming = self.database.as_ref().is_some_and(|database| database.streaming);
        self.state == State::ReplicaWatching && streaming
    }

    /// Alarms that it has about the store.
    pub(super) fn alarms_of_store(&self) -> Vec<String> {
        let of_store = |alarm: &&String| OF_STORE.iter().any(|known| known.name() == **alarm);
        self.alarms.iter().filter(of_store).cloned().collect()
    }

    /// It does not take the store for the one it knows.
    pub(super) fn refuses_store(&self) -> bool {
        let refusals = [Alarm::StoreRejects.name(), Alarm::StoreNotObeyed.name()];
        self.alarms.iter().any(|alarm| refusals.contains(&alarm.as_str()))
    }

    /// Bytes that `member` is behind.
    pub(super) fn lag_of(&self, member: &str) -> Option<u64> {
        self.members.iter().find(|said| said.member == member)?.lag
    }
}

/// Asks the agent at `http`.
pub(super) async fn ask(http: &str) -> Option<Said> {
    let (status, body) = get(http, "/status", ANSWER).await.ok()?;
    status.is_success().then(|| serde_json::from_slice(&body).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_is_understood_with_more_or_less_in_it() {
        let text = r#"{"member":"b","state":"replica_watching","epoch":3,"is_primary":false,
            "writable":false,"database":{"streaming":true,"lsn":"0/1"},"news":1,
            "members":[{"member":"b","role":"replica","lag":7}]}"#;
        let said: Said = serde_json::from_str(text).unwrap();
        assert!(said.follows() && !said.leads());
        assert_eq!(said.lag_of("b"), Some(7));
        assert!(!said.is_paused && said.alarms_of_store().is_empty() && said.answer.is_none());
        let said: Said = serde_json::from_str(r#"{"state":"primary_healthy","epoch":1}"#).unwrap();
        assert!(!said.follows() && !said.leads());
        let text = r#"{"state":"replica_failed","epoch":1,"paused":{"reason":"x","by":"y","ends":false},
            "alarms":["store_rejects","no_candidate"],"line":["b"],
            "answer":{"id":"1","done":false,"text":"no"}}"#;
        let said: Said = serde_json::from_str(text).unwrap();
        assert!(said.is_paused && said.refuses_store());
        assert_eq!(said.alarms_of_store(), ["store_rejects"]);
        let said: Said =
            serde_json::from_str(r#"{"state":"replica_failed","epoch":1,"paused":null}"#).unwrap();
        assert!(!said.is_paused);
    }
}
