//! The cluster as its primary describes it in `cluster_state`.

use std::collections::BTreeMap;

use super::Shared;
use crate::core::event::Observation;
use crate::core::ids::{BootId, Epoch, MemberId};
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
            drained: known.map(|cluster| cluster.drained.clone()).unwrap_or_default(),
            removed: self.removed(),
            paused: pause.filter(|it| it.holds(self.view.store_now())).cloned(),
            order: open.cloned(),
            answer: answer.or(outcome).or_else(|| known.and_then(|known| known.answer.clone())),
            settings: known.map_or_else(|| self.settings(), |known| known.settings.clone()),
            synchronous: self.synchronous_set().iter().cloned().collect(),
            last_transition: format!("{} primary since epoch {epoch}", self.id.member),
        }
    }

    /// Members that a person took out, as long as the start of their agent that he meant is the last
    /// one that reported.
    fn removed(&self) -> BTreeMap<MemberId, BootId> {
        let mut removed =
            self.view.cluster().map(|cluster| cluster.removed.clone()).unwrap_or_default();
        let reported = |member: &MemberId| self.view.heartbeats().find(|(it, _)| *it == member);
        removed.retain(|member, boot| {
            *member != self.id.member && reported(member).is_some_and(|(_, it)| it.boot == *boot)
        });
        removed
    }

    /// Everybody who reports with our data and was not taken out, who did so before, and ourselves.
    fn members(&self, database: &Observation) -> BTreeMap<MemberId, MemberSettings> {
        let mut members =
            self.view.cluster().map(|cluster| cluster.members.clone()).unwrap_or_default();
        let removed = self.removed();
        for (member, heartbeat) in self.view.heartbeats() {
            let is_ours =
                heartbeat.database.system.is_none_or(|system| Some(system) == database.system);
            if is_ours && !removed.contains_key(member) {
                let settings = MemberSettings {
                    instance: heartbeat.instance.clone(),
                    address: heartbeat.address.clone(),
                    priority: heartbeat.priority,
                    site: heartbeat.site.clone(),
                };
                members.insert(member.clone(), settings);
            }
        }
        let own = MemberSettings {
            instance: self.id.instance.clone(),
            address: self.id.address.clone(),
            priority: self.policy.priority,
            site: self.policy.site.clone(),
        };
        members.insert(self.id.member.clone(), own);
        members
    }
}
