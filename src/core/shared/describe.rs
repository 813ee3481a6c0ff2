//! The cluster as its primary describes it in `cluster_state`.

use std::collections::BTreeMap;

use super::Shared;
use crate::core::event::Observation;
use crate::core::ids::{Epoch, MemberId};
use crate::core::order::Answer;
use crate::core::records::{ClusterState, MemberSettings};

impl Shared {
    /// What `cluster_state` is to say in `epoch`, of which we are the holder. `answer` closes the order
    /// that is open.
    pub(in crate::core) fn describe(
        &self,
        epoch: Epoch,
        database: &Observation,
        answer: Option<Answer>,
    ) -> ClusterState {
        let known = self.view.cluster();
        let order = known.and_then(|known| known.order.as_ref());
        let pause = known.and_then(|known| known.paused.as_ref());
        let open = self.view.order(epoch).filter(|_| answer.is_none());
        let outcome =
            order.filter(|order| order.epoch < epoch).map(|order| self.outcome(order, epoch));
        ClusterState {
            epoch,
            primary: self.id.member.clone(),
            system: database.system,
            timeline: database.timeline,
            members: self.members(database),
            paused: pause.filter(|it| it.holds(self.view.store_now())).cloned(),
            order: open.cloned(),
            answer: answer.or(outcome).or_else(|| known.and_then(|known| known.answer.clone())),
            settings: known.map(|known| known.settings.clone()).unwrap_or_default(),
            synchronous: self.synchronous_set().iter().cloned().collect(),
            last_transition: format!("{} primary since epoch {epoch}", self.id.member),
        }
    }

    /// Everybody who reports with our data, who did so before, and ourselves.
    fn members(&self, database: &Observation) -> BTreeMap<MemberId, MemberSettings> {
        let mut members =
            self.view.cluster().map(|cluster| cluster.members.clone()).unwrap_or_default();
        for (member, heartbeat) in self.view.heartbeats() {
            if heartbeat.database.system.is_none_or(|system| Some(system) == database.system) {
                let settings = MemberSettings {
                    instance: heartbeat.instance.clone(),
                    address: heartbeat.address.clone(),
                    priority: heartbeat.priority,
                };
                members.insert(member.clone(), settings);
            }
        }
        let own = MemberSettings {
            instance: self.id.instance.clone(),
            address: self.id.address.clone(),
            priority: self.policy.priority,
        };
        members.insert(self.id.member.clone(), own);
        members
    }
}
