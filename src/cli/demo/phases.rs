//! Where the time of a failover went, by the log of the member that took over.

use serde::Deserialize;

use crate::core::event::State;
use crate::core::time::Instant;

use super::report::{Milliseconds, Phases};

/// One line of an agent's log, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Fields {
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    to: Option<State>,
    #[serde(default)]
    boottime: Option<f64>,
}

/// The subscriber writes the fields of an event either beside time and level or in `fields`.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    fields: Option<Fields>,
    #[serde(flatten)]
    flat: Fields,
}

impl Fields {
    fn parse(line: &str) -> Option<Self> {
        let line: Line = serde_json::from_str(line).ok()?;
        Some(line.fields.unwrap_or(line.flat))
    }
}

/// Reads the phases out of `log`, what the new primary logged: the last acquisition that led to
/// `primary_healthy` after `fault`, up to `first_commit`, the client's.
pub(super) fn phases(log: &str, fault: Instant, first_commit: Instant) -> Phases {
    let fault = seconds(fault);
    let mut sent = None;
    let mut promoting = None;
    for fields in log.lines().filter_map(Fields::parse) {
        let Some(at) = fields.boottime.filter(|at| *at >= fault) else { continue };
        if fields.event.as_deref() == Some("acquire_sent") {
            (sent, promoting) = (Some(at), None);
        }
        match fields.to {
            Some(State::ReplicaPromoting) => promoting = Some(at),
            Some(State::PrimaryHealthy) if promoting.is_some() => {
                return between(fault, sent, promoting, Some(at), seconds(first_commit));
            }
            Some(
                State::PrimaryInitializing
                | State::PrimaryHealthy
                | State::PrimaryFailed
                | State::PrimaryFenced
                | State::PrimaryYielding
                | State::ReplicaInitializing
                | State::ReplicaWatching
                | State::ReplicaFailed,
            )
            | None => {}
        }
    }
    between(fault, sent, promoting, None, seconds(first_commit))
}

fn between(
    fault: f64,
    sent: Option<f64>,
    promoting: Option<f64>,
    healthy: Option<f64>,
    first_commit: f64,
) -> Phases {
    // Without a line about the sending, winning counts as the end of detection.
    let sent = sent.or(promoting);
    let ms = |from: Option<f64>, to: Option<f64>| {
        // The client may be served before the agent knows that it may be.
        Some(Milliseconds::new((to? - from?).max(0.0) * 1000.0))
    };
    Phases {
        detect: ms(Some(fault), sent),
        acquire: ms(sent, promoting),
        promote: ms(promoting, healthy),
        first_commit: ms(healthy, Some(first_commit)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds are enough, for 285 years of uptime")]
fn seconds(at: Instant) -> f64 {
    (at.as_nanos() / 1000) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: f64, rest: &str) -> String {
        format!("{{\"level\":\"INFO\",\"boottime\":{at},\"member\":\"b\",{rest}}}\n")
    }

    #[test]
    fn phases_follow_one_another() {
        let log = [
            line(5.0, r#""from":"replica_watching","to":"replica_promoting""#),
            line(5.1, r#""from":"replica_promoting","to":"primary_healthy""#),
            "not json\n".to_owned(),
            line(11.1, r#""event":"acquire_sent""#),
            line(11.103, r#""from":"replica_watching","to":"replica_promoting""#),
            line(11.133, r#""from":"replica_promoting","to":"primary_healthy""#),
        ]
        .concat();
        let phases = phases(&log, Instant::from_millis(10_000), Instant::from_millis(11_140));
        let text = serde_json::to_string(&phases).unwrap();
        assert_eq!(text, r#"{"detect":1100.0,"acquire":3.0,"promote":30.0,"first_commit":7.0}"#);
    }

    #[test]
    fn fields_may_be_nested_the_sending_missing_and_the_client_ahead() {
        let log = [
            r#"{"timestamp":"x","fields":{"boottime":1.5,"to":"replica_promoting"}}"#,
            r#"{"timestamp":"x","fields":{"boottime":1.6,"to":"primary_healthy"}}"#,
        ]
        .join("\n");
        let phases = phases(&log, Instant::from_millis(1_000), Instant::from_millis(1_590));
        let text = serde_json::to_string(&phases).unwrap();
        assert_eq!(text, r#"{"detect":500.0,"acquire":0.0,"promote":100.0,"first_commit":0.0}"#);
    }

    #[test]
    fn what_the_log_does_not_say_is_null() {
        let phases = phases("", Instant::from_millis(1), Instant::from_millis(2));
        let text = serde_json::to_string(&phases).unwrap();
        assert_eq!(text, r#"{"detect":null,"acquire":null,"promote":null,"first_commit":null}"#);
    }
}
