//! Handing over on purpose, or having been deposed: in the end the database follows somebody else.

mod demoting;

use serde::{Deserialize, Serialize};

use super::fenced::After;
use super::{Failed, Fenced, Healthy, Initializing, Primary, Standing, stray, superseded, wake};
use crate::core::agent::{Deadline, Next};
use crate::core::event::{
    Action, ActionOutcome, Alarm, Done, FenceProof, Ladder, Reason, State, Upstream,
};
use crate::core::ids::{Epoch, MemberId};
use crate::core::journal::Aside;
use crate::core::lease::{Held, LeaseAnswer, Purpose};
use crate::core::records::Release;
use crate::core::replica;
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::core) struct Yielding {
    step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// Writing dirty pages out while clients still work.
    Draining(Held, Option<Heir>),
    /// A clean stop, with renewals going on: the lease is not being lost.
    Stopping(Held, Option<Heir>),
    /// Stopped cleanly, and being made a standby of the heir, with renewals going on.
    Demoting(Held, Heir, FenceProof),
    /// The release is on its way.
    Releasing { epoch: Epoch, renewed: Option<Held>, release: Release },
    /// Released; somebody should take it.
    Awaiting { epoch: Epoch, until: Instant },
    /// Not the holder: waiting for a holder to follow, then becoming its standby.
    Rejoining { since: Instant, retry: Instant },
}

/// Who is to take over, because a person or the order of preference says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Heir {
    /// The member.
    pub(super) member: MemberId,
    /// Why.
    pub(super) reason: Reason,
    /// The order of the person who asked for it, and may call it off.
    pub(super) order: Option<String>,
}

impl Yielding {
    /// A planned hand-over of a healthy primary. The drain is what makes the stop that follows short.
    pub(super) fn handing_over(cx: &mut Shared, held: Held, heir: Option<Heir>) -> Self {
        cx.act(Action::Checkpoint, held.epoch, cx.policy.stop_timeout / 2);
        Self { step: Step::Draining(held, heir) }
    }

    /// The database is proven down and the lease ours: give it back.
    pub(in crate::core) fn releasing(
        cx: &mut Shared,
        held: Held,
        proof: &FenceProof,
        reason: Reason,
        heir: Option<MemberId>,
    ) -> Self {
        let fit = heir.filter(|heir| cx.could_still_succeed(heir));
        let release = Release {
            to: fit.or_else(|| cx.best_other()),
            reason: reason.name().to_owned(),
            lsn: proof.clean.then_some(proof.lsn),
            timeline: proof.timeline,
            fence: Aside(cx.fence_told()),
            token: None,
        };
        Self::release(cx, held, release)
    }

    /// Writes the release, once what is on its way to the lease has ended.
    fn release(cx: &mut Shared, held: Held, release: Release) -> Self {
        cx.epoch_ended(held.epoch);
        let epoch = held.epoch;
        if cx.pending.is_none() {
            cx.release(&held, State::PrimaryYielding, release.clone());
            return Self { step: Step::Releasing { epoch, renewed: None, release } };
        }
        Self { step: Step::Releasing { epoch, renewed: Some(held), release } }
    }

    /// Somebody else holds the lease, and the database is proven down.
    pub(in crate::core) fn deposed(cx: &mut Shared) -> Self {
        cx.forget_pending();
        cx.changed();
        cx.failbacks_missed = 0;
        Self { step: Step::Rejoining { since: cx.now, retry: cx.now } }
    }

    pub(super) fn held(&self) -> Option<&Held> {
        match &self.step {
            Step::Draining(held, _) | Step::Stopping(held, _) => Some(held),
            // Nothing can be written on a database that is proven down.
            Step::Demoting(..)
            | Step::Releasing { .. }
            | Step::Awaiting { .. }
            | Step::Rejoining { .. } => None,
        }
    }

    /// The database is proven down, and no lease gives it the right to come up.
    fn is_down(&self) -> bool {
        match &self.step {
            Step::Releasing { .. } | Step::Awaiting { .. } | Step::Rejoining { .. } => true,
            // Nothing is looked at while it is made a standby.
            Step::Draining(..) | Step::Stopping(..) | Step::Demoting(..) => false,
        }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        match &self.step {
            Step::Draining(held, _) | Step::Stopping(held, _) | Step::Demoting(held, ..) => {
                held.deadline(cx)
            }
            Step::Releasing { .. } => {
                cx.renewal_due(None).map(|at| Deadline::at(at, "release retry"))
            }
            Step::Awaiting { until, .. } => {
                Some(wake(Self::back_at(*until, cx), "nobody took the lease"))
            }
            Step::Rejoining { since, retry } => Self::rejoin_due(*since, *retry, cx),
        }
    }

    /// When rejoining can go on: at the retry, or when nobody to follow has shown up for too long.
    fn rejoin_due(since: Instant, retry: Instant, cx: &Shared) -> Option<Deadline> {
        if cx.busy() || !cx.view_is_fresh() || cx.name_contested() {
            return None;
        }
        if cx.upstream().is_some() || cx.holder_gone(since) {
            return Some(wake(retry.max(cx.now), "rejoin"));
        }
        let gone = cx.holder_gone_at(since);
        (gone > cx.now).then(|| Deadline::at(gone, "nobody to follow"))
    }

    pub(super) fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        if self.is_down()
            && let Some(next) = stray(cx, None, After::Rejoin)
        {
            return next;
        }
        match self.step {
            Step::Draining(held, heir) => Self::draining(held, heir, cx, signal),
            Step::Stopping(held, heir) => Self::stopping(held, heir, cx, signal),
            Step::Demoting(held, heir, proof) => Self::demoting(held, heir, proof, cx, signal),
            Step::Releasing { epoch, renewed, release } => {
                Self::release_pending(epoch, renewed, release, cx, &signal)
            }
            Step::Awaiting { epoch, until } => Self::awaiting(epoch, until, cx),
            Step::Rejoining { since, retry } => Self::rejoining(since, retry, cx, signal),
        }
    }

    fn draining(mut held: Held, heir: Option<Heir>, cx: &mut Shared, signal: Signal) -> Next {
        if let Some(next) = Self::trouble(&mut held, cx, &signal) {
            return next;
        }
        if heir.as_ref().is_some_and(|heir| Self::called_off(&held, heir, cx)) {
            cx.cancel();
            return Next::to(Primary::Healthy(Healthy::new(cx, held)), Reason::CalledOff);
        }
        cx.drive_renewal(&mut held, State::PrimaryYielding);
        if !matches!(signal, Signal::Acted(Action::Checkpoint, _)) {
            return Next::stay(Primary::Yielding(Self { step: Step::Draining(held, heir) }));
        }
        // The drain had the first half.
        let limit = cx.policy.stop_timeout / 2;
        let ladder = Ladder { fast: limit / 2, immediate: limit / 4 * 3 };
        cx.act(Action::Fence { ladder }, held.epoch, limit);
        Next::stay(Primary::Yielding(Self { step: Step::Stopping(held, heir) }))
    }

    /// As long as the database works for its clients, a hand-over that has lost its sense is called off.
    fn called_off(held: &Held, heir: &Heir, cx: &Shared) -> bool {
        let withdrawn = heir.order.as_ref().is_some_and(|id| cx.withdrawn(held.epoch, id));
        let fit = cx.could_hand_over(held.epoch, &heir.member).is_ok();
        cx.shutdown.is_none() && (withdrawn || cx.paused_for(held.epoch) || !fit)
    }

    fn stopping(mut held: Held, heir: Option<Heir>, cx: &mut Shared, signal: Signal) -> Next {
        if let Signal::Acted(_, ActionOutcome::Applied(Done::Fenced(proof))) = &signal {
            cx.unguard();
            let unsure = heir.is_some() && !proof.clean && !cx.loss_accepted(held.epoch);
            let lost = heir.as_ref().is_some_and(|heir| cx.could_succeed(&heir.member).is_err())
                && cx.best_other().is_none();
            if (unsure || lost) && cx.shutdown.is_none() {
                // Nobody is there to take it, or nobody can tell whether the heir has all of it: only this
                // member surely does.
                cx.epoch_ended(held.epoch);
                let fenced = Fenced::new(Some(held), proof.clone(), After::Reopen, cx.now);
                return Next::to(Primary::Fenced(fenced), Reason::CalledOff);
            }
            let demotion = heir.as_ref().and_then(|heir| Self::demotion(cx, heir, proof));
            if let (Some(to), Some(heir)) = (demotion, heir.clone()) {
                return Self::demote(cx, held, heir, to, proof.clone());
            }
            let planned = heir.as_ref().filter(|_| !unsure);
            let reason = planned.map_or(Reason::HandOver, |heir| heir.reason);
            let yielding = Self::releasing(cx, held, proof, reason, heir.map(|heir| heir.member));
            return Next::stay(Primary::Yielding(yielding));
        }
        // The postmaster ending is what a stop is for.
        let signal = if signal == Signal::Died { Signal::Look } else { signal };
        if let Some(next) = Self::trouble(&mut held, cx, &signal) {
            return next;
        }
        if let Signal::Acted(..) = signal {
            let failed = Failed::enter(cx, Reason::HandOver, Some(held), After::HandOverOrReopen);
            return Next::to(Primary::Failed(failed), Reason::HandOver);
        }
        cx.drive_renewal(&mut held, State::PrimaryYielding);
        Next::stay(Primary::Yielding(Self { step: Step::Stopping(held, heir) }))
    }

    /// A lease or database lost during a planned change makes it an unplanned one.
    fn trouble(held: &mut Held, cx: &mut Shared, signal: &Signal) -> Option<Next> {
        let reason = match held.standing(cx, signal) {
            Standing::Lost(reason) => reason,
            Standing::Kept if *signal == Signal::Died => Reason::DatabaseDied,
            Standing::Kept => return None,
        };
        let after = match After::for_reason(reason) {
            After::Reopen if cx.shutdown.is_some() => After::Release,
            after @ (After::Reopen
            | After::HandOverOrReopen
            | After::StepBack
            | After::Release
            | After::Rejoin) => after,
        };
        let failed = Failed::enter(cx, reason, Some(held.clone()), after);
        Some(Next::to(Primary::Failed(failed), reason))
    }

    fn release_pending(
        epoch: Epoch,
        renewed: Option<Held>,
        release: Release,
        cx: &mut Shared,
        signal: &Signal,
    ) -> Next {
        let stay = |renewed, release| {
            Next::stay(Primary::Yielding(Self {
                step: Step::Releasing { epoch, renewed, release },
            }))
        };
        match signal {
            Signal::Lease(LeaseAnswer::Applied(landed)) if landed.purpose == Purpose::Release => {
                Self::released(epoch, cx)
            }
            Signal::Lease(LeaseAnswer::Applied(landed)) => {
                // The renewal that was on its way landed: now the release can be written.
                if let Some(mut held) = renewed {
                    held.renewed(landed, &cx.policy);
                    cx.release(&held, State::PrimaryYielding, release.clone());
                }
                stay(None, release)
            }
            Signal::Lease(LeaseAnswer::Refused(_)) => Self::gone(cx),
            Signal::Lease(LeaseAnswer::Unknown(_))
            | Signal::Look
            | Signal::Died
            | Signal::Hook(_)
            | Signal::Acted(..) => {
                if superseded(cx, epoch) {
                    return Self::gone(cx);
                }
                cx.resend_pending();
                stay(renewed, release)
            }
        }
    }

    fn released(epoch: Epoch, cx: &mut Shared) -> Next {
        let until = cx.now + cx.policy.hand_over_timeout;
        let yielding = Primary::Yielding(Self { step: Step::Awaiting { epoch, until } });
        if cx.shutdown.is_some() { Next::exit(yielding) } else { Next::stay(yielding) }
    }

    fn gone(cx: &mut Shared) -> Next {
        let yielding = Primary::Yielding(Self::deposed(cx));
        if cx.shutdown.is_some() { Next::exit(yielding) } else { Next::stay(yielding) }
    }

    /// When nobody is waited for any more. A primary whose start failed waits out its cool-down too: it
    /// would fail the same way again, and use up an epoch each time. A standby takes nothing back.
    fn back_at(until: Instant, cx: &Shared) -> Instant {
        let cooled = cx.cooling_until.filter(|_| !Initializing::is_no_primary(cx));
        cooled.map_or(until, |cooled| cooled.max(until))
    }

    fn awaiting(epoch: Epoch, until: Instant, cx: &mut Shared) -> Next {
        if superseded(cx, epoch) {
            return Self::gone(cx);
        }
        if cx.shutdown.is_some() {
            let step = Step::Awaiting { epoch, until };
            return Next::exit(Primary::Yielding(Self { step }));
        }
        if cx.now >= Self::back_at(until, cx) {
            return Next::to(Primary::Initializing(Initializing::reopening()), Reason::TakenBack);
        }
        Next::stay(Primary::Yielding(Self { step: Step::Awaiting { epoch, until } }))
    }

    fn rejoining(since: Instant, retry: Instant, cx: &mut Shared, signal: Signal) -> Next {
        let stay =
            |retry| Next::stay(Primary::Yielding(Self { step: Step::Rejoining { since, retry } }));
        if cx.shutdown.is_some() {
            cx.cancel();
            return Next::exit(Primary::Yielding(Self { step: Step::Rejoining { since, retry } }));
        }
        match signal {
            Signal::Acted(_, ActionOutcome::Applied(_)) => {
                cx.clear(Alarm::RejoinFailed);
                return Next::to(replica::start(cx), Reason::Following);
            }
            Signal::Acted(_, ActionOutcome::Refused(_) | ActionOutcome::Unknown(_)) => {
                cx.raise(Alarm::RejoinFailed);
                return stay(cx.now + cx.policy.heartbeat_interval * 4);
            }
            Signal::Look | Signal::Died | Signal::Lease(_) | Signal::Hook(_) => {}
        }
        if cx.busy() || cx.now < retry || !cx.view_is_fresh() || cx.name_contested() {
            return stay(retry);
        }
        match cx.upstream() {
            Some(upstream) => {
                Self::begin(cx, upstream);
                stay(retry)
            }
            // Nobody to follow: come up as a standby of nobody, so that the data can be judged, and
            // be taken over from, by the same rules as any replica's.
            None if cx.holder_gone(since) => Next::to(replica::start(cx), Reason::UpstreamChanged),
            None => stay(retry),
        }
    }

    fn begin(cx: &mut Shared, upstream: Upstream) {
        cx.act(
            Action::Rejoin { upstream },
            super::initializing::NO_EPOCH,
            cx.policy.rejoin_timeout,
        );
    }
}
