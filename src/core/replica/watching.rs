//! Following, and ready to take over when everything says so.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Failed, Promoting, Replica};
use crate::core::agent::{Deadline, Next, Workflow};
use crate::core::candidate::WhyNot;
use crate::core::event::{Action, ActionOutcome, Alarm, Effect, Process, Reason, State};
use crate::core::ids::Epoch;
use crate::core::lease::{LeaseAnswer, Purpose};
use crate::core::primary;
use crate::core::records::Release;
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;
use crate::core::view::Witness;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::core) struct Watching {
    /// Our acquisition is on its way, or its outcome is not known, and why it was tried.
    acquiring: Option<Reason>,
    /// Since when the database has not been streaming although there is a holder to stream from.
    detached_since: Option<Instant>,
    /// A fresh look at the database was asked for, for the takeover window that began then.
    looked: Option<Instant>,
}

/// Whether, when and why this member would take over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::core) enum Takeover {
    /// Not while this lasts.
    No(WhyNot),
    /// There is no lease to take over, or it is not to be obeyed.
    NoLease,
    /// Not before this time, for this reason, and only if nothing is heard of the holder until then.
    At(Instant, Reason),
}

/// Heartbeat intervals for which a standby may be without a stream from a live primary before it is
/// made to rejoin: reconnecting takes PostgreSQL a few tries.
const DETACHED_INTERVALS: u32 = 20;

impl Watching {
    pub(super) fn new(cx: &mut Shared) -> Self {
        cx.effects.push(Effect::Observe);
        Self { acquiring: None, detached_since: None, looked: None }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        if self.acquiring.is_some() {
            let again = cx.renewal_due(None).map(|at| Deadline::at(at, "acquisition retry"));
            let give_up = patience(cx).map(|at| Deadline::at(at, "acquisition given up"));
            return Deadline::earliest([again, give_up]);
        }
        match takeover(cx) {
            Takeover::At(at, _) if at > cx.now => Some(Deadline::at(at, "takeover due")),
            Takeover::At(..) if self.can_acquire(cx) => Some(Deadline::at(cx.now, "takeover due")),
            // What cannot be done yet at its time is looked at again when something is read or seen.
            Takeover::At(..) | Takeover::No(_) | Takeover::NoLease => None,
        }
    }

    fn can_acquire(&self, cx: &Shared) -> bool {
        !cx.busy() && !cx.name_contested() && !cx.heartbeats_fail() && cx.shutdown.is_none()
    }

    pub(super) fn advance(mut self, cx: &mut Shared, signal: Signal) -> Next {
        if self.acquiring.is_some() {
            if patience(cx).is_none_or(|until| cx.now < until) {
                return self.acquiring(cx, &signal);
            }
            // If it lands after all, the others wait that lease out.
            cx.forget_pending();
            self.acquiring = None;
        }
        if cx.shutdown.is_some() {
            let stay = Workflow::Replica(Replica::Watching(self));
            return super::failed::stop(cx, &signal, stay);
        }
        if let Signal::Acted(action, ActionOutcome::Refused(_) | ActionOutcome::Unknown(_)) =
            &signal
        {
            if matches!(action, Action::Rejoin { .. }) {
                cx.raise(Alarm::RejoinFailed);
            }
            if !matches!(action, Action::Require { .. }) {
                return self.fail(cx, Reason::DatabaseUnfit);
            }
        }
        if cx.busy() && !cx.is_requiring() {
            return Next::stay(Workflow::Replica(Replica::Watching(self)));
        }
        if signal == Signal::Died {
            return self.fail(cx, Reason::DatabaseUnfit);
        }
        if cx.heartbeats_fail() {
            return self.fail(cx, Reason::HeartbeatsFailed);
        }
        if let Some(next) = self.database_trouble(cx) {
            return next;
        }
        if cx.view_is_fresh() {
            self.keep_following(cx);
            if cx.live_holder().is_some() {
                cx.prepare_requirement();
            }
            return self.consider(cx);
        }
        Next::stay(Workflow::Replica(Replica::Watching(self)))
    }

    fn fail(self, cx: &mut Shared, reason: Reason) -> Next {
        Next::to(Workflow::Replica(Replica::Failed(Failed::new(cx))), reason)
    }

    fn database_trouble(&self, cx: &mut Shared) -> Option<Next> {
        let seen = cx.database.as_ref()?;
        match seen.process {
            Process::RunningStandby | Process::Running => None,
            Process::RunningPrimary => {
                Some(primary::Failed::stray(cx, None, primary::After::Rejoin))
            }
            Process::Absent
            | Process::Unusable
            | Process::StoppedStandby
            | Process::StoppedPrimary
            | Process::Remnants => Some(Next::to(
                Workflow::Replica(Replica::Failed(Failed::new(cx))),
                Reason::DatabaseUnfit,
            )),
        }
    }

    /// Begins an action, once what was prepared for a promotion meanwhile has ended.
    fn act(cx: &mut Shared, action: Action, limit: Duration) {
        if cx.is_requiring() {
            cx.cancel();
        } else {
            cx.act(action, Epoch(0), limit);
        }
    }

    /// Re-points the database when the holder changed; makes it rejoin when it cannot stream.
    fn keep_following(&mut self, cx: &mut Shared) {
        let upstream = cx.upstream();
        let (Some(upstream), Some(seen)) = (upstream, &cx.database) else {
            self.detached_since = None;
            return;
        };
        if seen.process != Process::RunningStandby {
            return;
        }
        if !cx.follows(&upstream) {
            self.detached_since = None;
            let action = Action::Follow { upstream: Some(upstream) };
            Self::act(cx, action, cx.policy.start_timeout);
            return;
        }
        if seen.streaming {
            self.detached_since = None;
            cx.clear(Alarm::RejoinFailed);
            return;
        }
        // Who has not renewed lately may be dead, and we the one to take over. Who is being demoted has
        // nothing to stream from.
        if cx.holder_is_demoted()
            || cx.view.staleness(cx.now).is_none_or(|age| age > cx.longest_gap())
        {
            self.detached_since = None;
            return;
        }
        let since = *self.detached_since.get_or_insert(cx.now);
        if cx.now.since(since) >= cx.policy.heartbeat_interval * DETACHED_INTERVALS {
            self.detached_since = None;
            Self::act(cx, Action::Rejoin { upstream }, cx.policy.rejoin_timeout);
        }
    }

    fn consider(mut self, cx: &mut Shared) -> Next {
        let Takeover::At(at, reason) = takeover(cx) else {
            return Next::stay(Workflow::Replica(Replica::Watching(self)));
        };
        if cx.is_requiring() && cx.now >= at {
            // Made sure of again before the promotion.
            cx.cancel();
        }
        if !self.can_acquire(cx) {
            return Next::stay(Workflow::Replica(Replica::Watching(self)));
        }
        if cx.now >= at {
            // A write left from a former state is worth nothing here; it may land or not.
            cx.forget_pending();
            let expected = cx.view.lease_slot().revision();
            cx.acquire(State::ReplicaPromoting, expected);
            self.acquiring = Some(reason);
        } else if let Some(due) = look_due(cx).filter(|due| cx.now >= *due) {
            // The order of candidates is by what they have received in the end.
            if self.looked != Some(due) {
                self.looked = Some(due);
                cx.effects.push(Effect::Observe);
            }
        }
        Next::stay(Workflow::Replica(Replica::Watching(self)))
    }

    fn acquiring(mut self, cx: &mut Shared, signal: &Signal) -> Next {
        match signal {
            Signal::Lease(LeaseAnswer::Applied(landed)) if landed.purpose == Purpose::Acquire => {
                let reason = self.acquiring.take().unwrap_or(Reason::HolderSilent);
                if let Some(held) = cx.won(landed) {
                    let promoting = Promoting::new(cx, held, reason);
                    return Next::to(Workflow::Replica(Replica::Promoting(promoting)), reason);
                }
            }
            Signal::Lease(LeaseAnswer::Refused(_) | LeaseAnswer::Applied(_)) => {
                self.acquiring = None
            }
            Signal::Lease(LeaseAnswer::Unknown(_))
            | Signal::Look
            | Signal::Died
            | Signal::Hook(_)
            | Signal::Acted(..) => {
                cx.resend_pending();
            }
        }
        Next::stay(Workflow::Replica(Replica::Watching(self)))
    }
}

/// When an agent that is to stop no longer waits for the outcome of its acquisition: a store that was
/// lost never tells.
fn patience(cx: &Shared) -> Option<Instant> {
    let asked = cx.shutdown?.by - cx.policy.shutdown_timeout;
    Some(asked + cx.policy.heartbeat_timeout * 4)
}

/// From when on our own heartbeat can witness that the store's clock has passed the lease's end.
pub(super) fn witness_due(cx: &Shared) -> Option<Instant> {
    let lease = cx.view.lease().filter(|lease| lease.released.is_none())?;
    Some(cx.view.window_start()? + lease.lease_duration)
}

/// From when on a fresh look at our own position is worth having.
fn look_due(cx: &Shared) -> Option<Instant> {
    let released = cx.view.lease().is_some_and(|lease| lease.released.is_some());
    if released { cx.view.window_start() } else { witness_due(cx) }
}

/// Whether, when and why we would take over (`docs/protocol.md`, section 4, the candidate's arithmetic).
pub(in crate::core) fn takeover(cx: &Shared) -> Takeover {
    let Some(lease) = cx.view.lease() else { return Takeover::NoLease };
    if !cx.view_is_fresh() {
        return Takeover::No(WhyNot::StoreUnseen);
    }
    if let Err(why) = cx.eligible(lease) {
        return Takeover::No(why);
    }
    let Some(window) = cx.view.window_start() else { return Takeover::No(WhyNot::StoreUnseen) };
    let step = cx.policy.takeover_step;
    // Whoever a person wants comes first.
    let place = cx.place_in_line() + if cx.another_is_wanted(lease) { 2 } else { 0 };
    if let Some(release) = &lease.released {
        let at = match &release.to {
            _ if misses_some(cx, release) => {
                window + cx.policy.hand_over_timeout + step * (place + 1)
            }
            Some(to) if *to == cx.id.member => window,
            Some(_) => window + step * (place + 2),
            None => window + step * place,
        };
        let at = cx.bound_until().map_or(at, |bound| at.max(bound));
        return Takeover::At(at, Reason::LeaseReleased);
    }
    let bound = cx.bound_until().unwrap_or(cx.now);
    if cx.is_ours(lease) {
        // Won in a former life of ours, and nobody has taken it since.
        return Takeover::At(bound, Reason::LeaseKept);
    }
    let silent = window + cx.policy.failover_timeout(lease.lease_duration) + step * place;
    let at = match cx.view.witness(&cx.id.member, lease.lease_duration) {
        Witness::Agrees => silent,
        Witness::Waits => silent.max(cx.now + cx.policy.heartbeat_interval),
        Witness::Void => silent + lease.lease_duration,
    };
    Takeover::At(at.max(bound), Reason::HolderSilent)
}

/// The old primary stopped cleanly and wrote further than we have: it may take its lease back and
/// lose nothing, so it gets the time to.
fn misses_some(cx: &Shared, release: &Release) -> bool {
    let own = cx.database.as_ref().map(|seen| seen.lsn);
    release.lsn.is_some_and(|end| own.is_none_or(|own| own < end))
}
