//! The holder's view of the lease: how long we may write, and what became of our writes to it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::StoreWrite;
use super::ids::{Epoch, MemberId, OpId, Revision};
use super::policy::Policy;
use super::time::Instant;

/// A lease that is, or was, ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Held {
    /// Our epoch.
    pub(super) epoch: Epoch,
    /// Revision of our last applied write: what the next one compares against.
    pub(super) revision: Revision,
    /// Renewals so far.
    pub(super) seq: u64,
    /// End of the right to write that the store proves. It counts from when the last applied renewal
    /// was *sent*, by the duration that renewal published: the one candidates wait by.
    until: Instant,
    /// When the last applied write of it was sent, and the duration it published.
    proven: (Instant, Duration),
    /// End of the right to write that the other members' promises prove.
    promised: Option<Instant>,
    /// The shortest lease duration that candidates may have read.
    duration: Duration,
    /// How long before its end fencing starts, as counted on when the last applied write of it was sent:
    /// other timings keep the timing rule with the lease that is published with them.
    #[serde(default)]
    lead: Option<Duration>,
    /// Whom the last applied write of it named as having every acknowledged commit.
    #[serde(default)]
    pub(super) synchronous: BTreeSet<MemberId>,
    /// When the next renewal is due.
    pub(super) next_renewal: Instant,
    /// Renewals in a row without a known outcome.
    pub(super) failures: u32,
}

impl Held {
    /// A lease just acquired.
    pub(super) fn acquired(landed: &Landed, policy: &Policy) -> Self {
        Self {
            epoch: landed.epoch,
            revision: landed.revision,
            seq: 0,
            until: policy.lease_until(landed.sent, landed.duration),
            proven: (landed.sent, landed.duration),
            promised: None,
            duration: landed.duration,
            lead: landed.lead,
            synchronous: landed.synchronous.clone(),
            next_renewal: landed.sent + policy.heartbeat_interval,
            failures: 0,
        }
    }

    /// A renewal was applied.
    pub(super) fn renewed(&mut self, landed: &Landed, policy: &Policy) {
        self.revision = landed.revision;
        self.seq += 1;
        self.until = policy.lease_until(landed.sent, landed.duration);
        self.proven = (landed.sent, landed.duration);
        self.duration = landed.duration;
        self.lead = landed.lead;
        self.synchronous.clone_from(&landed.synchronous);
        self.next_renewal = landed.sent + policy.heartbeat_interval;
        self.failures = 0;
    }

    /// A renewal that publishes `duration` is being sent at `now`. From here on a candidate may have
    /// seen it, so a shorter lease counts before its outcome is known.
    pub(super) fn publishing(&mut self, now: Instant, duration: Duration, policy: &Policy) {
        let until = policy.lease_until(now, duration);
        self.until = self.until.min(until);
        self.duration = self.duration.min(duration);
        self.lead = self.lead.map(|lead| lead.min(policy.fence_lead()));
        // A member that promised longer and was restarted waits by what it reads.
        self.promised = self.promised.map(|promised| promised.min(until));
    }

    /// End of the right to write if renewals published no more than `duration`.
    pub(super) fn until_by(&self, duration: Duration, policy: &Policy) -> Instant {
        let (sent, published) = self.proven;
        let proven = self.until.min(policy.lease_until(sent, published.min(duration)));
        self.promised.map_or(proven, |promised| promised.max(proven))
    }

    /// The duration that candidates wait by.
    pub(super) fn published(&self) -> Duration {
        self.proven.1
    }

    /// Every other member promised not to take over before `until`.
    pub(super) fn promised(&mut self, until: Instant) {
        self.promised = self.promised.max(Some(until));
    }

    /// End of the right to write: the store's proof or the other members', whichever lasts longer.
    pub(super) fn until(&self) -> Instant {
        self.promised.map_or(self.until, |promised| promised.max(self.until))
    }

    /// It lasts longer by the other members' promises than by the store's proof.
    pub(super) fn is_promised(&self) -> bool {
        self.promised.is_some_and(|promised| promised > self.until)
    }

    /// When the last applied write of it was sent.
    pub(super) fn renewed_at(&self) -> Instant {
        self.proven.0
    }

    /// The shortest lease duration that candidates may have read.
    pub(super) fn duration(&self) -> Duration {
        self.duration
    }

    /// Latest start of fencing.
    pub(super) fn fence_at(&self, policy: &Policy) -> Instant {
        self.until() - self.lead.unwrap_or(policy.fence_lead())
    }
}

/// What a write to the lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Purpose {
    /// Become, or become again, the holder with a new epoch.
    Acquire,
    /// Go on as the holder.
    Renew,
    /// Give it back.
    Release,
}

/// A write to the lease whose outcome is not known yet. It stays until the key's revision says what
/// became of it: an unknown write may land tens of seconds later.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct PendingLease {
    /// What for.
    pub(super) purpose: Purpose,
    /// The operation under way, or `None` between two tries.
    pub(super) op: Option<OpId>,
    /// The identical write to send again.
    pub(super) write: StoreWrite,
    /// The epoch it writes.
    pub(super) epoch: Epoch,
    /// When it was sent first: what an applied outcome counts from.
    pub(super) first_sent: Instant,
    /// A try of it may have reached the store.
    pub(super) may_land: bool,
    /// The lease duration it publishes.
    pub(super) duration: Duration,
    /// How long before the lease's end fencing starts, as it was sent.
    #[serde(default)]
    pub(super) lead: Option<Duration>,
    /// When it was sent last.
    pub(super) last_sent: Instant,
}

/// A write to the lease that is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Landed {
    /// What it was for.
    pub(super) purpose: Purpose,
    /// The epoch it wrote.
    pub(super) epoch: Epoch,
    /// Its revision.
    pub(super) revision: Revision,
    /// When it was first sent.
    pub(super) sent: Instant,
    /// The lease duration it publishes.
    pub(super) duration: Duration,
    /// How long before the lease's end fencing starts, as it was sent.
    pub(super) lead: Option<Duration>,
    /// Whom it names as having every acknowledged commit.
    pub(super) synchronous: BTreeSet<MemberId>,
}

/// What became of a write to the lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LeaseAnswer {
    /// It is in the store.
    Applied(Landed),
    /// Somebody else wrote first.
    Refused(Purpose),
    /// This try gave no answer; the write stays pending.
    Unknown(Purpose),
}
