//! Settings that may be changed for the whole cluster while it runs: they stand in `cluster_state` and win
//! over every member's own.

use super::keys::{Key, find};
use super::show::show;
use super::value::{Value, from_text};
use super::{Effective, show_duration};
use crate::core::records::ClusterSettings;

const MAXIMUM_LAG: &str = "failover.maximum_lag_on_failover";
const FAILBACK_AFTER: &str = "failover.failback_after";

/// The keys that may be set for the cluster.
pub const CLUSTER_KEYS: [&str; 2] = [MAXIMUM_LAG, FAILBACK_AFTER];

fn key(path: &str) -> Result<&'static Key, String> {
    let known = find(path).ok_or_else(|| {
        let nearest = super::keys::nearest(path);
        let hint = nearest.map_or(String::new(), |key| format!("; did you mean {}?", key.path));
        format!("there is no key {path}{hint}")
    })?;
    if CLUSTER_KEYS.contains(&path) {
        return Ok(known);
    }
    Err(format!(
        "{path} cannot be set for a running cluster; change it in each member's configuration. Those that \
         can: {}",
        CLUSTER_KEYS.join(", ")
    ))
}

/// `settings` with `path` set to `text`, as it would be written in the environment.
///
/// # Errors
/// There is no such key, it cannot be set for the cluster, or the value is none of its kind.
pub fn set_for_cluster(
    settings: &ClusterSettings,
    path: &str,
    text: &str,
) -> Result<ClusterSettings, String> {
    let key = key(path)?;
    let value = from_text(key.kind, text).map_err(|what| format!("{path} {what}"))?;
    let mut settings = settings.clone();
    match value {
        Value::Whole(bytes) => settings.maximum_lag_on_failover = Some(bytes),
        Value::Duration(after) => {
            if !after.subsec_nanos().is_multiple_of(1_000_000) {
                let after = show_duration(after);
                return Err(format!("{path} is {after}; it has to be whole milliseconds"));
            }
            let milliseconds = u64::try_from(after.as_millis());
            let milliseconds = milliseconds.map_err(|_| format!("{path} is {text}: too long"))?;
            settings.failback_after_ms = Some(milliseconds);
        }
        Value::Text(_) | Value::Flag(_) | Value::List(_) | Value::Table(_) => {
            return Err(format!("{path} cannot be set for a running cluster"));
        }
    }
    Ok(settings)
}

/// `settings` without `path`: every member's own configuration counts again.
///
/// # Errors
/// There is no such key, or it cannot be set for the cluster.
pub fn unset_for_cluster(
    settings: &ClusterSettings,
    path: &str,
) -> Result<ClusterSettings, String> {
    let path = key(path)?.path;
    let mut settings = settings.clone();
    if path == MAXIMUM_LAG {
        settings.maximum_lag_on_failover = None;
    } else {
        settings.failback_after_ms = None;
    }
    Ok(settings)
}

/// A member's settings as they count, `settings` being those of the cluster.
pub fn effective(own: &[Effective], settings: &ClusterSettings) -> Vec<Effective> {
    let set = |path: &str| match path {
        MAXIMUM_LAG => settings.maximum_lag_on_failover.map(Value::Whole),
        FAILBACK_AFTER => settings
            .failback_after_ms
            .map(|milliseconds| Value::Duration(std::time::Duration::from_millis(milliseconds))),
        _ => None,
    };
    let counts = |own: &Effective| match (set(own.key), find(own.key)) {
        (Some(value), Some(key)) => Effective {
            value: show(key.kind, &value),
            origin: "the cluster (config set)".to_owned(),
            ..own.clone()
        },
        (_, _) => own.clone(),
    };
    own.iter().map(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_shown_and_can_be_unset() {
        let none = ClusterSettings::default();
        let some = set_for_cluster(&none, MAXIMUM_LAG, "4KiB").unwrap();
        let both = set_for_cluster(&some, FAILBACK_AFTER, "90s").unwrap();
        assert_eq!(
            (both.maximum_lag_on_failover, both.failback_after_ms),
            (Some(4096), Some(90_000))
        );
        let own: Vec<_> = [MAXIMUM_LAG, FAILBACK_AFTER, "failover.priority"]
            .map(|key| Effective { key, value: "own".to_owned(), origin: "default".to_owned() })
            .into();
        let shown = |settings| effective(&own, settings).into_iter().map(|it| it.value);
        assert_eq!(shown(&both).collect::<Vec<_>>(), ["\"4KiB\"", "\"1m 30s\"", "own"]);
        assert_eq!(unset_for_cluster(&both, FAILBACK_AFTER), Ok(some));
        assert_eq!(shown(&none).collect::<Vec<_>>(), ["own"; 3]);
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let none = ClusterSettings::default();
        for (path, text, words) in [
            ("failover.maximum_lag", "1MiB", "did you mean failover.maximum_lag_on_failover"),
            ("timing.lease_duration", "10s", "cannot be set for a running cluster"),
            (MAXIMUM_LAG, "16", "expected bytes"),
            (MAXIMUM_LAG, "-1B", "expected bytes"),
            (FAILBACK_AFTER, "soon", "expected a time"),
            (FAILBACK_AFTER, "1500us", "whole milliseconds"),
        ] {
            let why = set_for_cluster(&none, path, text).unwrap_err();
            assert!(why.contains(words), "{path} {text}: {why}");
        }
        assert!(unset_for_cluster(&none, "log.level").is_err());
    }
}
