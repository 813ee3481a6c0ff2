//! What we count by: the settings that a person changed for the whole cluster, else our own.
//!
//! Who takes over has read a description no older than the one its lease's holder knew
//! (`cluster_outdated`), so no decision is made by a setting that the holder had already seen replaced.

use serde::{Deserialize, Serialize};

use super::Shared;
use crate::core::policy::Policy;
use crate::core::records::ClusterSettings;

/// What a person set for the whole cluster, beside what it stands in for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Set {
    settings: ClusterSettings,
    /// What we are configured with.
    own: Policy,
}

impl Shared {
    /// A read showed the store: from this heartbeat on what the cluster's description says counts. Where
    /// none may be obeyed, what was read last goes on to count.
    pub(super) fn heed_settings(&mut self) {
        let Some(cluster) = self.view.cluster() else { return };
        let known = self.set.as_ref().map(|set| &set.settings);
        if known.unwrap_or(&ClusterSettings::default()) != &cluster.settings {
            let settings = cluster.settings.clone();
            let own = self.set.take().map_or_else(|| self.policy.clone(), |set| set.own);
            self.count_by(settings, own);
        }
    }

    /// What a person set for the cluster, as we last read it.
    pub(super) fn settings(&self) -> ClusterSettings {
        self.set.as_ref().map(|set| set.settings.clone()).unwrap_or_default()
    }

    /// Our own configuration was read again.
    pub(in crate::core) fn reconfigure(&mut self, own: Policy) {
        let settings = self.set.take().map(|set| set.settings).unwrap_or_default();
        self.count_by(settings, own);
    }

    fn count_by(&mut self, settings: ClusterSettings, own: Policy) {
        self.policy = settings.over(&own, &self.id.member);
        self.set = (settings != ClusterSettings::default()).then_some(Set { settings, own });
    }
}
