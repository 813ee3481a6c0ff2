//! SIGHUP: which settings may change while the agent runs, and what it says about the others.

use std::collections::BTreeSet;

use super::start::Inputs;
use crate::config::{Config, Effective, Loaded};
use crate::core::policy::Policy;

/// Timings that the lease's safety rests on change with a new epoch only, so with a restart: the
/// watchdog and the candidates count by what was published before.
const LEASE: [&str; 7] = [
    "timing.heartbeat_interval",
    "timing.heartbeat_timeout",
    "timing.failure_threshold",
    "timing.fence_timeout",
    "timing.safety_margin",
    "timing.lease_duration",
    "timing.clock_drift",
];

/// Whether a setting counts as soon as it was read again.
fn is_live(key: &str) -> bool {
    let rule =
        ["failover.", "timing.", "synchronous."].iter().any(|section| key.starts_with(section));
    (rule && !LEASE.contains(&key)) || ["shutdown.on_sigterm", "log.level", "site"].contains(&key)
}

/// Reads the settings again, and remembers what was read last.
pub(super) struct Reloader<'a> {
    inputs: &'a Inputs,
    last: Vec<Effective>,
}

impl<'a> Reloader<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        Self { inputs, last: inputs.effective.clone() }
    }

    /// The settings as they are now; bad ones are reported and change nothing.
    pub(super) fn read(&mut self) -> Option<Config> {
        match (self.inputs.reload)() {
            Ok(loaded) => Some(self.take(loaded)),
            Err(error) => {
                tracing::error!(error, "settings not read again; going on with the old ones");
                None
            }
        }
    }

    fn take(&mut self, loaded: Loaded) -> Config {
        let Loaded { mut config, warnings, effective } = loaded;
        for warning in &warnings {
            tracing::warn!(warning = warning.to_string(), "configuration");
        }
        if let Err(error) = self.inputs.telemetry.set_level(&config.log_level) {
            tracing::warn!(%error, "log level not changed");
        }
        for (key, from, to) in differences(&self.last, &effective).filter(|(key, ..)| is_live(key))
        {
            tracing::info!(setting = key, from, to, "setting changed");
        }
        for (key, from, to) in
            differences(&self.inputs.effective, &effective).filter(|(key, ..)| !is_live(key))
        {
            tracing::warn!(
                setting = key,
                from,
                to,
                "setting needs a restart of the agent; going on with the old one"
            );
        }
        config.policy = keep(config.policy, &self.inputs.config.policy);
        self.last = effective;
        config
    }
}

/// Keys that say something else, with what they said and say. Secrets are paths here.
fn differences<'a>(
    old: &'a [Effective],
    new: &'a [Effective],
) -> impl Iterator<Item = (&'static str, Option<&'a str>, Option<&'a str>)> {
    let keys: BTreeSet<_> = old.iter().chain(new).map(|setting| setting.key).collect();
    let value = |settings: &'a [Effective], key: &str| {
        settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str())
    };
    keys.into_iter()
        .map(move |key| (key, value(old, key), value(new, key)))
        .filter(|(_, from, to)| from != to)
}

/// `new`, with what needs a restart as in `old`. The watchdog is started, or not, once.
fn keep(new: Policy, old: &Policy) -> Policy {
    Policy {
        heartbeat_interval: old.heartbeat_interval,
        heartbeat_timeout: old.heartbeat_timeout,
        failure_threshold: old.failure_threshold,
        fence_timeout: old.fence_timeout,
        safety_margin: old.safety_margin,
        lease_duration: old.lease_duration,
        clock_drift_ppm: old.clock_drift_ppm,
        watchdog: old.watchdog,
        before_promote: old.before_promote,
        demotes: old.demotes,
        ..new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn load(text: &str) -> Loaded {
        let base = "cluster_id=c member=a database.local.data_dir=/var/lib/postgresql/data";
        let flags = [base, text]
            .iter()
            .flat_map(|text| text.split(' '))
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        config::load(&config::Sources { flags, ..config::Sources::default() }).unwrap()
    }

    /// Every setting of the core that is not kept is one that is said to change, and the other way
    /// round: nothing changes in silence, and nothing is said to change that does not.
    #[test]
    fn what_is_said_to_change_changes_and_nothing_else() {
        let old = load("");
        let others = "profile=fast failover.priority=7 failover.on_hung=fail_over \
                      failover.on_disk_full=fail_over failover.may_bootstrap=false \
                      failover.maximum_lag_on_failover=1MiB watchdog.mode=required timing.clock_drift=0.02 \
                      timing.cool_down=7s timing.fence_timeout=200ms \
                      synchronous.mode=strict synchronous.standbys=2 hooks.before_promote=/bin/true";
        let new = load(others);
        for (key, ..) in differences(&old.effective, &new.effective) {
            let value = new.effective.iter().find(|setting| setting.key == key).unwrap();
            if key == "profile" {
                continue;
            }
            let mut policy = old.config.policy.clone();
            policy = keep(with(policy, key, &new.config.policy), &old.config.policy);
            assert_eq!(policy != old.config.policy, is_live(key), "{value:?}");
        }
        let kept = keep(new.config.policy.clone(), &old.config.policy);
        assert_eq!((kept.priority, kept.cool_down.as_secs()), (7, 7));
        assert_eq!(kept.lease_duration, old.config.policy.lease_duration);
        assert_eq!(kept.watchdog, old.config.policy.watchdog);
    }

    /// `policy`, with the one setting as in `new`.
    fn with(policy: Policy, key: &str, new: &Policy) -> Policy {
        let field = match key {
            "watchdog.mode" => "watchdog",
            "synchronous.mode" => "synchronous",
            "synchronous.standbys" => "synchronous_standbys",
            "timing.clock_drift" => "clock_drift_ppm",
            key => key.split_once('.').unwrap().1,
        };
        let mut fields = serde_json::to_value(&policy).unwrap();
        let value = serde_json::to_value(new).unwrap()[field].take();
        assert!(fields.get(field).is_some_and(|old| *old != value), "{key}");
        fields[field] = value;
        serde_json::from_value(fields).unwrap()
    }
}
