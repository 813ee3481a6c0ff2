//! The other members: who would take over, whom to follow, and the cluster's description.

use super::{Publishing, Shared};
use crate::core::candidate::{self, Candidate, Fitness, WhyNot};
use crate::core::event::{Effect, Upstream};
use crate::core::ids::{MemberId, Site};
use crate::core::records::{ClusterState, Key, Lease, Record, Slot};

impl Shared {
    /// Whether this member could take over from the holder of `lease`.
    pub(in crate::core) fn eligible(&self, lease: &Lease) -> Result<(), WhyNot> {
        let fitness = Fitness {
            me: &self.id.member,
            boot: &self.id.boot,
            instance: &self.id.instance,
            database: self.database.as_ref(),
            priority: self.policy.priority,
            maximum_lag: self.policy.maximum_lag_on_failover,
            cooling_down: self.cooling_until.is_some_and(|until| self.now < until),
            watchdog_missing: self.watchdog_missing(),
            paused: self.view.paused(),
            ordered: self.ordered(lease),
        };
        if self.view.cluster_unreadable() || self.cluster_outdated(lease) {
            return Err(WhyNot::ClusterUnreadable);
        }
        candidate::eligible(&fitness, lease, self.view.cluster())
    }

    /// The cluster's description is gone although there was one, damaged and last read before this
    /// lease, or older than the one its holder knew: whom the holder counts on is not known.
    fn cluster_outdated(&self, lease: &Lease) -> bool {
        if self.view.described() < lease.described {
            return true;
        }
        match self.view.cluster_slot() {
            Slot::Valid { .. } => false,
            Slot::Absent => self.floor.as_ref().is_some_and(|floor| floor.system.is_some()),
            Slot::Invalid { .. } => {
                self.view.cluster().is_none_or(|cluster| cluster.epoch < lease.epoch)
            }
        }
    }

    /// Members that would take over, best first.
    pub(in crate::core) fn line(&self) -> Vec<Candidate> {
        candidate::line(&self.view, self.now, self.policy.lease_duration + self.longest_gap())
    }

    /// The other member that would take over first, or else the one that CloudNativePG has act already; nobody
    /// while transitions are paused.
    pub(in crate::core) fn best_other(&self) -> Option<MemberId> {
        self.others().into_iter().next()
    }

    /// The other members that would take over, that one first.
    pub(super) fn others(&self) -> Vec<MemberId> {
        if self.view.paused().is_some() {
            return Vec::new();
        }
        let mut others: Vec<_> = self.line().into_iter().map(|it| it.member).collect();
        others.retain(|member| *member != self.id.member);
        let acting = self.database.as_ref().and_then(|seen| seen.deputy_of.as_deref());
        if let Some(named) = others.iter().position(|it| Some(it.as_str()) == acting) {
            others[..=named].rotate_right(1);
        }
        others
    }

    /// The other member that would take over first, of those that do not stand where this one does: that site was
    /// made a standby as a whole.
    pub(in crate::core) fn best_elsewhere(&self) -> Option<MemberId> {
        self.others().into_iter().find(|member| !self.is_beside(member))
    }

    /// It stands where this one does, as far as both say.
    pub(super) fn is_beside(&self, member: &MemberId) -> bool {
        let own = self.policy.site.as_ref();
        own.is_some() && self.site_of(member).as_ref() == own
    }

    /// A member as somebody to follow, at the address it reports.
    pub(in crate::core) fn upstream_at(&self, member: &MemberId) -> Option<Upstream> {
        let (_, heartbeat) = self.view.heartbeats().find(|(reporter, _)| *reporter == member)?;
        let address = heartbeat.address.clone();
        Some(Upstream { member: member.clone(), address, site: self.site_of(member) })
    }

    /// Where a member stands: by its own word, else as it was when it was admitted.
    pub(super) fn site_of(&self, member: &MemberId) -> Option<Site> {
        let said = self.view.heartbeats().find(|(reporter, _)| *reporter == member);
        let said = said.and_then(|(_, heartbeat)| heartbeat.site.clone());
        let admitted = || self.view.cluster()?.members.get(member)?.site.clone();
        said.or_else(admitted)
    }

    /// Our place in that line, counted from 0; its end when we are not in it.
    pub(in crate::core) fn place_in_line(&self) -> u32 {
        let line = self.line();
        let place = line.iter().position(|candidate| candidate.member == self.id.member);
        u32::try_from(place.unwrap_or(line.len())).unwrap_or(u32::MAX)
    }

    /// The database is configured to follow `upstream`.
    pub(in crate::core) fn follows(&self, upstream: &Upstream) -> bool {
        let address = (upstream.address.host.as_str(), upstream.address.port);
        let configured = self.database.as_ref().and_then(|seen| seen.upstream.as_ref());
        configured.is_some_and(|(host, port)| (host.as_str(), *port) == address)
    }

    /// Describes the cluster in the store when the description there is not right.
    pub(in crate::core) fn publish_cluster(&mut self, wanted: ClusterState) {
        let last = self.cluster_write.sent;
        let waiting = self.cluster_write.op.is_some()
            || last.is_some_and(|sent| {
                self.view.last_read() <= Some(sent)
                    || self.now < sent + self.policy.heartbeat_interval
            });
        let right = match self.view.cluster_slot() {
            Slot::Valid { record, .. } => *record == wanted,
            Slot::Absent => false,
            // What it said of pauses and of the synchronous set is not known: a person has to.
            Slot::Invalid { .. } => self.view.cluster_unreadable(),
        };
        if waiting || right || !self.view_is_fresh() || !self.view.obeyed() {
            return;
        }
        let expected = self.view.cluster_slot().revision();
        self.admitting(&wanted, expected);
        let write = self.store_write(Key::ClusterState, expected, Record::ClusterState(wanted));
        let op = self.op();
        self.effects.push(Effect::Write(op, write, self.policy.heartbeat_timeout));
        self.cluster_write = Publishing { op: Some(op), sent: Some(self.now) };
    }
}
