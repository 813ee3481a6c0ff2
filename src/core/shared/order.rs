//! What a person asked for, as the primary and the replicas act on it.

use super::Shared;
use crate::core::candidate::{Candidate, Wanted, WhyNot, is_never_promoted};
use crate::core::event::{Process, Reason, State};
use crate::core::ids::{Epoch, MemberId};
use crate::core::order::{Answer, Order, Refusal, Wish};
use crate::core::records::{Heartbeat, Lease, Slot};
use crate::core::time::Instant;

/// What the holder does about an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) enum Verdict {
    /// Hand over to this member.
    HandOver(MemberId, Reason),
    /// Only say something.
    Answer(Answer),
}

impl Shared {
    /// The order that the holder of `epoch` has to do something about, if one is open and its time has come.
    pub(in crate::core) fn due_order(&self, epoch: Epoch) -> Option<&Order> {
        let order = self.view.order(epoch).filter(|_| self.view_is_fresh())?;
        (order.not_before <= self.view.store_now()).then_some(order)
    }

    /// What the holder of `epoch` does about the order that is due, which it has known of since `known`.
    pub(in crate::core) fn verdict(&self, epoch: Epoch, known: Instant) -> Option<Verdict> {
        let order = self.due_order(epoch)?;
        let answer =
            |done, text| Some(Verdict::Answer(Answer { id: order.id.clone(), done, text }));
        let successor = self.successor(order);
        if self.judged_too_early(order, &successor, known) {
            return None;
        }
        match successor {
            Err(refusal) => answer(false, refusal.to_string()),
            Ok(to) if order.rehearsal => {
                answer(true, format!("{to} would take over, {} bytes behind", self.behind(&to)))
            }
            Ok(to) => {
                let failback = order.wish == Wish::Failback;
                let reason = if failback { Reason::Failback } else { Reason::Switchover };
                Some(Verdict::HandOver(to, reason))
            }
        }
    }

    /// An order was withdrawn: the store shows no such order any more, or another one.
    pub(in crate::core) fn withdrawn(&self, epoch: Epoch, id: &str) -> bool {
        let stands = self.view.order(epoch).is_some_and(|order| order.id == id);
        self.view_is_fresh() && self.view.obeyed() && !stands
    }

    /// A person wants the holder of `epoch` replaced in spite of a pause: whether at any loss.
    fn failover(&self, epoch: Epoch) -> Option<bool> {
        self.view.order(epoch)?.failover()
    }

    /// Transitions are paused, for the holder of `epoch` too.
    pub(in crate::core) fn paused_for(&self, epoch: Epoch) -> bool {
        self.view.paused().is_some() && self.failover(epoch).is_none()
    }

    /// The holder of `epoch` is to be replaced whatever is lost by it.
    pub(in crate::core) fn loss_accepted(&self, epoch: Epoch) -> bool {
        self.failover(epoch) == Some(true)
    }

    /// What is to be said of an order that was open in an epoch before ours.
    pub(in crate::core) fn outcome(&self, order: &Order, epoch: Epoch) -> Answer {
        let me = &self.id.member;
        let done = match &order.to {
            Some(to) => to == me,
            None => self.view.cluster().is_some_and(|cluster| cluster.primary != *me),
        };
        let text = if done {
            format!("{me} is the primary since epoch {epoch}")
        } else {
            format!("it did not come to it: {me} is the primary since epoch {epoch}")
        };
        Answer { id: order.id.clone(), done, text }
    }

    /// Whom to hand over to.
    fn successor(&self, order: &Order) -> Result<MemberId, Refusal> {
        let planned = !matches!(order.wish, Wish::Failover { .. });
        if let Some(why) = self.view.paused().filter(|_| planned) {
            return Err(Refusal::Paused(why.to_owned()));
        }
        let to = match (&order.to, order.wish) {
            (Some(to), _) => to.clone(),
            (None, Wish::Failback) => self.preferred().ok_or(Refusal::NobodyPreferred)?,
            (None, Wish::Switchover) => self.best_heir().ok_or(Refusal::Nobody)?,
            (None, Wish::Failover { .. }) => self.best_other().ok_or(Refusal::Nobody)?,
        };
        self.could_succeed(&to)?;
        if planned {
            self.undoubted(&to)?;
        }
        Ok(to)
    }

    /// What was judged by is of before the order, so that the member may have died since, or have read of
    /// something that changes its mind; or it lacks what it may have in a moment. Whoever does not report
    /// again counts as silent in the end.
    fn judged_too_early(
        &self,
        order: &Order,
        successor: &Result<MemberId, Refusal>,
        known: Instant,
    ) -> bool {
        let ordered = self.view.cluster_slot().revision();
        let old = |member: &MemberId| {
            let reported = self.view.heartbeat_slot(member).and_then(Slot::revision);
            reported < ordered && self.is_heard(member)
        };
        match successor {
            Ok(to) => old(to),
            Err(refusal) if refusal.may_pass() => {
                let others = self.view.heartbeats().map(|(member, _)| member);
                let mut asked = others.filter(|member| match &order.to {
                    Some(to) => *member == to,
                    None => **member != self.id.member,
                });
                self.now.since(known) < self.policy.order_patience() || asked.any(old)
            }
            Err(_) => false,
        }
    }

    /// A member's heartbeat has changed lately.
    fn is_heard(&self, member: &MemberId) -> bool {
        let silent_after = self.policy.lease_duration + self.longest_gap();
        self.view.heartbeat_age(member, self.now).is_some_and(|age| age <= silent_after)
    }

    /// Whether a member could be handed over to now, as the primary knows.
    pub(in crate::core) fn could_succeed(&self, to: &MemberId) -> Result<(), Refusal> {
        let heartbeat = self.may_succeed(to)?;
        if !heartbeat.streaming || self.is_detached(to) {
            return Err(Refusal::NotStreaming(to.clone()));
        }
        self.not_far_behind(to)
    }

    /// The same of a change that the holder of `epoch` is about to make: one that can wait does.
    pub(in crate::core) fn could_hand_over(
        &self,
        epoch: Epoch,
        to: &MemberId,
    ) -> Result<(), Refusal> {
        self.could_succeed(to)?;
        if self.failover(epoch).is_some() { Ok(()) } else { self.undoubted(to) }
    }

    /// Nothing is known that a hand-over to a member would fail at now, there or here. It may pass, so it stands
    /// against planned changes only.
    fn undoubted(&self, to: &MemberId) -> Result<(), Refusal> {
        let seen = self.database.as_ref();
        let own = seen.and_then(|seen| seen.hindered.as_ref().or(seen.doubtful.as_ref()));
        // For who stands beside it nothing is demoted as a whole.
        if let Some(why) = own.filter(|_| !self.is_beside(to)) {
            return Err(Refusal::NotDemotable(self.id.member.clone(), why.clone()));
        }
        let reported = self.view.heartbeats().find(|(member, _)| *member == to);
        match reported.and_then(|(_, heartbeat)| heartbeat.doubtful.clone()) {
            Some(why) => Err(Refusal::Doubtful(to.clone(), why)),
            None => Ok(()),
        }
    }

    /// The same when our database was stopped for it: nobody streams any more.
    pub(in crate::core) fn could_still_succeed(&self, to: &MemberId) -> bool {
        self.may_succeed(to).and_then(|_| self.not_far_behind(to)).is_ok()
    }

    /// Whether anything but its position stands against a member.
    fn may_succeed(&self, to: &MemberId) -> Result<&Heartbeat, Refusal> {
        if *to == self.id.member {
            return Err(Refusal::Itself);
        }
        let reported = self.view.heartbeats().find(|(member, _)| *member == to);
        let Some((_, heartbeat)) = reported else {
            let known = self.view.heartbeats().map(|(member, _)| member.clone());
            let known = known.filter(|member| *member != self.id.member).collect();
            return Err(Refusal::Unknown { member: to.clone(), known });
        };
        if self.view.cluster().is_some_and(|cluster| cluster.drained.contains(to)) {
            return Err(Refusal::Drained(to.clone()));
        }
        if !self.is_heard(to) {
            return Err(Refusal::Silent(to.clone()));
        }
        if is_never_promoted(to, self.view.cluster()) {
            return Err(Refusal::Ineligible(to.clone(), WhyNot::NeverPromote.to_string()));
        }
        if heartbeat.status != State::ReplicaWatching {
            return Err(Refusal::NotWatching(to.clone(), heartbeat.status));
        }
        // A member that reports a pause would take over from who hands over in spite of one.
        let paused = self.view.paused().map(|why| WhyNot::Paused(why.to_owned()).to_string());
        if let Some(why) = heartbeat.ineligible.as_ref().filter(|why| Some(*why) != paused.as_ref())
        {
            return Err(Refusal::Ineligible(to.clone(), why.clone()));
        }
        Ok(heartbeat)
    }

    fn not_far_behind(&self, to: &MemberId) -> Result<(), Refusal> {
        let (bytes, allowed) = (self.behind(to), self.policy.maximum_lag_on_failover);
        if bytes > allowed {
            return Err(Refusal::LagsBehind { member: to.clone(), bytes, allowed });
        }
        Ok(())
    }

    /// None of our senders serves the member: it may have died since it last said that it streams. One
    /// that follows under another name than its own may be anybody.
    fn is_detached(&self, member: &MemberId) -> bool {
        let seen = self.database.as_ref().filter(|seen| seen.process == Process::RunningPrimary);
        let known = |name: &String| self.view.heartbeats().any(|(it, _)| it.as_str() == name);
        seen.is_some_and(|seen| {
            seen.standbys.iter().all(|(name, _)| name != member.as_str() && known(name))
        })
    }

    /// Bytes that a member has not flushed of what we have: by our own sender's word, else by its.
    fn behind(&self, member: &MemberId) -> u64 {
        let attached = self.database.as_ref().and_then(|seen| {
            let found = seen.standbys.iter().find(|(name, _)| name == member.as_str());
            found.map(|(_, flushed)| seen.lsn.bytes_ahead_of(*flushed))
        });
        let said = || {
            let found = self.view.heartbeats().find(|(reporter, _)| *reporter == member);
            found.map_or(u64::MAX, |(_, heartbeat)| {
                self.position.lsn.bytes_ahead_of(heartbeat.database.lsn)
            })
        };
        attached.unwrap_or_else(said)
    }

    /// Whom a planned change goes to that names nobody: who could be handed over to now comes before who could not.
    fn best_heir(&self) -> Option<MemberId> {
        let others = self.others();
        let fit = others.iter().find(|member| self.undoubted(member).is_ok());
        fit.or(others.first()).cloned()
    }

    /// The member in line with the highest priority above ours, of those that could be handed over to now if there
    /// are any.
    pub(in crate::core) fn preferred(&self) -> Option<MemberId> {
        let above = |candidate: &Candidate| {
            candidate.member != self.id.member && candidate.priority > self.policy.priority
        };
        // The first of equals is the better one.
        let line = self.line().into_iter().rev().filter(above);
        let rank = |it: &Candidate| (self.undoubted(&it.member).is_ok(), it.priority);
        line.max_by_key(rank).map(|candidate| candidate.member)
    }

    /// A person wants this member to take over from the holder of `lease`.
    pub(super) fn ordered(&self, lease: &Lease) -> Option<Wanted> {
        let order = self.view.order(lease.epoch)?;
        let accept_loss = order.failover()?;
        let due = order.not_before <= self.view.store_now();
        if !due || order.to.as_ref() != Some(&self.id.member) {
            return None;
        }
        Some(if accept_loss { Wanted::AtAnyLoss } else { Wanted::WithoutLoss })
    }

    /// A person wants another member than this one to take over from the holder of `lease`.
    pub(in crate::core) fn another_is_wanted(&self, lease: &Lease) -> bool {
        self.view.order(lease.epoch).is_some_and(|order| {
            order.failover().is_some() && order.to.as_ref().is_some_and(|to| *to != self.id.member)
        })
    }
}
