//! Confirmed not writable. Decides what becomes of the lease and of the database.

use serde::{Deserialize, Serialize};

use super::{Initializing, Primary, Yielding, stray, superseded};
use crate::core::agent::{Deadline, Next};
use crate::core::event::{FenceProof, Reason};
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// What to do once fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
            | Reason::LeaseLost => Self::Reopen,
            Reason::DatabaseDied
            | Reason::DatabaseHung
            | Reason::DatabaseDiskFull
            | Reason::DatabaseNotPrimary => Self::HandOverOrReopen,
            Reason::PromotionFailed
            | Reason::HookRefused
            | Reason::StartFailed
            | Reason::WatchdogMissing => Self::StepBack,
            Reason::Shutdown => Self::Release,
            Reason::StartedBesidePrimary
            | Reason::LeaseApplied
            | Reason::FenceConfirmed
            | Reason::LeaseKept
            | Reason::HandOver
            | Reason::Switchover
            | Reason::Failback
            | Reason::CalledOff
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        let exit = cx.shutdown.map(|_| Deadline::at(self.patience(cx), "fenced: exit"));
        let decide = if self.waits_for_write(cx) {
            cx.renewal_due(None).map(|at| Deadline::at(at, "fenced: resend"))
        } else {
            // The decision waits for nothing else, but for what was cancelled to be over.
            (!cx.busy()).then(|| Deadline::at(self.since, "fenced: decide"))
        };
        Deadline::earliest([exit.filter(|exit| exit.at > cx.now), decide])
    }

    /// The lease is still ours to use, and a write to it may still land.
    fn waits_for_write(&self, cx: &Shared) -> bool {
        cx.pending.is_some() && self.after != After::Rejoin && self.held.is_some()
    }

    /// When an agent that is to stop no longer waits for the store.
    fn patience(&self, cx: &Shared) -> Instant {
        self.since + cx.policy.heartbeat_timeout * 4
    }

    pub(super) fn advance(mut self, cx: &mut Shared, signal: Signal) -> Next {
        match signal {
            Signal::Lease(LeaseAnswer::Applied(landed)) if landed.purpose == Purpose::Renew => {
                if let Some(held) = self.held.as_mut().filter(|held| held.epoch == landed.epoch) {
                    held.renewed(&landed, &cx.policy);
                }
            }
            Signal::Lease(LeaseAnswer::Refused(Purpose::Renew)) => self.after = After::Rejoin,
            Signal::Lease(_)
            | Signal::Look
            | Signal::Died
            | Signal::Hook(_)
            | Signal::Acted(..) => {}
        }
        if self.held.as_ref().is_some_and(|held| superseded(cx, held.epoch)) {
            self.after = After::Rejoin;
        }
        if let Some(next) = stray(cx, self.held.as_ref(), self.after) {
            return next;
        }
        if cx.shutdown.is_some() && cx.now >= self.patience(cx) {
            return Next::exit(Primary::Fenced(self));
        }
        if self.waits_for_write(cx) {
            cx.resend_pending();
            return Next::stay(Primary::Fenced(self));
        }
        if cx.busy() {
            return Next::stay(Primary::Fenced(self));
        }
        self.decide(cx)
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
            let yielding = Yielding::releasing(cx, held, &proof, reason, None);
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
