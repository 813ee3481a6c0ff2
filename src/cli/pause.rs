//! `harmony-agent pause` and `resume`: automatic transitions off and on.

use std::time::Duration;

use jiff::fmt::friendly;

use super::exit::Failure;
use super::order::{failure, whoever};
use super::{Settings, output, runtime};
use crate::config::show_duration;
use crate::core::order::Pause;
use crate::core::records::{ClusterState, Snapshot};
use crate::core::time::StoreTime;
use crate::operator::{Operator, Trouble};

/// Longest reason kept.
const LONGEST_REASON: usize = 200;

/// Arguments of `pause`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Why, for those who will wonder
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    /// End by itself after this time, as in 2h [default: only `resume` ends it]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    let long = text.chars().count() > LONGEST_REASON;
    if text.is_empty() || long || text.chars().any(char::is_control) {
        return Err(format!("expected 1 to {LONGEST_REASON} characters on one line"));
    }
    Ok(text.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = friendly::SpanParser::new().parse_unsigned_duration(text.trim());
    match parsed {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) | Err(_) => Err(format!("{text:?} is no time such as 30m or 2h")),
    }
}

/// Pauses automatic transitions.
///
/// # Errors
/// The store is not there, does not answer or does not take it.
pub fn pause(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let config = settings.read()?.config;
        let mut operator = Operator::open(&config).await.map_err(failure)?;
        let by = whoever(&config.member);
        put(&mut operator, &arguments.reason, &by, arguments.duration).await.map_err(failure)?;
        let end = match arguments.duration {
            Some(duration) => format!("for {}", show_duration(duration)),
            None => "until `harmony-agent resume`".to_owned(),
        };
        output::print(&format!(
            "paused {end}: nobody takes over by itself; a primary that loses its lease still fences"
        ))
    })
}

/// Writes a pause into the description of the cluster, until it is lifted or for `duration`.
pub(super) async fn put(
    operator: &mut Operator,
    reason: &str,
    by: &str,
    duration: Option<Duration>,
) -> Result<(), Trouble> {
    let put = |snapshot: &Snapshot, cluster: ClusterState| {
        let until = duration.map(|duration| ends(snapshot, duration)).transpose()?;
        let pause = Pause { reason: reason.to_owned(), by: by.to_owned(), until };
        Ok(Some(ClusterState { paused: Some(pause), ..cluster }))
    };
    operator.change(put).await.map(drop)
}

/// Takes the pause out of it; returns whether there was one.
pub(super) async fn lift(operator: &mut Operator) -> Result<bool, Trouble> {
    let without = |_: &Snapshot, cluster: ClusterState| {
        let paused = cluster.paused.is_some();
        Ok(paused.then_some(ClusterState { paused: None, ..cluster }))
    };
    operator.change(without).await
}

fn ends(snapshot: &Snapshot, duration: Duration) -> Result<StoreTime, String> {
    let now = snapshot.newest_time().ok_or("the store shows no time; try again")?;
    let nanoseconds = i64::try_from(duration.as_nanos()).map_err(|_| "that is too long")?;
    Ok(StoreTime(now.0.checked_add(nanoseconds).ok_or("that is too long")?))
}

/// Ends the pause.
///
/// # Errors
/// As [`pause`].
pub fn resume(settings: &Settings) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let config = settings.read()?.config;
        let mut operator = Operator::open(&config).await.map_err(failure)?;
        match lift(&mut operator).await.map_err(failure)? {
            true => output::print("resumed"),
            false => output::print("nothing was paused"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_one_short_line() {
        assert_eq!(reason(" disk \u{e4}"), Ok("disk \u{e4}".to_owned()));
        for wrong in ["", "  ", "a\nb", "\u{1b}[2J", &"x".repeat(201)] {
            assert!(reason(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lengths_of_pauses_have_units() {
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "2", "0s", "-1h", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
