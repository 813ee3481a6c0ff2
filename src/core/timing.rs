//! The timings of a cluster as one: all of them or none (`docs/protocol.md`, section 4).

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::policy::Policy;
use super::records::millis;

/// The section `[timing]` as a person set it for all members. Kept whole: parts of two sections, each of
/// which keeps the timing rule, may break it together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timing {
    /// As [`Policy::heartbeat_interval`].
    #[serde(rename = "heartbeat_interval_ms", with = "millis")]
    pub heartbeat_interval: Duration,
    /// As [`Policy::heartbeat_timeout`].
    #[serde(rename = "heartbeat_timeout_ms", with = "millis")]
    pub heartbeat_timeout: Duration,
    /// As [`Policy::failure_threshold`].
    pub failure_threshold: u32,
    /// As [`Policy::fence_timeout`].
    #[serde(rename = "fence_timeout_ms", with = "millis")]
    pub fence_timeout: Duration,
    /// As [`Policy::safety_margin`].
    #[serde(rename = "safety_margin_ms", with = "millis")]
    pub safety_margin: Duration,
    /// As [`Policy::lease_duration`].
    #[serde(rename = "lease_duration_ms", with = "millis")]
    pub lease_duration: Duration,
    /// As [`Policy::clock_drift_ppm`].
    pub clock_drift_ppm: u32,
    /// As [`Policy::takeover_step`].
    #[serde(rename = "takeover_step_ms", with = "millis")]
    pub takeover_step: Duration,
    /// As [`Policy::cool_down`].
    #[serde(rename = "cool_down_ms", with = "millis")]
    pub cool_down: Duration,
    /// As [`Policy::hand_over_timeout`].
    #[serde(rename = "hand_over_timeout_ms", with = "millis")]
    pub hand_over_timeout: Duration,
    /// As [`Policy::stop_timeout`].
    #[serde(rename = "stop_timeout_ms", with = "millis")]
    pub stop_timeout: Duration,
    /// As [`Policy::start_timeout`].
    #[serde(rename = "start_timeout_ms", with = "millis")]
    pub start_timeout: Duration,
    /// As [`Policy::promote_timeout`].
    #[serde(rename = "promote_timeout_ms", with = "millis")]
    pub promote_timeout: Duration,
    /// As [`Policy::rejoin_timeout`].
    #[serde(rename = "rejoin_timeout_ms", with = "millis")]
    pub rejoin_timeout: Duration,
    /// As [`Policy::shutdown_timeout`].
    #[serde(rename = "shutdown_timeout_ms", with = "millis")]
    pub shutdown_timeout: Duration,
}

impl Timing {
    /// The timings of `policy`.
    pub fn of(policy: &Policy) -> Self {
        Self {
            heartbeat_interval: policy.heartbeat_interval,
            heartbeat_timeout: policy.heartbeat_timeout,
            failure_threshold: policy.failure_threshold,
            fence_timeout: policy.fence_timeout,
            safety_margin: policy.safety_margin,
            lease_duration: policy.lease_duration,
            clock_drift_ppm: policy.clock_drift_ppm,
            takeover_step: policy.takeover_step,
            cool_down: policy.cool_down,
            hand_over_timeout: policy.hand_over_timeout,
            stop_timeout: policy.stop_timeout,
            start_timeout: policy.start_timeout,
            promote_timeout: policy.promote_timeout,
            rejoin_timeout: policy.rejoin_timeout,
            shutdown_timeout: policy.shutdown_timeout,
        }
    }

    /// `policy` with these timings.
    pub fn over(&self, policy: Policy) -> Policy {
        Policy {
            heartbeat_interval: self.heartbeat_interval,
            heartbeat_timeout: self.heartbeat_timeout,
            failure_threshold: self.failure_threshold,
            fence_timeout: self.fence_timeout,
            safety_margin: self.safety_margin,
            lease_duration: self.lease_duration,
            clock_drift_ppm: self.clock_drift_ppm,
            takeover_step: self.takeover_step,
            cool_down: self.cool_down,
            hand_over_timeout: self.hand_over_timeout,
            stop_timeout: self.stop_timeout,
            start_timeout: self.start_timeout,
            promote_timeout: self.promote_timeout,
            rejoin_timeout: self.rejoin_timeout,
            shutdown_timeout: self.shutdown_timeout,
            ..policy
        }
    }

    /// Longest time from an applied renewal to proven fencing, with the margin: the left side of the
    /// timing rule.
    pub fn needed(&self) -> Duration {
        self.heartbeat_interval
            .saturating_add(self.heartbeat_timeout.saturating_mul(self.failure_threshold))
            .saturating_add(self.fence_timeout)
            .saturating_add(self.safety_margin)
    }

    /// The lease as its holder may count on it: the right side of the timing rule.
    pub fn allowed(&self) -> Duration {
        less_drift(self.lease_duration, self.clock_drift_ppm)
    }

    /// A primary that goes by these is fenced before anybody takes over: the timing rule is kept, and
    /// nothing that it rests on is zero.
    pub fn is_safe(&self) -> bool {
        let times = [
            self.heartbeat_interval,
            self.heartbeat_timeout,
            self.fence_timeout,
            self.safety_margin,
            self.lease_duration,
        ];
        let none_is_zero = times.iter().all(|time| *time > Duration::ZERO)
            && self.failure_threshold > 0
            && self.clock_drift_ppm > 0;
        none_is_zero && self.needed() <= self.allowed()
    }
}

/// `duration` less a clock drift in parts per million.
pub(super) fn less_drift(duration: Duration, parts_per_million: u32) -> Duration {
    duration.saturating_sub((duration / 1_000_000).saturating_mul(parts_per_million))
}

/// Timings from outside: those that break the rule are no timings.
pub(super) fn safe<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<Timing>>, D::Error> {
    let timing = Option::<Box<Timing>>::deserialize(from)?;
    match timing.as_ref().filter(|timing| !timing.is_safe()) {
        Some(broken) => Err(serde::de::Error::custom(format!(
            "settings.timing breaks the timing rule: {} ms are needed, the lease allows {} ms",
            broken.needed().as_millis(),
            broken.allowed().as_millis()
        ))),
        None => Ok(timing),
    }
}
