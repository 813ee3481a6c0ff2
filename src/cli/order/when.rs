//! Times on the command line, and as the store's clock shows them.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::friendly;

use crate::core::time::StoreTime;

/// A time to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long from now.
    In(Duration),
    /// At this time.
    At(Timestamp),
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(duration) => write!(f, "in {}", crate::config::show_duration(*duration)),
            Self::At(time) => write!(f, "at {time}"),
        }
    }
}

/// `+10m`, or a time with its offset from UTC.
pub(super) fn parse(text: &str) -> Result<When, String> {
    if let Some(rest) = text.strip_prefix('+') {
        let duration = friendly::SpanParser::new().parse_unsigned_duration(rest.trim());
        return duration.map(When::In).map_err(|_| format!("{text:?} is no time such as +10m"));
    }
    let time: Timestamp = text.parse().map_err(|_| {
        format!(
            "{text:?} is no time; expected +10m, or a date and time with its offset from UTC, as in \
             2026-11-22T03:00:00+01:00 or 2026-11-22T02:00:00Z"
        )
    })?;
    if time <= Timestamp::now() {
        return Err(format!("{text} is in the past"));
    }
    Ok(When::At(time))
}

impl When {
    /// The same by the store's clock, which shows `now`.
    ///
    /// # Errors
    /// It is over, or farther than clocks count.
    pub(super) fn from(self, now: StoreTime) -> Result<StoreTime, String> {
        let wait = match self {
            Self::In(duration) => duration,
            Self::At(time) => Duration::try_from(time.duration_since(Timestamp::now()))
                .map_err(|_| format!("{time} is in the past"))?,
        };
        let nanoseconds = i64::try_from(wait.as_nanos()).ok();
        let at = nanoseconds.and_then(|nanoseconds| now.0.checked_add(nanoseconds));
        at.map(StoreTime).ok_or_else(|| format!("{self} is too far away"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_come_are_understood_and_others_are_not() {
        assert_eq!(parse("+10m"), Ok(When::In(Duration::from_secs(600))));
        assert!(matches!(parse("2999-01-01T00:00:00+01:00"), Ok(When::At(_))));
        for (text, expected) in [
            ("2020-01-01T00:00:00Z", "in the past"),
            ("tomorrow", "offset from UTC"),
            ("2999-01-01T00:00:00", "offset from UTC"),
            ("+soon", "+10m"),
            ("-10m", "offset from UTC"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn they_count_from_what_the_store_shows() {
        let at = When::In(Duration::from_secs(2)).from(StoreTime(5)).unwrap();
        assert_eq!(at, StoreTime(2_000_000_005));
        assert!(When::In(Duration::MAX).from(StoreTime(5)).unwrap_err().contains("too far"));
    }
}
