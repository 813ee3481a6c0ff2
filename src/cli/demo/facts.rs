//! What the faults that are about operating show besides gaps and losses.

use serde::Serialize;

use super::report::Milliseconds;

/// What the product promises did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(pub(super) String);

/// What one run of such a fault showed, under the fault's name.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Facts {
    /// The way back to the preferred member.
    Failback {
        /// Who is to lead.
        preferred: String,
        /// Who led before.
        from: String,
        /// From right before the order was written until the client's first commit on the preferred member.
        order_to_commit_ms: Milliseconds,
    },
    /// The primary's node died while transitions were paused.
    PauseKill {
        /// From the kill until transitions were resumed.
        paused_ms: Milliseconds,
        /// Epochs that began meanwhile; it has to be 0.
        takeovers_while_paused: u64,
        /// From right before the pause was lifted until the client's first commit on another member.
        resume_to_commit_ms: Milliseconds,
    },
    /// The store took no writes.
    StoreOutage(StoreFacts),
    /// Another store stood in its place.
    StoreReplace(StoreFacts),
}

/// What became of the primary while the store was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    /// It went on, by the promises of all other members.
    RodeOut,
    /// Its database was ended before its lease was over.
    Fenced,
}

/// The store was away and came back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct StoreFacts {
    /// How long it was away.
    pub(super) away_ms: Milliseconds,
    /// What became of the primary.
    pub(super) fate: Fate,
    /// The primary's alarms about the store, right before that came back.
    pub(super) alarms: Vec<String>,
    /// Of a primary that was fenced: how long after the store went a commit was last acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_commit_ms: Option<Milliseconds>,
    /// Of another store: how long until every member said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alarmed_ms: Option<Milliseconds>,
    /// Of another store: records written into it; it has to be 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) written: Option<u64>,
    /// From the store's return until no alarm about it stood and every member did its part.
    pub(super) back_ms: Milliseconds,
    /// Epochs that began since the store went.
    pub(super) epochs: u64,
    /// Databases that are not the process they were; the agents are, or the run has failed.
    pub(super) databases_restarted: usize,
}

impl StoreFacts {
    /// A primary that went on is the one that it was, and nobody's database was ended.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let same = self.epochs == 0 && self.databases_restarted == 0;
        if self.fate == Fate::Fenced || same {
            return Ok(());
        }
        Err(Broken(format!(
            "the primary went on without the store, but since then {} epochs began and {} databases were \
             started again",
            self.epochs, self.databases_restarted
        )))
    }

    fn text(&self) -> String {
        let alarms = match self.alarms[..] {
            [] => "no alarm about it".to_owned(),
            _ => self.alarms.join(", "),
        };
        let fate = match (self.fate, self.last_commit_ms) {
            (Fate::RodeOut, _) => "the primary went on".to_owned(),
            (Fate::Fenced, Some(last)) => {
                format!("the primary was fenced, its last commit {last} ms after the store went")
            }
            (Fate::Fenced, None) => "the primary was fenced".to_owned(),
        };
        let refused = self.alarmed_ms.zip(self.written).map_or_else(String::new, |(after, written)| {
            format!("; every member refused the new one after {after} ms, {written} records were written into it")
        });
        format!(
            "store away for {} ms: {fate} ({alarms}); nobody took over{refused}; all as before {} ms after it \
             came back, {} epochs later, {} databases started again",
            self.away_ms, self.back_ms, self.epochs, self.databases_restarted
        )
    }
}

impl Facts {
    /// For people, in a sentence.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Failback { preferred, from, order_to_commit_ms } => format!(
                "back from {from} to {preferred}: first commit {order_to_commit_ms} ms after it was asked for"
            ),
            Self::PauseKill { paused_ms, takeovers_while_paused, resume_to_commit_ms } => format!(
                "without a primary for {paused_ms} ms while paused, {takeovers_while_paused} takeovers \
                 meanwhile; first commit {resume_to_commit_ms} ms after transitions were resumed"
            ),
            Self::StoreOutage(facts) | Self::StoreReplace(facts) => facts.text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(fate: Fate, epochs: u64, databases_restarted: usize) -> StoreFacts {
        StoreFacts {
            away_ms: Milliseconds::new(3300.0),
            fate,
            alarms: vec!["store_rejects".to_owned()],
            last_commit_ms: None,
            alarmed_ms: None,
            written: None,
            back_ms: Milliseconds::new(200.0),
            epochs,
            databases_restarted,
        }
    }

    #[test]
    fn who_rode_it_out_is_who_was_there() {
        assert_eq!(facts(Fate::RodeOut, 0, 0).check(), Ok(()));
        assert_eq!(facts(Fate::Fenced, 1, 1).check(), Ok(()));
        assert!(facts(Fate::RodeOut, 1, 0).check().is_err());
        assert!(facts(Fate::RodeOut, 0, 1).check().is_err());
    }

    #[test]
    fn facts_stand_under_the_fault_s_name() {
        let paused = Facts::PauseKill {
            paused_ms: Milliseconds::new(3300.0),
            takeovers_while_paused: 0,
            resume_to_commit_ms: Milliseconds::new(80.0),
        };
        assert_eq!(
            serde_json::to_string(&paused).unwrap(),
            r#"{"pause_kill":{"paused_ms":3300.0,"takeovers_while_paused":0,"resume_to_commit_ms":80.0}}"#
        );
        let replaced = StoreFacts {
            alarmed_ms: Some(Milliseconds::new(260.0)),
            written: Some(0),
            ..facts(Fate::RodeOut, 0, 0)
        };
        assert!(
            replaced.text().contains("refused the new one after 260.0 ms"),
            "{}",
            replaced.text()
        );
        let text = serde_json::to_string(&Facts::StoreReplace(replaced)).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"store_replace":{"away_ms":3300.0,"fate":"rode_out","alarms":["store_rejects"],"#,
                r#""alarmed_ms":260.0,"written":0,"back_ms":200.0,"epochs":0,"databases_restarted":0}}"#
            )
        );
    }
}
