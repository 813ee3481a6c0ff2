//! What the store has told an agent of what a person wants, as it was before a mutant tampers with it.

use harmony_agent::core::ids::{Epoch, InstanceId, MemberId};
use harmony_agent::core::order::{Order, Pause, Wish};
use harmony_agent::core::records::{ClusterSettings, Lease, Slot, Snapshot};
use harmony_agent::core::time::StoreTime;

use super::World;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    holder: Option<(MemberId, InstanceId, Epoch)>,
    pause: Option<Pause>,
    settings: ClusterSettings,
    order: Option<Order>,
    /// The newest epoch of whose lease a person said that it may be lost with whatever was written.
    any_loss: Option<Epoch>,
    /// The newest time on any record.
    now: Option<StoreTime>,
}

impl Told {
    /// A read arrived.
    pub(crate) fn read(&mut self, snapshot: &Snapshot) {
        let holder = |lease: &Lease| (lease.holder.clone(), lease.instance.clone(), lease.epoch);
        self.holder = snapshot.lease.record().map(holder);
        match &snapshot.cluster {
            Slot::Valid { record, .. } => {
                self.pause = record.paused.clone();
                self.settings = record.settings.clone();
                self.order = record.order.clone();
            }
            // Settings that were read last go on to count.
            Slot::Absent => (self.pause, self.order) = (None, None),
            // So does a pause while the record is bad; an order may have been withdrawn.
            Slot::Invalid { .. } => self.order = None,
        }
        let any_loss =
            |order: &&Order| order.wish == Wish::Failover { accept_loss: true } && !order.rehearsal;
        let epoch = self.order.as_ref().filter(any_loss).map(|order| order.epoch);
        self.any_loss = self.any_loss.max(epoch);
        let heartbeats = snapshot.heartbeats.values().filter_map(created);
        let others = [created(&snapshot.lease), created(&snapshot.cluster)];
        self.now = heartbeats.chain(others.into_iter().flatten()).max();
    }

    /// Transitions are paused.
    pub(crate) fn paused(&self) -> bool {
        let over = |until: StoreTime| self.now.is_some_and(|now| now >= until);
        self.pause.as_ref().is_some_and(|pause| !pause.until.is_some_and(over))
    }

    /// A person said that this lease may go at any loss.
    pub(crate) fn loss_accepted(&self, epoch: Epoch) -> bool {
        self.any_loss == Some(epoch)
    }

    /// The order that is to be carried out in this epoch.
    pub(crate) fn order(&self, epoch: Epoch) -> Option<&Order> {
        let due = |order: &&Order| order.not_before.is_none_or(|at| self.now >= Some(at));
        let order = self.order.as_ref().filter(|order| !order.rehearsal && order.epoch == epoch);
        order.filter(due)
    }
}

impl World {
    /// The lease that this agent has read of is another's.
    pub(crate) fn reads_of_another(&self, m: usize) -> bool {
        let machine = &self.machines[m];
        let holder = machine.agent.as_ref().and_then(|agent| agent.told.holder.as_ref());
        holder.is_some_and(|(member, instance, _)| {
            (member, instance) != (&machine.member, &machine.instance)
        })
    }

    /// How far behind this agent may be to take over, as it was told.
    pub(crate) fn lag_allowed(&self, m: usize) -> u64 {
        let told = self.machines[m].agent.as_ref().map(|agent| &agent.told.settings);
        let set = told.and_then(|settings| settings.maximum_lag_on_failover);
        set.unwrap_or(self.setup.policy.maximum_lag_on_failover)
    }

    /// This agent was told, or configured, to fail back by itself.
    pub(crate) fn fails_back(&self, m: usize) -> bool {
        let told = self.machines[m].agent.as_ref().map(|agent| &agent.told.settings);
        match told.and_then(|settings| settings.failback_after_ms) {
            Some(milliseconds) => milliseconds > 0,
            None => self.setup.policy.failback_after.is_some(),
        }
    }

    /// A person wants this member to take over from the holder that it has read of: whether it may lose
    /// something by that.
    pub(crate) fn failover_ordered(&self, m: usize) -> Option<bool> {
        let told = &self.machines[m].agent.as_ref()?.told;
        let order = told.order(told.holder.as_ref()?.2)?;
        match order.wish {
            Wish::Failover { accept_loss }
                if order.to.as_ref() == Some(&self.machines[m].member) =>
            {
                Some(accept_loss)
            }
            Wish::Failover { .. } | Wish::Switchover | Wish::Failback => None,
        }
    }
}

fn created<T>(slot: &Slot<T>) -> Option<StoreTime> {
    match slot {
        Slot::Valid { created, .. } => Some(*created),
        Slot::Absent | Slot::Invalid { .. } => None,
    }
}
