//! Confirmed not writable. Decides what becomes of the lease and of the database.

use super::{Initializing, Primary, Yielding, superseded};
use crate::core::agent::{Deadline, Next};
use crate::core::event::{FenceProof, Reason};
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// What to do once fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::core) enum After {
    /// The lease may still be ours: take it again and open the database.
    Reopen,
    /// The database failed while the lease is ours: a fit replica takes over; without one, reopen.
    HandOverOrReopen,
    /// Give the lease to somebody fit, and stay out of the line for a while.
    StepBack,
    /// Give the lease back and stop.
    Release,
    /// Somebody else holds the lease: become a standby.
    Rejoin,
}

impl After {
    /// What follows a fence because of `reason`.
    pub(in crate::core) fn for_reason(reason: Reason) -> Self {
        match reason {
            Reason::LeaseTaken | Reason::Deposed | Reason::StrayPrimary => Self::Rejoin,
            Reason::RenewalsFailed
            | Reason::LeaseExpiring
            | Reason::LeaseExpired
            | Reason::LeaseLost
            | Reason::StoreRolledBack => Self::Reopen,
            Reason::DatabaseDied
            | Reason::DatabaseHung
            | Reason::DatabaseDiskFull
            | Reason::DatabaseNotPrimary => Self::HandOverOrReopen,
            Reason::PromotionFailed | Reason::StartFailed | Reason::WatchdogMissing => {
                Self::StepBack
            }
            Reason::Shutdown => Self::Release,
            Reason::StartedBesidePrimary
            | Reason::LeaseApplied
            | Reason::FenceConfirmed
            | Reason::LeaseKept
            | Reason::HandOver
            | Reason::TakenBack
            | Reason::Following
            | Reason::UpstreamChanged
            | Reason::DatabaseUnfit
            | Reason::HeartbeatsFailed
            | Reason::Recovered
            | Reason::LeaseReleased
            | Reason::HolderSilent
            | Reason::ClusterNew
            | Reason::Promoted => Self::Rejoin,
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::core) struct Fenced {
    held: Option<Held>,
    proof: FenceProof,
    after: After,
    since: Instant,
}

impl Fenced {
    pub(in crate::core) fn new(
        held: Option<Held>,
        proof: FenceProof,
        after: After,
        since: Instant,
    ) -> Self {
        Self { held, proof, after, since }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        // The decision waits for nothing but the write that may still be on its way.
        let at = cx.renewal_due(None).unwrap_or(self.since);
        cx.pending
            .as_ref()
            .is_none_or(|pending| pending.op.is_none())
            .then(|| Deadline::at(at, "fenced: decide"))
    }

    pub(super) fn advance(mut self, cx: &mut Shared, signal: Signal) -> Next {
        match signal {
            Signal::Lease(LeaseAnswer::Applied {
                purpose: Purpose::Renew, revision, sent, ..
            }) => {
                let policy = cx.policy.clone();
                if let Some(held) = &mut self.held {
                    held.renewed(revision, sent, &policy);
                }
            }
            Signal::Lease(LeaseAnswer::Refused(_)) => return self.rejoin(cx),
            Signal::Lease(_) | Signal::Look | Signal::Died | Signal::Acted(..) => {}
        }
        if self.held.as_ref().is_some_and(|held| superseded(cx, held.epoch)) {
            return self.rejoin(cx);
        }
        if cx.shutdown.is_some() && cx.now >= self.since + cx.policy.heartbeat_timeout * 4 {
            return Next::exit(Primary::Fenced(self));
        }
        if cx.pending.is_some() && self.after != After::Rejoin {
            cx.resend_pending();
            return Next::stay(Primary::Fenced(self));
        }
        self.decide(cx)
    }

    fn rejoin(self, cx: &mut Shared) -> Next {
        Next::to(Primary::Yielding(Yielding::deposed(cx)), Reason::Deposed)
    }

    fn decide(self, cx: &mut Shared) -> Next {
        let (after, proof) = (self.after, self.proof);
        let Some(held) = self.held else {
            return match after {
                After::Reopen => {
                    Next::to(Primary::Initializing(Initializing::reopening()), Reason::LeaseKept)
                }
                After::HandOverOrReopen | After::StepBack | After::Release | After::Rejoin => {
                    Next::to(Primary::Yielding(Yielding::deposed(cx)), Reason::Deposed)
                }
            };
        };
        let heir = cx.best_other();
        let release = |cx: &mut Shared, reason| {
            let yielding = Yielding::releasing(cx, held, &proof, reason);
            Next::to(Primary::Yielding(yielding), reason)
        };
        match after {
            After::Rejoin => Next::to(Primary::Yielding(Yielding::deposed(cx)), Reason::Deposed),
            After::Release => release(cx, Reason::Shutdown),
            After::StepBack => {
                cx.cooling_until = Some(cx.now + cx.policy.cool_down);
                release(cx, Reason::HandOver)
            }
            After::HandOverOrReopen if heir.is_some() || cx.shutdown.is_some() => {
                release(cx, Reason::HandOver)
            }
            After::Reopen if cx.shutdown.is_some() => release(cx, Reason::Shutdown),
            After::HandOverOrReopen | After::Reopen => {
                Next::to(Primary::Initializing(Initializing::reopening()), Reason::LeaseKept)
            }
        }
    }
}
