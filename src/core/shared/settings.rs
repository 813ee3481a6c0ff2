//! Settings that a person may change for the whole cluster: what the description says, else our own.
//!
//! They are looked up in the description whenever they count, and kept nowhere else: who takes over
//! has read a description no older than the one its lease's holder knew (`cluster_outdated`), so no
//! decision is made by a setting that the holder had already seen replaced.

use std::time::Duration;

use super::Shared;
use crate::core::records::ClusterSettings;

impl Shared {
    fn cluster_settings(&self) -> Option<&ClusterSettings> {
        self.view.cluster().map(|cluster| &cluster.settings)
    }

    /// Bytes that whoever takes over may be behind.
    pub(in crate::core) fn maximum_lag(&self) -> u64 {
        let set = self.cluster_settings().and_then(|set| set.maximum_lag_on_failover);
        set.unwrap_or(self.policy.maximum_lag_on_failover)
    }

    /// How long a preferred member has to be fit before the lease goes back to it; `None`: only when a
    /// person says so.
    pub(super) fn failback_after(&self) -> Option<Duration> {
        match self.cluster_settings().and_then(|set| set.failback_after_ms) {
            Some(milliseconds) => (milliseconds > 0).then(|| Duration::from_millis(milliseconds)),
            None => self.policy.failback_after,
        }
    }
}
