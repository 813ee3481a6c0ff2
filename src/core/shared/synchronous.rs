//! Synchronous replication as the holder of the lease runs it.
//!
//! Two things are kept apart: the *set*, named in the lease, of members that have every acknowledged
//! commit and may therefore take over, and the *requirement*, what the server waits for. The requirement
//! covers every set that a candidate may decide on: a member is required before it is named, and named no
//! more before it is required no more.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Shared;
use crate::core::event::{Action, ActionOutcome, Alarm, Done, Observation, Process, State};
use crate::core::ids::{Epoch, Lsn, MemberId};
use crate::core::lease::Held;
use crate::core::records::{Heartbeat, Record};
use crate::core::synchronous::{Requirement, SynchronousMode};
use crate::core::time::Instant;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Synchronous {
    /// Whom our lease is to name from the next renewal on.
    set: BTreeSet<MemberId>,
    /// What the server is known to wait for; `None` while that is not known.
    required: Option<Requirement>,
    /// Since which position commits have waited for a member without a break: what it has flushed
    /// beyond is all of it.
    from: BTreeMap<MemberId, Lsn>,
    /// The database was looked at since the requirement took effect.
    looked: bool,
    /// Who had every commit of the lease that we took over, while nothing was opened on ours: what a
    /// release names.
    replaced: Option<BTreeSet<MemberId>>,
    /// Since when nobody of the set has been attached.
    alone_since: Option<Instant>,
    /// The latest requirement did not take effect: it is not tried again before.
    retry_at: Option<Instant>,
}

/// A standby that a commit could wait for.
struct Standby<'a> {
    member: &'a MemberId,
    flushed: Lsn,
    /// Its agent could take over.
    watching: bool,
    priority: u8,
}

impl Shared {
    /// Whom our lease names as having every acknowledged commit.
    pub(in crate::core) fn synchronous_set(&self) -> &BTreeSet<MemberId> {
        &self.synchronous.set
    }

    /// What the server is known to wait for.
    pub(in crate::core) fn requirement(&self) -> Option<&Requirement> {
        self.synchronous.required.as_ref()
    }

    /// A lease is about to be acquired: what it is to name.
    ///
    /// Whoever had every commit of ours still has, and nobody but us has those of a lease that we take
    /// over.
    pub(super) fn inherit_synchronous(&mut self) {
        self.synchronous.alone_since = None;
        self.synchronous.replaced = None;
        let Some(last) = self.view.last_lease() else { return };
        let outdated = self.view.lease_slot().revision() < self.newest_lease_revision();
        if last.boot == self.id.boot || outdated {
            // What we say ourselves is at least as new.
            return;
        }
        if self.is_ours(last) || last.synchronous.is_empty() {
            self.synchronous.set = last.synchronous.clone();
            return;
        }
        let own = BTreeSet::from([self.id.member.clone()]);
        // After a clean stop the old holder has everything, too.
        let clean = last.released.as_ref().is_some_and(|release| release.lsn.is_some());
        let holder = clean.then(|| last.holder.clone());
        let had = last.synchronous.iter().cloned().chain(holder).chain(own.iter().cloned());
        self.synchronous.replaced = Some(had.collect());
        self.synchronous.set = own;
    }

    /// Something is about to be opened on our lease: from then on nobody else has everything.
    pub(super) fn opens(&mut self) {
        self.synchronous.replaced = None;
    }

    /// Whom a release names.
    pub(super) fn released_set(&self) -> BTreeSet<MemberId> {
        let set = self.synchronous.replaced.as_ref().unwrap_or(&self.synchronous.set);
        set.clone()
    }

    /// Everybody who may be taken for one that has every acknowledged commit.
    fn named(&self, held: &Held) -> BTreeSet<MemberId> {
        let mut named = held.synchronous.clone();
        if let Some(pending) = &self.pending
            && let Record::Lease(lease) = &pending.write.record
        {
            named.extend(lease.synchronous.iter().cloned());
        }
        named.extend(self.synchronous.set.iter().cloned());
        named
    }

    /// What to wait for so that `members` have every commit.
    fn requiring(&self, mut members: BTreeSet<MemberId>) -> Requirement {
        members.remove(&self.id.member);
        match (members.is_empty(), self.policy.synchronous) {
            (false, _) => Requirement::All(members),
            (true, SynchronousMode::Strict) => Requirement::Unsatisfiable,
            (true, SynchronousMode::Off | SynchronousMode::On) => Requirement::Nobody,
        }
    }

    /// What has to be in effect before the database is opened under a lease that names `set`, and is not
    /// known to be.
    pub(in crate::core) fn missing_requirement(
        &self,
        set: &BTreeSet<MemberId>,
    ) -> Option<Requirement> {
        let wanted = self.requiring(set.clone());
        let known = self.synchronous.required.as_ref();
        let left = self.database.as_ref().is_some_and(|seen| seen.required);
        let ours = self.policy.synchronous != SynchronousMode::Off || known.is_some() || left;
        let needed = ours || wanted != Requirement::Nobody;
        (needed && known != Some(&wanted)).then_some(wanted)
    }

    /// As a standby: has the server wait, from its promotion on, for whom we would need if we took over
    /// now. A takeover does not have to wait for that then.
    pub(in crate::core) fn prepare_requirement(&mut self) {
        let Some(lease) = self.view.lease() else { return };
        let own = BTreeSet::from([self.id.member.clone()]);
        let set = if lease.synchronous.is_empty() { BTreeSet::new() } else { own };
        if let Some(requirement) = self.missing_requirement(&set).filter(|_| self.may_require()) {
            self.require(requirement, Epoch(0));
        }
    }

    /// None is under way, and the latest one did not fail a moment ago.
    pub(in crate::core) fn may_require(&self) -> bool {
        let waits = self.synchronous.retry_at.is_some_and(|at| self.now < at);
        !waits && !self.busy() && self.shutdown.is_none()
    }

    /// Such an action is under way.
    pub(in crate::core) fn is_requiring(&self) -> bool {
        self.running.as_ref().is_some_and(|it| matches!(it.action, Action::Require { .. }))
    }

    /// Has the server wait for these.
    pub(in crate::core) fn require(&mut self, requirement: Requirement, epoch: Epoch) {
        // From now on it may not wait for those any more that are left out.
        match &requirement {
            Requirement::All(members) | Requirement::Withheld(members) => {
                self.synchronous.from.retain(|member, _| members.contains(member));
            }
            Requirement::Nobody | Requirement::Unsatisfiable => self.synchronous.from.clear(),
        }
        self.synchronous.required = None;
        self.act(Action::Require { requirement }, epoch, self.policy.stop_timeout / 2);
    }

    /// A requirement was asked for: this came of it.
    pub(super) fn required(&mut self, requirement: &Requirement, outcome: &ActionOutcome) {
        let ActionOutcome::Applied(Done::Required { lsn }) = outcome else {
            self.synchronous.retry_at = Some(self.now + self.policy.heartbeat_interval);
            return;
        };
        self.synchronous.retry_at = None;
        self.synchronous.looked = false;
        if let Requirement::All(members) | Requirement::Withheld(members) = requirement {
            let known = |member: &&MemberId| {
                self.synchronous.set.contains(*member)
                    || self.synchronous.from.contains_key(*member)
            };
            if *lsn == Lsn(0) && !members.iter().all(|member| known(&member)) {
                // Where the log of a server that is down ends is not known: asked for again.
                return;
            }
            for member in members {
                self.synchronous.from.entry(member.clone()).or_insert(*lsn);
            }
        }
        self.synchronous.required = Some(requirement.clone());
    }

    /// The database was looked at.
    pub(super) fn looked_at_standbys(&mut self) {
        self.synchronous.looked = true;
    }

    /// Keeps the set and the requirement right. `since`: when the database was opened.
    pub(in crate::core) fn drive_synchronous(&mut self, held: &mut Held, since: Instant) {
        let mode = self.policy.synchronous;
        let managed = mode != SynchronousMode::Off
            || !self.named(held).is_empty()
            || self.database.as_ref().is_some_and(|seen| seen.required)
            || self.synchronous.required.as_ref().is_some_and(|it| *it != Requirement::Nobody);
        let Some(database) = self.database.clone().filter(is_open) else { return };
        if !managed {
            self.clear(Alarm::NoSynchronousStandby);
            return;
        }
        if self.description_unknown() {
            // What was set for the cluster may be more than what we are configured with.
            return;
        }
        let chosen = self.choose(&database);
        let set = self.next_set(&chosen, &database, since);
        let alone = self.synchronous.alone_since.filter(|_| mode != SynchronousMode::Off);
        let long = self.policy.lease_duration * 2;
        let alone = alone.is_some_and(|since| self.now.since(since) > long);
        self.set_alarm(Alarm::NoSynchronousStandby, alone);
        if set != self.synchronous.set && self.covers(&set) {
            self.synchronous.set = set;
        }
        if self.synchronous.set != held.synchronous {
            // Others decide by the lease: it says so at once.
            held.next_renewal = self.now;
        }
        let mut members = self.named(held);
        members.extend(chosen);
        let wanted = match self.requiring(members) {
            // While the lease names nobody, whoever takes over may lack what only these have.
            Requirement::All(members)
                if mode == SynchronousMode::Strict && held.synchronous.is_empty() =>
            {
                Requirement::Withheld(members)
            }
            wanted @ (Requirement::Nobody
            | Requirement::Unsatisfiable
            | Requirement::All(_)
            | Requirement::Withheld(_)) => wanted,
        };
        let known = self.synchronous.required.as_ref() == Some(&wanted);
        if !known && self.may_require() {
            self.require(wanted, held.epoch);
        }
    }

    /// There is a description of the cluster, of which nothing, or only something older, was read.
    fn description_unknown(&self) -> bool {
        let described = self.view.lease().and_then(|lease| lease.described);
        self.view.cluster_unreadable() || self.view.described() < described
    }

    /// What the server waits for is known, and covers this set.
    fn covers(&self, set: &BTreeSet<MemberId>) -> bool {
        let required = self.synchronous.required.as_ref();
        required.is_some_and(|required| required.covers(set, &self.id.member))
    }

    /// The members whose standbys commits are to wait for: the best of those attached.
    fn choose(&self, database: &Observation) -> BTreeSet<MemberId> {
        if self.policy.synchronous == SynchronousMode::Off {
            return BTreeSet::new();
        }
        let mut standbys: Vec<Standby<'_>> =
            self.view.heartbeats().filter_map(|it| self.standby(it, database)).collect();
        let in_set = |standby: &Standby<'_>| self.synchronous.set.contains(standby.member);
        standbys.sort_by_key(|standby| {
            let rank = (standby.watching, standby.priority, in_set(standby), standby.flushed);
            (Reverse(rank), standby.member.clone())
        });
        let number = usize::from(self.policy.synchronous_standbys);
        standbys.into_iter().take(number).map(|standby| standby.member.clone()).collect()
    }

    fn standby<'a>(
        &'a self,
        (member, heartbeat): (&'a MemberId, &'a Heartbeat),
        database: &Observation,
    ) -> Option<Standby<'a>> {
        let attached = database.standbys.iter().find(|(name, _)| name == member.as_str())?;
        let flushed = attached.1;
        let silent_after = self.policy.lease_duration + self.longest_gap();
        let alive =
            self.view.heartbeat_age(member, self.now).is_some_and(|age| age <= silent_after);
        let watching = alive && heartbeat.status == State::ReplicaWatching;
        let known = self.synchronous.from.contains_key(member);
        // Commits would wait long for one that is far behind.
        let near = database.lsn.bytes_ahead_of(flushed) <= self.policy.maximum_lag_on_failover;
        let admitted = self.view.cluster().is_some_and(|cluster| {
            cluster.members.contains_key(member) && !cluster.drained.contains(member)
        });
        let fit = heartbeat.priority > 0 && admitted && *member != self.id.member;
        (fit && (known || watching && near)).then_some(Standby {
            member,
            flushed,
            watching,
            priority: heartbeat.priority,
        })
    }

    /// Whom the lease is to name: those chosen who have every commit, or as before while there is nobody.
    fn next_set(
        &mut self,
        chosen: &BTreeSet<MemberId>,
        database: &Observation,
        since: Instant,
    ) -> BTreeSet<MemberId> {
        if self.policy.synchronous == SynchronousMode::Off {
            self.synchronous.alone_since = None;
            return BTreeSet::new();
        }
        let flushed = |member: &MemberId| {
            let found = database.standbys.iter().find(|(name, _)| name == member.as_str());
            found.map(|(_, flushed)| *flushed)
        };
        let has_all = |member: &&MemberId| {
            let from = self.synchronous.from.get(*member);
            let known = self.synchronous.set.contains(*member);
            // What a look before that saw may have been another standby of that name.
            let looked = self.synchronous.looked;
            from.is_some_and(|from| {
                known || looked && flushed(member).is_some_and(|it| it >= *from)
            })
        };
        let ready: BTreeSet<MemberId> = chosen.iter().filter(has_all).cloned().collect();
        if !ready.is_empty() {
            self.synchronous.alone_since = None;
            return ready;
        }
        let attached = |member: &MemberId| flushed(member).is_some();
        if self.synchronous.set.iter().any(attached) {
            self.synchronous.alone_since = None;
            return self.synchronous.set.clone();
        }
        let alone = *self.synchronous.alone_since.get_or_insert(self.now);
        if self.policy.synchronous == SynchronousMode::On && self.now >= self.gives_up(alone, since)
        {
            return BTreeSet::new();
        }
        self.synchronous.set.clone()
    }

    /// When commits no longer wait for standbys that are gone. After the database was opened standbys
    /// still have to turn to it.
    fn gives_up(&self, alone: Instant, since: Instant) -> Instant {
        let settled = since + self.policy.lease_duration;
        settled.max(alone + self.policy.heartbeat_interval * 2)
    }

    /// When that is, if it is waited for.
    pub(in crate::core) fn synchronous_due(&self, since: Instant) -> Option<Instant> {
        let waits =
            self.policy.synchronous == SynchronousMode::On && !self.synchronous.set.is_empty();
        let alone = self.synchronous.alone_since.filter(|_| waits)?;
        Some(self.gives_up(alone, since)).filter(|due| *due > self.now)
    }
}

fn is_open(seen: &Observation) -> bool {
    seen.process == Process::RunningPrimary
}
