//! Fencing runs as a cancellable task: fast → immediate → kill, never smart, and never a renewal
//! meanwhile when the lease is the reason.

use serde::{Deserialize, Serialize};

use super::fenced::After;
use super::{Fenced, Primary, wake};
use crate::core::agent::{Deadline, Next};
use crate::core::event::{Action, ActionOutcome, Alarm, Done, Ladder, Reason};
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;
use std::time::Duration;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::core) struct Failed {
    held: Option<Held>,
    after: After,
    /// When this try began.
    started: Instant,
    /// Ends this try, or the pause after it; the next one kills at once.
    limit: Instant,
    /// Tries that failed.
    failures: u32,
}

/// No rung but the last.
const KILL: Ladder = Ladder { fast: Duration::ZERO, immediate: Duration::ZERO };

impl Failed {
    /// Starts to fence because of `reason`. `held` is the lease as last proven, if there was one.
    pub(in crate::core) fn enter(
        cx: &mut Shared,
        reason: Reason,
        held: Option<Held>,
        after: After,
    ) -> Self {
        let ladder = in_time(cx, ladder(cx, reason), held.as_ref());
        if let Some(held) = &held {
            cx.epoch_ended(held.epoch);
        }
        let mut failed = Self { held, after, started: cx.now, limit: cx.now, failures: 0 };
        failed.fence(cx, ladder);
        failed
    }

    /// Stops a primary that runs without a right to.
    pub(in crate::core) fn stray(cx: &mut Shared, held: Option<Held>, after: After) -> Next {
        let reason = Reason::StrayPrimary;
        Next::to(Primary::Failed(Self::enter(cx, reason, held, after)), reason)
    }

    fn fence(&mut self, cx: &mut Shared, ladder: Ladder) {
        let limit = cx.policy.fence_timeout;
        let epoch =
            self.held.as_ref().map_or(super::initializing::NO_EPOCH, |held| held.epoch.next());
        cx.act(Action::Fence { ladder }, epoch, limit);
        self.started = cx.now;
        self.limit = cx.now + limit;
    }

    pub(super) fn deadline(&self, _cx: &Shared) -> Deadline {
        wake(self.limit, "fence limit")
    }

    pub(super) fn advance(mut self, cx: &mut Shared, signal: Signal) -> Next {
        match signal {
            Signal::Acted(Action::Fence { .. }, ActionOutcome::Applied(Done::Fenced(proof))) => {
                cx.clear(Alarm::FenceStepFailed);
                cx.unguard();
                let fenced = Fenced::new(self.held, proof, self.after, cx.now);
                return Next::to(Primary::Fenced(fenced), Reason::FenceConfirmed);
            }
            Signal::Acted(..) => self.failed_try(cx),
            // Nothing is sent while fencing; what was sent before may still be answered.
            Signal::Lease(LeaseAnswer::Applied(landed)) if landed.purpose == Purpose::Renew => {
                let ours = self.held.as_mut().filter(|held| held.epoch == landed.epoch);
                if let Some(held) = ours {
                    held.renewed(&landed, &cx.policy);
                }
            }
            Signal::Lease(LeaseAnswer::Refused(Purpose::Renew)) => self.after = After::Rejoin,
            Signal::Lease(_) | Signal::Look | Signal::Died | Signal::Hook(_) => {}
        }
        if cx.now >= self.limit {
            cx.raise(Alarm::FenceStepFailed);
            self.fence(cx, KILL);
        }
        Next::stay(Primary::Failed(self))
    }

    /// The first failure kills at once; later ones pause, so that an adapter that refuses immediately
    /// is not called in a circle.
    fn failed_try(&mut self, cx: &mut Shared) {
        cx.raise(Alarm::FenceStepFailed);
        let pause = if self.failures == 0 { Duration::ZERO } else { cx.policy.kill_allowance() };
        self.failures = self.failures.saturating_add(1);
        self.limit = self.started + pause;
    }
}

/// A fence that begins late (after a freeze, a suspension) has less time to be gentle: by the time at
/// which a watchdog would kill, it kills.
fn in_time(cx: &Shared, ladder: Ladder, held: Option<&Held>) -> Ladder {
    let proven = held.map(|held| cx.policy.guard_at(held.until()));
    let Some(kill_at) = proven.or(cx.last_deadline) else { return ladder };
    let left = kill_at.since(cx.now);
    Ladder { fast: ladder.fast.min(left), immediate: ladder.immediate.min(left) }
}

/// How much time there is to be gentle: none when somebody else may write already.
fn ladder(cx: &Shared, reason: Reason) -> Ladder {
    let all = cx.policy.fence_timeout;
    let gentle = Ladder { fast: all / 2, immediate: all - cx.policy.kill_allowance() };
    let firm = Ladder { fast: Duration::ZERO, immediate: all / 2 };
    match reason {
        Reason::RenewalsFailed
        | Reason::LeaseExpiring
        | Reason::Shutdown
        | Reason::WatchdogMissing
        | Reason::Switchover
        | Reason::Failback
        | Reason::HookRefused
        | Reason::HandOver => gentle,
        Reason::DatabaseHung
        | Reason::DatabaseDiskFull
        | Reason::PromotionFailed
        | Reason::StartFailed
        | Reason::DatabaseNotPrimary => firm,
        Reason::StartedBesidePrimary
        | Reason::LeaseApplied
        | Reason::LeaseTaken
        | Reason::LeaseExpired
        | Reason::DatabaseDied
        | Reason::FenceConfirmed
        | Reason::LeaseKept
        | Reason::CalledOff
        | Reason::Deposed
        | Reason::TakenBack
        | Reason::Following
        | Reason::UpstreamChanged
        | Reason::DatabaseUnfit
        | Reason::HeartbeatsFailed
        | Reason::Recovered
        | Reason::LeaseReleased
        | Reason::HolderSilent
        | Reason::ClusterNew
        | Reason::Promoted
        | Reason::LeaseLost
        | Reason::StrayPrimary => KILL,
    }
}
