//! The holder's view of the lease: how long we may write, and what became of our writes to it.

use super::event::StoreWrite;
use super::ids::{Epoch, OpId, Revision};
use super::policy::Policy;
use super::time::Instant;

/// A lease that is, or was, ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    /// Our epoch.
    pub(super) epoch: Epoch,
    /// Revision of our last applied write: what the next one compares against.
    pub(super) revision: Revision,
    /// Renewals so far.
    pub(super) seq: u64,
    /// When our last applied renewal was *sent*: the lease counts from here, not from the answer.
    pub(super) proven: Instant,
    /// When the next renewal is due.
    pub(super) next_renewal: Instant,
    /// Renewals in a row without a known outcome.
    pub(super) failures: u32,
}

impl Held {
    /// A lease just acquired by a write sent at `sent`.
    pub(super) fn acquired(
        epoch: Epoch,
        revision: Revision,
        sent: Instant,
        policy: &Policy,
    ) -> Self {
        let next_renewal = sent + policy.heartbeat_interval;
        Self { epoch, revision, seq: 0, proven: sent, next_renewal, failures: 0 }
    }

    /// A renewal sent at `sent` was applied.
    pub(super) fn renewed(&mut self, revision: Revision, sent: Instant, policy: &Policy) {
        self.revision = revision;
        self.seq += 1;
        self.proven = self.proven.max(sent);
        self.next_renewal = sent + policy.heartbeat_interval;
        self.failures = 0;
    }

    /// End of the right to write.
    pub(super) fn until(&self, policy: &Policy) -> Instant {
        policy.lease_until(self.proven)
    }

    /// Latest start of fencing.
    pub(super) fn fence_at(&self, policy: &Policy) -> Instant {
        policy.fence_at(self.until(policy))
    }
}

/// What a write to the lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// When it was sent last.
    pub(super) last_sent: Instant,
}

/// What became of a write to the lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LeaseAnswer {
    /// It is in the store.
    Applied {
        /// What it was for.
        purpose: Purpose,
        /// The epoch it wrote.
        epoch: Epoch,
        /// Its revision.
        revision: Revision,
        /// When it was first sent.
        sent: Instant,
    },
    /// Somebody else wrote first.
    Refused(Purpose),
    /// This try gave no answer; the write stays pending.
    Unknown(Purpose),
}
