//! A database that is made a standby before its lease is released. Its stop is proven, so nothing is
//! guarded any more; renewals go on, so that nobody takes over before it is known what became of it.
//!
//! Once asked for, it cannot be taken back: only a refusal leaves a primary's database behind.

use super::{Heir, Step, Yielding};
use crate::core::agent::Next;
use crate::core::event::{Action, ActionOutcome, Done, FenceProof, Reason, State, Upstream};
use crate::core::ids::MemberId;
use crate::core::journal::Aside;
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::primary::fenced::After;
use crate::core::primary::{Fenced, Primary};
use crate::core::records::Release;
use crate::core::shared::{Shared, Signal};
use crate::core::token::Token;

impl Yielding {
    /// Whom a cleanly stopped database is to become a standby of before the lease is released to it.
    pub(super) fn demotion(cx: &Shared, heir: &Heir, proof: &FenceProof) -> Option<Upstream> {
        if !cx.policy.demotes || !proof.clean {
            return None;
        }
        let fit = cx.could_still_succeed(&heir.member).then(|| heir.member.clone());
        cx.upstream_at(&fit.or_else(|| cx.best_other())?)
    }

    /// Begins to make the database a standby of `to`.
    pub(super) fn demote(
        cx: &mut Shared,
        held: Held,
        heir: Heir,
        to: Upstream,
        proof: FenceProof,
    ) -> Next {
        let heir = Heir { member: to.member.clone(), ..heir };
        // One takes about as long as the other.
        cx.act(Action::Demote { to }, held.epoch, cx.policy.promote_timeout);
        Next::stay(Primary::Yielding(Self { step: Step::Demoting(held, heir, proof) }))
    }

    pub(super) fn demoting(
        mut held: Held,
        heir: Heir,
        proof: FenceProof,
        cx: &mut Shared,
        signal: Signal,
    ) -> Next {
        let signal = match signal {
            Signal::Lease(LeaseAnswer::Applied(landed))
                if landed.purpose == Purpose::Renew && landed.epoch == held.epoch =>
            {
                held.renewed(&landed, &cx.policy);
                Signal::Look
            }
            // What comes up on the way is a standby.
            Signal::Died => Signal::Look,
            other @ (Signal::Lease(_) | Signal::Look | Signal::Hook(_) | Signal::Acted(..)) => {
                other
            }
        };
        if let Some(next) = Self::trouble(&mut held, cx, &signal) {
            return next;
        }
        match signal {
            Signal::Acted(_, ActionOutcome::Applied(Done::Demoted { token })) => {
                Self::demoted(cx, held, heir, &proof, token)
            }
            // The stop was clean, so whoever has all up to its end lacks nothing, whatever became of it.
            Signal::Acted(_, ActionOutcome::Applied(_) | ActionOutcome::Unknown(_)) => {
                Self::demoted(cx, held, heir, &proof, None)
            }
            Signal::Acted(_, ActionOutcome::Refused(_)) => {
                cx.epoch_ended(held.epoch);
                let fenced = Fenced::new(Some(held), proof, After::Reopen, cx.now);
                Next::to(Primary::Fenced(fenced), Reason::CalledOff)
            }
            Signal::Look | Signal::Died | Signal::Lease(_) | Signal::Hook(_) => {
                cx.drive_renewal(&mut held, State::PrimaryYielding);
                Next::stay(Primary::Yielding(Self { step: Step::Demoting(held, heir, proof) }))
            }
        }
    }

    /// It cannot be taken back any more: the lease goes to whom the database was made a standby of, unless
    /// only somebody else is there by now.
    fn demoted(
        cx: &mut Shared,
        held: Held,
        heir: Heir,
        proof: &FenceProof,
        token: Option<Token>,
    ) -> Next {
        let Heir { member, reason, .. } = heir;
        let waits = |member: &MemberId| cx.line().iter().any(|it| it.member == *member);
        let other = if waits(&member) { None } else { cx.best_other() };
        let release = Release {
            to: Some(other.unwrap_or(member)),
            reason: reason.name().to_owned(),
            lsn: Some(proof.lsn),
            timeline: proof.timeline,
            fence: Aside(cx.fence_told()),
            token,
        };
        Next::stay(Primary::Yielding(Self::release(cx, held, release)))
    }
}
