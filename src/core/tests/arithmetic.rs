//! The lease's arithmetic: however messages and clocks behave within bounds, the holder has finished
//! fencing before anybody may take over.
use super::bench::*;
use crate::core::ids::{Epoch, Revision};
use crate::core::lease::{Held, Landed, Purpose};
use crate::core::policy::Policy;
use crate::core::time::Instant;
use proptest::prelude::*;
use std::time::Duration;

fn landed(sent: Instant, duration: Duration) -> Landed {
    let (epoch, revision) = (Epoch(1), Revision(1));
    let synchronous = Default::default();
    Landed { purpose: Purpose::Renew, epoch, revision, sent, duration, lead: None, synchronous }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fencing_is_over_before_the_earliest_takeover(
        lease_ms in 1_000u64..120_000,
        fence_ms in 1u64..20_000,
        margin_ms in 1u64..5_000,
        drift_ppm in 0u32..50_000,
        landing_ms in 0u64..60_000,
        reading_ms in 0u64..60_000,
        // The candidate's clock runs faster than the holder's by up to the drift allowed.
        fast in 0.0f64..=1.0,
    ) {
        let policy = Policy {
            lease_duration: Duration::from_millis(lease_ms),
            fence_timeout: Duration::from_millis(fence_ms),
            safety_margin: Duration::from_millis(margin_ms),
            clock_drift_ppm: drift_ppm,
            ..policy()
        };
        let sent = Instant::from_millis(1_000_000);
        let held = Held::acquired(&landed(sent, policy.lease_duration), &policy);
        let fenced = held.fence_at(&policy).since(sent) + policy.fence_timeout;
        prop_assume!(held.fence_at(&policy) > sent);
        // In the holder's time: the candidate's window begins when it reads what landed.
        let window = Duration::from_millis(landing_ms + reading_ms);
        let wait = policy.failover_timeout(policy.lease_duration);
        let rate = 1.0 + fast * f64::from(drift_ppm) / 1e6;
        let takeover = window + wait.div_f64(rate);
        prop_assert!(fenced + Duration::from_millis(margin_ms) <= takeover + policy.less_drift(Duration::from_millis(margin_ms)));
        prop_assert!(fenced <= takeover);
    }

    /// Whatever was published and whatever of it landed: never longer than what a candidate that saw
    /// the newest record waits.
    #[test]
    fn a_changed_duration_never_outlasts_what_may_be_in_the_store(
        steps in proptest::collection::vec((1u64..5_000, 1_000u64..60_000, any::<bool>()), 1..20),
    ) {
        let policy = policy();
        let mut now = Instant::from_millis(1_000_000);
        let mut held = Held::acquired(&landed(now, policy.lease_duration), &policy);
        for (wait, duration, answered) in steps {
            now = now + Duration::from_millis(wait);
            let duration = Duration::from_millis(duration);
            held.publishing(now, duration, &policy);
            prop_assert!(held.until() <= policy.lease_until(now, duration));
            if answered {
                held.renewed(&landed(now, duration), &policy);
                prop_assert_eq!(held.until(), policy.lease_until(now, duration));
            }
        }
    }
}
