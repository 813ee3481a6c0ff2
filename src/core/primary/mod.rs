//! The primary's workflow (`docs/protocol.md`, section 6).
//!
//! ```text
//! Initializing ─► Healthy ─► Failed ─► Fenced ─► Yielding ─► (Replica: Initializing)
//!      ▲             │                  │  ▲         ▲
//!      │             └── hand-over ─────┼──┼─────────┘
//!      └──────── still mine, store back ┘  └ fencing task confirmed
//! ```
//!
//! One file per state. A transition consumes the old state; its data does not outlive it.

mod failed;
mod fenced;
mod healthy;
mod initializing;
mod yielding;

pub(super) use failed::Failed;
pub(super) use fenced::{After, Fenced};
pub(super) use healthy::Healthy;
pub(super) use initializing::Initializing;
pub(super) use yielding::Yielding;

use serde::{Deserialize, Serialize};

use crate::core::agent::{Deadline, Next};
use crate::core::event::{Process, Reason, State};
use crate::core::ids::Epoch;
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// A primary's state, with that state's data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Primary {
    Initializing(Initializing),
    Healthy(Healthy),
    Failed(Failed),
    Fenced(Fenced),
    Yielding(Yielding),
}

impl Primary {
    pub(super) fn state(&self) -> State {
        match self {
            Self::Initializing(_) => State::PrimaryInitializing,
            Self::Healthy(_) => State::PrimaryHealthy,
            Self::Failed(_) => State::PrimaryFailed,
            Self::Fenced(_) => State::PrimaryFenced,
            Self::Yielding(_) => State::PrimaryYielding,
        }
    }

    pub(super) fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        match self {
            Self::Initializing(state) => state.advance(cx, signal),
            Self::Healthy(state) => state.advance(cx, signal),
            Self::Failed(state) => state.advance(cx, signal),
            Self::Fenced(state) => state.advance(cx, signal),
            Self::Yielding(state) => state.advance(cx, signal),
        }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        match self {
            Self::Initializing(state) => state.deadline(cx),
            Self::Healthy(state) => state.deadline(cx),
            Self::Failed(state) => Some(state.deadline(cx)),
            Self::Fenced(state) => state.deadline(cx),
            Self::Yielding(state) => state.deadline(cx),
        }
    }

    /// The lease this state counts on, if it does.
    pub(super) fn held(&self) -> Option<&Held> {
        match self {
            Self::Initializing(state) => state.held(),
            Self::Healthy(state) => Some(&state.held),
            Self::Yielding(state) => state.held(),
            Self::Failed(_) | Self::Fenced(_) => None,
        }
    }
}

/// What became of a lease that we count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It holds.
    Kept,
    /// It has to be given up now.
    Lost(Reason),
}

impl Held {
    /// Takes in an answer to a renewal and the time, and says whether the lease still holds.
    pub(super) fn standing(&mut self, cx: &mut Shared, signal: &Signal) -> Standing {
        match signal {
            Signal::Lease(LeaseAnswer::Applied(landed))
                if landed.purpose == Purpose::Renew && landed.epoch == self.epoch =>
            {
                self.renewed(landed, &cx.policy);
                cx.guard(self);
            }
            Signal::Lease(LeaseAnswer::Refused(_)) => return Standing::Lost(Reason::LeaseTaken),
            Signal::Lease(LeaseAnswer::Unknown(Purpose::Renew)) => self.failures += 1,
            Signal::Lease(LeaseAnswer::Applied(_) | LeaseAnswer::Unknown(_))
            | Signal::Look
            | Signal::Died
            | Signal::Hook(_)
            | Signal::Acted(..) => {}
        }
        // A read never gives the right to write, but it may show that it is gone.
        if superseded(cx, self.epoch) {
            return Standing::Lost(Reason::LeaseTaken);
        }
        self.standing_by_time(cx)
    }

    fn standing_by_time(&self, cx: &Shared) -> Standing {
        if cx.now >= self.until() {
            Standing::Lost(Reason::LeaseExpired)
        } else if cx.now >= self.fence_at(&cx.policy) {
            Standing::Lost(Reason::LeaseExpiring)
        } else if self.failures >= cx.policy.failure_threshold && cx.promises_due(self).is_none() {
            Standing::Lost(Reason::RenewalsFailed)
        } else {
            Standing::Kept
        }
    }

    /// When the lease next needs attention.
    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        let fence = Deadline::at(self.fence_at(&cx.policy), "lease expiring");
        let renewal = cx.renewal_due(Some(self)).map(|at| Deadline::at(at, "renewal due"));
        Deadline::earliest([Some(fence), renewal])
    }
}

/// A database that runs as a primary, seen where none may (not after its fence, nor as a replica): it is stopped at
/// once.
/// The lease, if we still count on it, and what was to become of it stay as they are.
pub(in crate::core) fn stray(cx: &mut Shared, held: Option<&Held>, after: After) -> Option<Next> {
    let seen = cx.database.as_ref()?;
    (seen.process == Process::RunningPrimary).then(|| Failed::stray(cx, held.cloned(), after))
}

/// Whether this state's lease was deposed: the store shows a later holder than `epoch`.
pub(super) fn superseded(cx: &Shared, epoch: Epoch) -> bool {
    cx.view.lease().is_some_and(|lease| lease.epoch > epoch)
}

pub(super) fn wake(at: Instant, why: &'static str) -> Deadline {
    Deadline::at(at, why)
}
