//! Promises (`core::promise`): those we gave, and those we ask for as the holder.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Shared;
use crate::core::event::{Effect, Floor};
use crate::core::ids::{Epoch, InstanceId, MemberId, Revision};
use crate::core::lease::{Held, Purpose};
use crate::core::promise::{Bound, PromiseAnswer, PromiseRequest};
use crate::core::records::{Address, ClusterState, Lease, MemberSettings, Slot};
use crate::core::time::Instant;

impl Admitted {
    /// Notes who is not in the description of `revision`, which is of our epoch. One that a write of ours
    /// may yet take the place of says nothing: that write admits again, or did so already and this is
    /// a read of what was there before.
    fn compare(&mut self, members: &BTreeMap<MemberId, MemberSettings>, revision: Revision) {
        if Some(revision) <= self.written_on {
            return;
        }
        for it in self.others.keys() {
            let (member, instance) = it;
            if members.get(member).is_some_and(|settings| settings.instance == *instance) {
                self.gone.remove(it);
            } else {
                self.gone.entry(it.clone()).or_insert(revision);
            }
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Promises {
    /// What we promised, or may have promised before a restart.
    given: Option<Given>,
    /// The latest request that was granted, whole: one that differs binds anew.
    answered: Option<PromiseRequest>,
    /// Whom we admitted, as the holder.
    admitted: Option<Admitted>,
    /// The round under way.
    asking: Option<Asking>,
    /// The last round in which everybody promised.
    complete: Option<Complete>,
    rounds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Given {
    epoch: Epoch,
    until: Instant,
}

/// Everybody whom this holder admitted in this epoch, by a write that may be in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Admitted {
    epoch: Epoch,
    #[serde(with = "crate::core::plain::pairs")]
    others: BTreeMap<(MemberId, InstanceId), Address>,
    /// When a read first showed our own description of the cluster: from then on nobody else can be
    /// admitted by a write of a former holder.
    seen: Option<Instant>,
    /// The newest revision that a description of ours was to take the place of.
    #[serde(default)]
    written_on: Option<Revision>,
    /// Those of `others` that a person took out, by the revision that showed them gone.
    #[serde(default, with = "crate::core::plain::pairs")]
    gone: BTreeMap<(MemberId, InstanceId), Revision>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Asking {
    epoch: Epoch,
    request: PromiseRequest,
    /// When it was sent first: what counts. Those who have not answered are asked again.
    sent: Instant,
    last_sent: Instant,
    missing: BTreeSet<(MemberId, InstanceId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Complete {
    epoch: Epoch,
    sent: Instant,
    duration: Duration,
}

impl Promises {
    /// After a start: whatever was promised before may have been promised just now.
    pub(super) fn after_start(floor: Option<&Floor>, margin: Duration, now: Instant) -> Self {
        let given = floor
            .and_then(|floor| floor.bound)
            .map(|bound| Given { epoch: bound.epoch, until: now + bound.duration + margin });
        Self { given, ..Self::default() }
    }
}

// ---- as one that promises

impl Shared {
    /// Until when a promise of ours forbids to acquire; `None` when none does. The holder's own release
    /// frees us: it is fenced.
    pub(in crate::core) fn bound_until(&self) -> Option<Instant> {
        let given = self.promises.given.filter(|given| self.now < given.until)?;
        let freed = |lease: &Lease| lease.released.is_some() && lease.epoch >= given.epoch;
        (!self.view.lease().is_some_and(freed)).then_some(given.until)
    }

    /// Notes whom we may promise to: the holder that an obeyed store shows, unless it is ourselves. The
    /// duration never shrinks: a promise to an earlier holder may still last.
    pub(super) fn bound_by_view(&self) -> Option<Bound> {
        let known = self.floor.as_ref().and_then(|floor| floor.bound);
        let Some(lease) = self.view.lease().filter(|lease| !self.is_ours(lease)) else {
            return known;
        };
        let longest =
            known.map_or(lease.lease_duration, |it| it.duration.max(lease.lease_duration));
        Some(Bound { epoch: lease.epoch, duration: longest })
    }

    /// A lease was won by the rules: whatever was promised to its former holders is over.
    pub(super) fn unbind(&mut self) {
        self.promises.given = None;
        if let Some(floor) = &mut self.floor {
            floor.bound = None;
        }
    }

    /// Answers a holder.
    pub(in crate::core) fn promise(&mut self, id: u64, request: &PromiseRequest) {
        let refused = self.refusal(request);
        // The same request again, by a second way or by somebody who listened: as before.
        if refused.is_none() && self.promises.answered.as_ref() != Some(request) {
            let until = self.now + self.policy.failover_timeout(request.duration);
            let until = self.promises.given.map_or(until, |given| given.until.max(until));
            self.promises.given = Some(Given { epoch: request.epoch, until });
            self.promises.answered = Some(request.clone());
        }
        let answer = PromiseAnswer {
            boot: request.boot.clone(),
            round: request.round,
            member: self.id.member.clone(),
            instance: self.id.instance.clone(),
            refused,
        };
        self.effects.push(Effect::Promise(id, answer));
    }

    /// A holder promises nothing: whom it was bound to is forgotten when it wins.
    fn refusal(&self, request: &PromiseRequest) -> Option<String> {
        let Some(floor) = &self.remembered else {
            return Some("this member has not seen the store yet".to_owned());
        };
        if request.holder == self.id.member {
            return Some("asked by a holder with this member's own name".to_owned());
        }
        if request.incarnation != floor.incarnation {
            return Some(format!("this member knows another store, {}", floor.incarnation));
        }
        let known = self.floor.as_ref().map_or(floor.epoch, |now| now.epoch.max(floor.epoch));
        if request.epoch < known {
            return Some(format!("epoch {known} is known"));
        }
        let on_disk = floor.bound.filter(|bound| bound.epoch == request.epoch);
        if on_disk.is_none_or(|bound| bound.duration < request.duration) {
            return Some("this member has not noted that lease on its disk yet".to_owned());
        }
        let other = |lease: &Lease| {
            lease.epoch == request.epoch
                && (lease.holder != request.holder
                    || lease.boot != request.boot
                    || lease.released.is_some())
        };
        if self.view.lease().is_some_and(other) {
            return Some("the lease of that epoch is somebody else's, or was released".to_owned());
        }
        if self.pending.as_ref().is_some_and(|pending| pending.purpose == Purpose::Acquire) {
            return Some("this member is about to take over".to_owned());
        }
        match &self.promises.answered {
            Some(last) if last.boot == request.boot && last.round > request.round => {
                Some(format!("round {} was answered already", last.round))
            }
            Some(_) | None => None,
        }
    }
}

// ---- as the holder

impl Shared {
    /// A description of the cluster is being written in the place of the one of revision `expected`: whom
    /// it admits may take over from now on.
    pub(super) fn admitting(&mut self, wanted: &ClusterState, expected: Option<Revision>) {
        let others = wanted
            .members
            .iter()
            .filter(|(member, _)| **member != self.id.member)
            .map(|(member, it)| ((member.clone(), it.instance.clone()), it.address.clone()));
        let others: BTreeMap<_, _> = others.collect();
        let known = self.promises.admitted.as_ref().filter(|it| it.epoch == wanted.epoch);
        if others.keys().any(|it| !known.is_some_and(|known| known.others.contains_key(it))) {
            // A round that was begun without it proves nothing any more.
            self.promises.asking = None;
            self.promises.complete = None;
        }
        match &mut self.promises.admitted {
            Some(admitted) if admitted.epoch == wanted.epoch => {
                admitted.gone.retain(|it, _| !others.contains_key(it));
                admitted.others.extend(others);
                admitted.written_on = admitted.written_on.max(expected);
            }
            _ => {
                self.promises.admitted = Some(Admitted {
                    epoch: wanted.epoch,
                    others,
                    seen: None,
                    written_on: expected,
                    gone: BTreeMap::new(),
                });
            }
        }
    }

    /// A read showed the description of the cluster.
    pub(super) fn note_admitted(&mut self) {
        let Slot::Valid { record, revision, .. } = self.view.cluster_slot() else { return };
        if record.primary != self.id.member || !self.view.obeyed() {
            return;
        }
        if let Some(admitted) = &mut self.promises.admitted
            && admitted.epoch == record.epoch
        {
            admitted.seen.get_or_insert(self.now);
            admitted.compare(&record.members, *revision);
        }
    }

    /// A write of ours to the lease is in the store: whoever sees the lease from now on needs the
    /// description that it names, and takes over only if that admits it. An acquisition that was decided
    /// on the lease before it is refused. So who was gone in that description need not promise.
    pub(super) fn lease_moved(&mut self, lease: &Lease) {
        if let Some(admitted) = &mut self.promises.admitted
            && admitted.epoch == lease.epoch
        {
            let Admitted { others, gone, .. } = admitted;
            gone.retain(|it, since| {
                let described = lease.described >= Some(*since);
                if described {
                    others.remove(it);
                }
                !described
            });
        }
    }

    /// Everybody promised in a round of this lease: it lasts longer.
    pub(in crate::core) fn take_promises(&mut self, held: &mut Held) {
        let Some(complete) = self.promises.complete.take().filter(|it| it.epoch == held.epoch)
        else {
            return;
        };
        let before = held.until();
        let duration = complete.duration.min(held.duration());
        held.promised(self.policy.lease_until(complete.sent, duration));
        if held.until() != before {
            self.guard(held);
        }
    }

    /// Asks everybody while the store leaves renewals unanswered, in rounds of a heartbeat interval.
    pub(in crate::core) fn ask_promises(&mut self, held: &mut Held) {
        if self.promises_due(held).is_none_or(|due| self.now < due) {
            return;
        }
        let interval = self.policy.heartbeat_interval;
        let going_on =
            |round: &Asking| round.epoch == held.epoch && self.now < round.sent + interval;
        let round = self.promises.asking.take().filter(going_on);
        let Some(mut round) = round.or_else(|| self.begin_round(held)) else { return };
        if round.missing.is_empty() {
            // Nobody else was admitted, so nobody else can take over.
            let duration = round.request.duration;
            let Asking { epoch, sent, .. } = round;
            self.promises.complete = Some(Complete { epoch, sent, duration });
        } else if let Some(admitted) = &self.promises.admitted {
            let missing = admitted.others.iter().filter(|(it, _)| round.missing.contains(it));
            let peers = missing.map(|((member, _), at)| (member.clone(), at.clone())).collect();
            let limit = self.policy.heartbeat_timeout;
            self.effects.push(Effect::AskPromises(round.request.clone(), peers, limit));
        }
        round.last_sent = self.now;
        self.promises.asking = Some(round);
        self.take_promises(held);
    }

    /// How long a round waits for answers before the next one is begun.
    fn round_lasts(&self) -> Duration {
        self.policy.heartbeat_interval.max(self.policy.heartbeat_timeout)
    }

    fn begin_round(&mut self, held: &Held) -> Option<Asking> {
        let missing = self.promises.admitted.as_ref()?.others.keys().cloned().collect();
        let incarnation = self.floor.as_ref()?.incarnation.clone();
        self.promises.rounds += 1;
        let request = PromiseRequest {
            incarnation,
            holder: self.id.member.clone(),
            boot: self.id.boot.clone(),
            epoch: held.epoch,
            round: self.promises.rounds,
            duration: held.duration(),
        };
        let (sent, last_sent) = (self.now, self.now);
        Some(Asking { epoch: held.epoch, request, sent, last_sent, missing })
    }

    /// When somebody is to be asked next; `None` while the store answers, or when promises prove
    /// nothing.
    pub(in crate::core) fn promises_due(&self, held: &Held) -> Option<Instant> {
        if !self.policy.promises || held.failures == 0 {
            return None;
        }
        let admitted = self.promises.admitted.as_ref().filter(|it| it.epoch == held.epoch)?;
        // A renewal after that read refuses every acquisition decided on an older description.
        admitted.seen.filter(|seen| *seen < held.renewed_at())?;
        let last = self.promises.asking.as_ref().filter(|round| round.epoch == held.epoch);
        Some(last.map_or(self.now, |round| {
            let next = round.sent + self.round_lasts();
            let again = round.last_sent + self.policy.heartbeat_timeout / 2;
            if round.missing.is_empty() { next } else { next.min(again) }
        }))
    }

    /// A member answered.
    pub(in crate::core) fn promise_answered(&mut self, answer: PromiseAnswer) {
        let Some(asking) = &mut self.promises.asking else {
            self.stale_completions += 1;
            return;
        };
        let PromiseRequest { boot, round, duration, .. } = &asking.request;
        if answer.boot != *boot || answer.round != *round || answer.refused.is_some() {
            return;
        }
        asking.missing.remove(&(answer.member, answer.instance));
        if asking.missing.is_empty() {
            let (epoch, sent, duration) = (asking.epoch, asking.sent, *duration);
            self.promises.complete = Some(Complete { epoch, sent, duration });
        }
    }
}
