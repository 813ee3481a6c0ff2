//! The lease as the store shows it, and our writes to it.

use super::{Shared, Signal, operation};
use crate::core::event::{
    Alarm, Effect, Guard, State, StoreWrite, Upstream, WatchdogStatus, WriteOutcome,
};
use crate::core::ids::{Epoch, OpId, Revision, TimelineId};
use crate::core::lease::{Held, Landed, LeaseAnswer, PendingLease, Purpose};
use crate::core::policy::WatchdogMode;
use crate::core::records::{Invalid, Key, Lease, Record, Release, Slot};
use crate::core::time::Instant;
use crate::core::view::Disobeyed;
use std::collections::BTreeSet;
use std::time::Duration;

impl Shared {
    /// The lease is damaged, we were its last valid holder, and nobody has touched it for a whole
    /// failover time: we may write it again. Nobody else may, and no newer schema is overwritten.
    pub(in crate::core) fn may_repair_lease(&self) -> bool {
        let damaged =
            matches!(self.view.lease_slot(), Slot::Invalid { why: Invalid::Damaged(_), .. });
        let Some(last) = self.view.last_lease().filter(|last| self.is_ours(last)) else {
            return false;
        };
        let known = self.floor.as_ref().map_or(Epoch(0), |floor| floor.epoch);
        let patience = self.policy.failover_timeout(last.lease_duration);
        let quiet = self.view.window_start().is_some_and(|since| self.now.since(since) >= patience);
        // Who held it after us is known from what he wrote of the cluster.
        let newest = self.view.cluster().is_none_or(|cluster| cluster.epoch <= last.epoch);
        damaged && last.epoch >= known && newest && quiet
    }

    /// The holder of the lease as somebody to follow: its lease is neither released nor silent.
    pub(in crate::core) fn live_holder(&self) -> Option<Upstream> {
        let lease = self.view.lease()?;
        let silent = self
            .view
            .staleness(self.now)
            .is_none_or(|age| age > self.policy.failover_timeout(lease.lease_duration));
        (lease.released.is_none() && !silent).then(|| Upstream {
            member: lease.holder.clone(),
            address: lease.address.clone(),
            site: self.site_of(&lease.holder),
        })
    }

    /// The holder stops its database to release the lease, and makes it a standby on the way, which may
    /// take long.
    pub(in crate::core) fn holder_is_demoted(&self) -> bool {
        let yields = |lease: &Lease| lease.status == State::PrimaryYielding;
        self.policy.demotes && self.view.lease().is_some_and(yields)
    }

    /// The lease is ours: written by this member's agent with this state directory.
    /// Another directory under our name is somebody else.
    pub(in crate::core) fn is_ours(&self, lease: &Lease) -> bool {
        lease.holder == self.id.member && lease.instance == self.id.instance
    }

    /// The lease's revision as of the last read or of our own last applied write, whichever is newer:
    /// a holder that opens again does not wait for a read of what it wrote itself.
    pub(in crate::core) fn newest_lease_revision(&self) -> Option<Revision> {
        let written = self.floor.as_ref().map(|floor| floor.revision);
        self.view.lease_slot().revision().map(|shown| written.map_or(shown, |own| shown.max(own)))
    }

    /// Somebody else to follow.
    pub(in crate::core) fn upstream(&self) -> Option<Upstream> {
        self.live_holder().filter(|upstream| upstream.member != self.id.member)
    }

    /// The holder's history goes on in a later timeline than this one.
    pub(in crate::core) fn upstream_left(&self, timeline: TimelineId) -> bool {
        self.view.lease().is_some_and(|lease| lease.database.timeline > timeline)
    }

    /// Nobody has held a live lease for a failover time since `since`.
    pub(in crate::core) fn holder_gone(&self, since: Instant) -> bool {
        self.live_holder().is_none() && self.now >= self.holder_gone_at(since)
    }

    /// When that can be said at the earliest.
    pub(in crate::core) fn holder_gone_at(&self, since: Instant) -> Instant {
        since + self.policy.failover_timeout(self.policy.lease_duration)
    }

    // ---- writing

    /// Sends a write to the lease. Only one may be pending.
    fn write_lease(&mut self, purpose: Purpose, expected: Option<Revision>, lease: Lease) {
        let (epoch, duration) = (lease.epoch, lease.lease_duration);
        let write = self.store_write(Key::Lease, expected, Record::Lease(lease));
        let op = self.op();
        let (first_sent, last_sent) = (self.now, self.now);
        self.effects.push(Effect::Write(op, write.clone(), self.policy.heartbeat_timeout));
        let (op, may_land) = (Some(op), true);
        self.pending = Some(PendingLease {
            purpose,
            op,
            write,
            epoch,
            first_sent,
            may_land,
            duration,
            lead: Some(self.policy.fence_lead()),
            last_sent,
        });
    }

    pub(super) fn store_write(
        &mut self,
        key: Key,
        expected: Option<Revision>,
        record: Record,
    ) -> StoreWrite {
        self.next_write += 1;
        StoreWrite { key, expected, record, number: self.next_write }
    }

    fn lease_record(
        &self,
        epoch: Epoch,
        seq: u64,
        status: State,
        released: Option<Release>,
    ) -> Lease {
        Lease {
            holder: self.id.member.clone(),
            boot: self.id.boot.clone(),
            instance: self.id.instance.clone(),
            epoch,
            seq,
            status,
            lease_duration: self.policy.lease_duration,
            database: self.position,
            address: self.id.address.clone(),
            // A lease of ours from before a restart may name one that was not read since.
            described: self
                .view
                .newest_described()
                .max(self.view.lease().and_then(|lease| lease.described)),
            synchronous: self.synchronous_set().clone(),
            token: self.token_kept(status),
            released,
        }
    }

    /// Tries to become the holder: compare-and-set on `expected`, with an epoch above all known.
    pub(in crate::core) fn acquire(&mut self, status: State, expected: Option<Revision>) {
        let epoch = self.next_epoch();
        self.inherit_synchronous();
        self.inherit_token(status);
        self.journal_decides(epoch, status);
        let lease = self.lease_record(epoch, 0, status, None);
        self.write_lease(Purpose::Acquire, expected, lease);
    }

    /// An epoch above all known.
    pub(in crate::core) fn next_epoch(&self) -> Epoch {
        let known = self.floor.as_ref().map_or(Epoch(0), |floor| floor.epoch);
        let shown = self.view.lease().map_or(Epoch(0), |lease| lease.epoch);
        known.max(shown).next()
    }

    /// When the watchdog would kill for a lease acquired now.
    fn guard_at_for_new_lease(&self) -> Instant {
        self.policy.guard_at(self.policy.lease_until(self.now, self.policy.lease_duration))
    }

    /// The watchdog holds a deadline later than a lease acquired now would allow.
    pub(in crate::core) fn guards_too_late(&self) -> bool {
        matches!(self.watchdog, WatchdogStatus::Armed(until) if until > self.guard_at_for_new_lease())
    }

    /// The watchdog was told so already; its answer is awaited.
    pub(in crate::core) fn asked_to_guard_earlier(&self) -> bool {
        self.guarded.is_some_and(|(_, epoch)| epoch == self.next_epoch())
    }

    /// Has the watchdog kill no later than a lease acquired now would allow.
    pub(in crate::core) fn guard_earlier(&mut self) {
        if self.asked_to_guard_earlier() {
            return;
        }
        let (until, epoch) = (self.guard_at_for_new_lease(), self.next_epoch());
        self.guarded = Some((until, epoch));
        self.effects.push(Effect::Guard(Guard::Until(until, epoch)));
    }

    /// The lease is won, unless the answer came too late to be worth anything (a freeze, a resent
    /// write that had landed long before) or from another life of the store: then it is read again.
    pub(in crate::core) fn won(&mut self, landed: &Landed) -> Option<Held> {
        let held = Held::acquired(landed, &self.policy);
        if self.now < held.fence_at(&self.policy) {
            self.unbind();
            self.journal_acquired(landed.epoch);
            return Some(held);
        }
        self.outdate();
        None
    }

    /// Renews when it is due, sends an unanswered write again when its time is up.
    pub(in crate::core) fn drive_renewal(&mut self, held: &mut Held, status: State) {
        if self.pending.is_some() {
            self.resend_pending();
        } else if self.now >= held.next_renewal {
            let mut lease = self.lease_record(held.epoch, held.seq + 1, status, None);
            lease.lease_duration = self.duration_to_publish(held);
            held.publishing(self.now, lease.lease_duration, &self.policy);
            self.write_lease(Purpose::Renew, Some(held.revision), lease);
        }
    }

    /// The configured lease duration. A shorter one than before has to wait until the watchdog, whose
    /// deadline never moves back within an epoch, kills early enough for it: candidates wait by what is
    /// published.
    fn duration_to_publish(&self, held: &Held) -> Duration {
        let wanted = self.policy.lease_duration;
        let guards = self.policy.watchdog != WatchdogMode::Off;
        let allowed = self.guard_at_for_new_lease();
        let too_late = guards && self.guarded.is_some_and(|(until, _)| until > allowed);
        if too_late { wanted.max(held.published()) } else { wanted }
    }

    /// Gives the lease back.
    pub(in crate::core) fn release(&mut self, held: &Held, status: State, release: Release) {
        let mut lease = self.lease_record(held.epoch, held.seq + 1, status, Some(release));
        lease.synchronous = self.released_set();
        self.write_lease(Purpose::Release, Some(held.revision), lease);
    }

    /// Sends the identical pending write again, once its last try is over and its time has passed.
    pub(in crate::core) fn resend_pending(&mut self) {
        let retry_after = self.policy.heartbeat_timeout;
        let now = self.now;
        let ready =
            |pending: &PendingLease| pending.op.is_none() && now >= pending.last_sent + retry_after;
        if !self.pending.as_ref().is_some_and(ready) {
            return;
        }
        let op = self.op();
        if let Some(pending) = &mut self.pending {
            pending.op = Some(op);
            pending.last_sent = now;
            if !std::mem::replace(&mut pending.may_land, true) {
                pending.first_sent = now;
            }
            let again = pending.write.clone();
            self.effects.push(Effect::Write(op, again, self.policy.heartbeat_timeout));
        }
    }

    /// Forgets a write whose outcome is not known. Nothing may be concluded from it later: if it
    /// lands after all, a read shows a lease of ours, to be acquired anew.
    pub(in crate::core) fn forget_pending(&mut self) {
        self.pending = None;
    }

    pub(in crate::core) fn written(&mut self, op: OpId, outcome: WriteOutcome) -> Signal {
        match &outcome {
            WriteOutcome::Applied(_) => self.writes_rejected = false,
            WriteOutcome::Rejected(_) => {
                self.writes_rejected = true;
                self.raise(Alarm::StoreRejects);
            }
            WriteOutcome::Refused | WriteOutcome::Unknown { .. } => {}
        }
        if self.pending.as_ref().is_some_and(|pending| pending.op == Some(op)) {
            return self.lease_written(outcome);
        }
        if self.heartbeat.publishing.op == Some(op) {
            self.heartbeat_written(&outcome);
        } else if self.cluster_write.op == Some(op) {
            self.cluster_write.op = None;
            self.changed();
        } else {
            self.stale_completions += 1;
        }
        Signal::Look
    }

    fn lease_written(&mut self, outcome: WriteOutcome) -> Signal {
        let Some(mut pending) = self.pending.take() else { return Signal::Look };
        match outcome {
            WriteOutcome::Applied(revision) => self.applied(&pending, revision),
            WriteOutcome::Refused if pending.first_sent == pending.last_sent => {
                self.outdate();
                Signal::Lease(LeaseAnswer::Refused(pending.purpose))
            }
            // Refused after an unknown try may mean that our own earlier try landed: read, compare.
            WriteOutcome::Refused => self.unresolved(pending),
            WriteOutcome::Rejected(_) => {
                pending.may_land = pending.first_sent != pending.last_sent;
                self.unresolved(pending)
            }
            WriteOutcome::Unknown { may_land, .. } => {
                let first_try = pending.first_sent == pending.last_sent;
                pending.may_land = may_land || !first_try;
                self.unresolved(pending)
            }
        }
    }

    fn unresolved(&mut self, mut pending: PendingLease) -> Signal {
        self.changed();
        pending.op = None;
        let purpose = pending.purpose;
        self.pending = Some(pending);
        Signal::Lease(LeaseAnswer::Unknown(purpose))
    }

    fn applied(&mut self, pending: &PendingLease, revision: Revision) -> Signal {
        if matches!(self.view.disobeyed(), Some(Disobeyed::Incarnation { .. })) {
            // What another life of the store accepts gives no right to write.
            return Signal::Lease(LeaseAnswer::Refused(pending.purpose));
        }
        self.raise_floor(pending.epoch, revision);
        if let Record::Lease(lease) = &pending.write.record {
            self.lease_moved(lease);
        }
        Signal::Lease(LeaseAnswer::Applied(Landed {
            purpose: pending.purpose,
            epoch: pending.epoch,
            revision,
            sent: pending.first_sent,
            duration: pending.duration,
            lead: pending.lead,
            synchronous: match &pending.write.record {
                Record::Lease(lease) => lease.synchronous.clone(),
                Record::ClusterState(_) | Record::Heartbeat(_) | Record::Journal(_) => {
                    BTreeSet::new()
                }
            },
        }))
    }

    /// A read may show what became of a pending write: ours is there, or another one moved the key.
    pub(super) fn resolve_pending(&mut self) -> Signal {
        if !self.view.obeyed() {
            return Signal::Look;
        }
        let Some(pending) = self.pending.take_if(|pending| pending.op.is_none()) else {
            return Signal::Look;
        };
        let operation = operation(&self.id.boot, pending.write.number);
        let slot = self.view.lease_slot();
        if self.view.lease_operation() == Some(&operation) {
            let revision = slot.revision().unwrap_or_default();
            return self.applied(&pending, revision);
        }
        if slot.revision() > pending.write.expected {
            // Ours can no longer land.
            return Signal::Lease(LeaseAnswer::Refused(pending.purpose));
        }
        self.pending = Some(pending);
        Signal::Look
    }

    /// When a pending write to the lease is to be sent again, or the next renewal is due.
    pub(in crate::core) fn renewal_due(&self, held: Option<&Held>) -> Option<Instant> {
        match &self.pending {
            Some(pending) => {
                pending.op.is_none().then(|| pending.last_sent + self.policy.heartbeat_timeout)
            }
            None => held.map(|held| held.next_renewal),
        }
    }
}
