//! Settings that may be changed for the whole cluster while it runs: they stand in `cluster_state` and win
//! over every member's own.

use std::time::Duration;

use super::check::policy_problems;
use super::keys::{Default, Key, find};
use super::show::show;
use super::value::{Value, from_text};
use super::{Effective, KEYS, Profile, show_duration};
use crate::core::ids::MemberId;
use crate::core::policy::{Policy, Reaction};
use crate::core::records::ClusterSettings;
use crate::core::synchronous::SynchronousMode;
use crate::core::timing::Timing;

const MAXIMUM_LAG: &str = "failover.maximum_lag_on_failover";
const FAILBACK_AFTER: &str = "failover.failback_after";
const PRIORITY: &str = "failover.priority";
const ON_HUNG: &str = "failover.on_hung";
const ON_DISK_FULL: &str = "failover.on_disk_full";
const MODE: &str = "synchronous.mode";
const STANDBYS: &str = "synchronous.standbys";
const PROFILE: &str = "profile";
/// The section that is set as a whole.
const TIMING: &str = "timing";

/// The keys that may be set for the cluster, besides those of `[timing]`.
pub const CLUSTER_KEYS: [&str; 8] =
    [MAXIMUM_LAG, FAILBACK_AFTER, PRIORITY, ON_HUNG, ON_DISK_FULL, MODE, STANDBYS, PROFILE];

/// Settings that a person asked for, each of the kind that its key takes.
#[derive(Clone, Debug)]
pub struct Changes {
    wanted: Vec<(&'static Key, Value)>,
    member: Option<MemberId>,
}

impl Changes {
    /// Reads keys with their values, as they would be written in the environment. `member` is whose
    /// `failover.priority` is meant.
    ///
    /// # Errors
    /// There is no such key, it cannot be set for the cluster, or a value is none of its kind.
    pub fn parse<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        member: Option<MemberId>,
    ) -> Result<Self, String> {
        let mut wanted = Vec::new();
        for (path, text) in pairs {
            let key = key(path)?;
            let value = from_text(key.kind, text).map_err(|what| format!("{path} {what}"))?;
            if let Value::Duration(time) = &value
                && !time.subsec_nanos().is_multiple_of(1_000_000)
            {
                let time = show_duration(*time);
                return Err(format!("{path} is {time}; it has to be whole milliseconds"));
            }
            wanted.push((key, value));
        }
        about_member(wanted.iter().any(|(key, _)| key.path == PRIORITY), member.as_ref())?;
        Ok(Self { wanted, member })
    }

    /// `settings` with these changes. Timings that are not among them stay as they are set, or are as in
    /// `own` when none are.
    ///
    /// # Errors
    /// The timings break a rule together; each rule with its numbers.
    pub fn apply(
        &self,
        settings: &ClusterSettings,
        own: &Policy,
    ) -> Result<ClusterSettings, String> {
        let mut settings = settings.clone();
        let mut timing = settings.timing.as_deref().cloned().unwrap_or_else(|| Timing::of(own));
        let of_timing = |key: &Key| key.section() == TIMING || key.path == PROFILE;
        // A profile is where the others start from, wherever it was named.
        let (profiles, others): (Vec<_>, Vec<_>) =
            self.wanted.iter().partition(|(key, _)| key.path == PROFILE);
        for (key, value) in profiles.into_iter().chain(others) {
            if of_timing(key) {
                set_timing(&mut timing, key, value)?;
            } else {
                set(&mut settings, key, value, self.member.as_ref())?;
            }
        }
        if self.wanted.iter().any(|(key, _)| of_timing(key)) {
            let problems = policy_problems(&timing.over(own.clone()));
            if !problems.is_empty() {
                return Err(problems.join("; "));
            }
            settings.timing = Some(Box::new(timing));
        }
        Ok(settings)
    }
}

fn key(path: &str) -> Result<&'static Key, String> {
    let known = find(path).ok_or_else(|| {
        let nearest = super::keys::nearest(path);
        let hint = nearest.map_or(String::new(), |key| format!("; did you mean {}?", key.path));
        format!("there is no key {path}{hint}")
    })?;
    if known.section() == TIMING || CLUSTER_KEYS.contains(&path) {
        return Ok(known);
    }
    Err(format!(
        "{path} cannot be set for a running cluster; change it in each member's configuration. Those that \
         can: timing.*, {}",
        CLUSTER_KEYS.join(", ")
    ))
}

fn about_member(has_priority: bool, member: Option<&MemberId>) -> Result<(), String> {
    match (has_priority, member) {
        (true, None) => Err(format!("{PRIORITY} is a member's: say whose with --of")),
        (false, Some(_)) => Err(format!("--of goes with {PRIORITY} only")),
        (true, Some(_)) | (false, None) => Ok(()),
    }
}

fn set_timing(timing: &mut Timing, key: &Key, value: &Value) -> Result<(), String> {
    let odd = || format!("{} cannot be set for a running cluster", key.path);
    match value {
        Value::Text(word) => {
            let column = Profile::ALL.iter().position(|profile| profile.name() == word);
            let column = column.ok_or_else(odd)?;
            let starts = KEYS.iter().filter(|key| key.section() == TIMING);
            for key in starts {
                if let Default::ByProfile(texts) = key.default {
                    set_timing(timing, key, &from_text(key.kind, texts[column])?)?;
                }
            }
        }
        Value::Duration(time) => *time_of(timing, key.name()).ok_or_else(odd)? = *time,
        Value::Whole(number) => {
            let number = u32::try_from(*number).map_err(|_| odd())?;
            *number_of(timing, key.name()).ok_or_else(odd)? = number;
        }
        Value::Flag(_) | Value::List(_) | Value::Table(_) => return Err(odd()),
    }
    Ok(())
}

fn time_of<'a>(timing: &'a mut Timing, name: &str) -> Option<&'a mut Duration> {
    Some(match name {
        "heartbeat_interval" => &mut timing.heartbeat_interval,
        "heartbeat_timeout" => &mut timing.heartbeat_timeout,
        "fence_timeout" => &mut timing.fence_timeout,
        "safety_margin" => &mut timing.safety_margin,
        "lease_duration" => &mut timing.lease_duration,
        "takeover_step" => &mut timing.takeover_step,
        "cool_down" => &mut timing.cool_down,
        "hand_over_timeout" => &mut timing.hand_over_timeout,
        "stop_timeout" => &mut timing.stop_timeout,
        "start_timeout" => &mut timing.start_timeout,
        "promote_timeout" => &mut timing.promote_timeout,
        "rejoin_timeout" => &mut timing.rejoin_timeout,
        "shutdown_timeout" => &mut timing.shutdown_timeout,
        _ => return None,
    })
}

fn number_of<'a>(timing: &'a mut Timing, name: &str) -> Option<&'a mut u32> {
    Some(match name {
        "failure_threshold" => &mut timing.failure_threshold,
        "clock_drift" => &mut timing.clock_drift_ppm,
        _ => return None,
    })
}

fn set(
    settings: &mut ClusterSettings,
    key: &Key,
    value: &Value,
    member: Option<&MemberId>,
) -> Result<(), String> {
    let odd = || format!("{} cannot be set for a running cluster", key.path);
    match (key.path, value) {
        (MAXIMUM_LAG, Value::Whole(bytes)) => settings.maximum_lag_on_failover = Some(*bytes),
        (FAILBACK_AFTER, Value::Duration(after)) => {
            let milliseconds = u64::try_from(after.as_millis()).map_err(|_| odd())?;
            settings.failback_after_ms = Some(milliseconds);
        }
        (PRIORITY, Value::Whole(priority)) => {
            let member = member.ok_or_else(odd)?.clone();
            settings.priorities.insert(member, u8::try_from(*priority).map_err(|_| odd())?);
        }
        (ON_HUNG, Value::Text(word)) => settings.on_hung = Some(reaction(word).ok_or_else(odd)?),
        (ON_DISK_FULL, Value::Text(word)) => {
            settings.on_disk_full = Some(reaction(word).ok_or_else(odd)?);
        }
        (MODE, Value::Text(word)) => {
            let modes = [SynchronousMode::Off, SynchronousMode::On, SynchronousMode::Strict];
            let mode = modes.into_iter().find(|mode| mode.name() == word);
            settings.synchronous_mode = Some(mode.ok_or_else(odd)?);
        }
        (STANDBYS, Value::Whole(number)) => {
            settings.synchronous_standbys = Some(u8::try_from(*number).map_err(|_| odd())?);
        }
        _ => return Err(odd()),
    }
    Ok(())
}

fn reaction(word: &str) -> Option<Reaction> {
    [Reaction::Alert, Reaction::FailOver].into_iter().find(|it| reaction_word(*it) == word)
}

fn reaction_word(reaction: Reaction) -> &'static str {
    match reaction {
        Reaction::Alert => "alert",
        Reaction::FailOver => "fail_over",
    }
}

/// `settings` without `path`: every member's own configuration counts again. `timing` means all of that
/// section.
///
/// # Errors
/// There is no such key, it cannot be set for the cluster, or is only set together with others.
pub fn unset_for_cluster(
    settings: &ClusterSettings,
    path: &str,
    member: Option<&MemberId>,
) -> Result<ClusterSettings, String> {
    let mut settings = settings.clone();
    about_member(path == PRIORITY, member)?;
    if path == TIMING {
        settings.timing = None;
        return Ok(settings);
    }
    match key(path)?.path {
        MAXIMUM_LAG => settings.maximum_lag_on_failover = None,
        FAILBACK_AFTER => settings.failback_after_ms = None,
        PRIORITY => {
            if let Some(member) = member {
                settings.priorities.remove(member);
            }
        }
        ON_HUNG => settings.on_hung = None,
        ON_DISK_FULL => settings.on_disk_full = None,
        MODE => settings.synchronous_mode = None,
        STANDBYS => settings.synchronous_standbys = None,
        path => {
            return Err(format!(
                "{path} is set together with all timings: unset {TIMING}, or set {path} anew"
            ));
        }
    }
    Ok(settings)
}

/// A member's settings as they count, `settings` being those of the cluster.
pub fn effective(
    own: &[Effective],
    settings: &ClusterSettings,
    member: &MemberId,
) -> Vec<Effective> {
    let counts = |own: &Effective| match (value(settings, own.key, member), find(own.key)) {
        (Some(value), Some(key)) => Effective {
            value: show(key.kind, &value),
            origin: "the cluster (config set)".to_owned(),
            ..own.clone()
        },
        (_, _) => own.clone(),
    };
    own.iter().map(counts).collect()
}

/// What the cluster says of a key.
fn value(settings: &ClusterSettings, path: &str, member: &MemberId) -> Option<Value> {
    let text = |word: &str| Value::Text(word.to_owned());
    match path {
        MAXIMUM_LAG => settings.maximum_lag_on_failover.map(Value::Whole),
        FAILBACK_AFTER => {
            settings.failback_after_ms.map(Duration::from_millis).map(Value::Duration)
        }
        PRIORITY => {
            settings.priorities.get(member).map(|priority| Value::Whole((*priority).into()))
        }
        ON_HUNG => settings.on_hung.map(|reaction| text(reaction_word(reaction))),
        ON_DISK_FULL => settings.on_disk_full.map(|reaction| text(reaction_word(reaction))),
        MODE => settings.synchronous_mode.map(|mode| text(mode.name())),
        STANDBYS => settings.synchronous_standbys.map(|number| Value::Whole(number.into())),
        _ => {
            let name = path.strip_prefix(TIMING)?.strip_prefix('.')?;
            let mut timing = settings.timing.as_deref()?.clone();
            let time = time_of(&mut timing, name).map(|time| Value::Duration(*time));
            time.or_else(|| number_of(&mut timing, name).map(|it| Value::Whole((*it).into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Policy {
        let flags =
            ["cluster_id=c", "member=a", "database.local.data_dir=/var/lib/postgresql/data"];
        let flags = flags.iter().filter_map(|pair| pair.split_once('='));
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let sources = super::super::Sources { flags, ..super::super::Sources::default() };
        super::super::load(&sources).unwrap().config.policy
    }

    fn set(settings: &ClusterSettings, pairs: &[(&str, &str)]) -> Result<ClusterSettings, String> {
        let member = pairs.iter().any(|(key, _)| *key == PRIORITY).then(|| "b".parse().unwrap());
        Changes::parse(pairs.iter().copied(), member)?.apply(settings, &own())
    }

    fn shown(settings: &ClusterSettings, member: &str, keys: &[&'static str]) -> Vec<String> {
        let own: Vec<_> = keys
            .iter()
            .map(|key| Effective { key, value: "own".to_owned(), origin: "default".to_owned() })
            .collect();
        let all = effective(&own, settings, &member.parse().unwrap());
        all.into_iter().map(|it| it.value).collect()
    }

    #[test]
    fn what_is_set_is_shown_counts_and_can_be_unset() {
        let none = ClusterSettings::default();
        for (path, text, value) in [
            (MAXIMUM_LAG, "4KiB", "\"4KiB\""),
            (FAILBACK_AFTER, "90s", "\"1m 30s\""),
            (PRIORITY, "7", "7"),
            (ON_HUNG, "fail_over", "\"fail_over\""),
            (ON_DISK_FULL, "fail_over", "\"fail_over\""),
            (MODE, "strict", "\"strict\""),
            (STANDBYS, "2", "2"),
        ] {
            let some = set(&none, &[(path, text)]).unwrap();
            let key = find(path).unwrap().path;
            assert_eq!(shown(&some, "b", &[key]), [value]);
            assert_eq!(shown(&none, "b", &[key]), ["own"]);
            assert_ne!(some.over(&own(), &"b".parse().unwrap()), own(), "{path}");
            let member = (path == PRIORITY).then(|| "b".parse().unwrap());
            assert_eq!(unset_for_cluster(&some, path, member.as_ref()), Ok(none.clone()));
        }
        let some = set(&none, &[(PRIORITY, "7")]).unwrap();
        assert_eq!(shown(&some, "a", &[PRIORITY]), ["own"], "b's alone");
    }

    #[test]
    fn every_timing_can_be_set_and_shown() {
        let none = ClusterSettings::default();
        for key in KEYS.iter().filter(|key| key.section() == TIMING) {
            let Default::ByProfile([fast, ..]) = key.default else { panic!("{}", key.path) };
            let fast = from_text(key.kind, fast).unwrap();
            let all = set(&none, &[(PROFILE, "fast")]).unwrap();
            assert_eq!(shown(&all, "a", &[key.path]), [show(key.kind, &fast)]);
        }
    }

    #[test]
    fn timings_are_set_together_and_within_the_rule() {
        let none = ClusterSettings::default();
        let longer = set(&none, &[("timing.lease_duration", "20s")]).unwrap();
        let timing = *longer.timing.clone().unwrap();
        assert_eq!(
            timing,
            Timing { lease_duration: Duration::from_secs(20), ..Timing::of(&own()) }
        );
        // What is not named stays as it was set, not as it is configured.
        let slower = set(&longer, &[("timing.fence_timeout", "6s")]).unwrap();
        assert_eq!(slower.timing.as_ref().unwrap().lease_duration, Duration::from_secs(20));
        let why = set(&none, &[("timing.fence_timeout", "6s")]).unwrap_err();
        assert!(why.contains("timing rule broken") && why.contains("fence_timeout 6s"), "{why}");
        let both = [("timing.fence_timeout", "6s"), ("timing.lease_duration", "20s")];
        assert_eq!(set(&none, &both).unwrap(), slower);
        // A profile comes first wherever it is named.
        let last = set(&none, &[("timing.lease_duration", "2s"), (PROFILE, "fast")]).unwrap();
        assert_eq!(last.timing.unwrap().lease_duration, Duration::from_secs(2));
        assert_eq!(unset_for_cluster(&slower, TIMING, None), Ok(none));
        let why = unset_for_cluster(&slower, "timing.fence_timeout", None).unwrap_err();
        assert!(why.contains("unset timing"), "{why}");
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let none = ClusterSettings::default();
        for (path, text, words) in [
            ("failover.maximum_lag", "1MiB", "did you mean failover.maximum_lag_on_failover"),
            ("watchdog.mode", "off", "cannot be set for a running cluster"),
            (MAXIMUM_LAG, "16", "expected bytes"),
            (MAXIMUM_LAG, "-1B", "expected bytes"),
            (FAILBACK_AFTER, "soon", "expected a time"),
            (FAILBACK_AFTER, "1500us", "whole milliseconds"),
            (PRIORITY, "256", "whole number, 0 to 255"),
            (MODE, "always", "off | on | strict"),
            (STANDBYS, "0", "whole number, 1 to 16"),
            ("timing.safety_margin", "0s", "it has to be 10ms"),
        ] {
            let why = set(&none, &[(path, text)]).unwrap_err();
            assert!(why.contains(words), "{path} {text}: {why}");
        }
        let nobody = Changes::parse([(PRIORITY, "1")], None).unwrap_err();
        assert!(nobody.contains("--of"), "{nobody}");
        let odd = Changes::parse([(MODE, "on")], Some("b".parse().unwrap())).unwrap_err();
        assert!(odd.contains("--of"), "{odd}");
        assert!(unset_for_cluster(&none, "log.level", None).is_err());
    }
}
