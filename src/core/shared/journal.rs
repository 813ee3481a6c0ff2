//! Collects what is to be told of an acquisition of ours while it happens. Nothing here is read by any
//! decision.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Shared;
use crate::core::candidate::{self, Candidate};
use crate::core::event::{Action, ActionOutcome, Done, Effect, Reason, State};
use crate::core::ids::{Epoch, Lsn, MemberId};
use crate::core::journal::{
    Asked, AtRisk, Contender, Ending, Evidence, Fence, MOST_CONTENDERS, Phase, ReleaseTold, Report,
    short,
};
use crate::core::records::{Heartbeat, Lease};
use crate::core::replica::{Takeover, takeover};
use crate::core::time::Instant;
use crate::core::view::Witness;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::core) struct Journal {
    /// The acquisition that is under way.
    open: Option<Open>,
    /// Why we were last on the way to being no primary.
    left: Option<Reason>,
    /// When the fence that runs began.
    fencing: Option<Instant>,
    /// How it ended.
    fence: Option<Fence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    report: Report,
    /// The old holder's last sign as we saw it.
    sign: Option<Instant>,
    /// When we asked for the lease.
    decided: Instant,
    acquired: Option<Instant>,
    /// What opens the database, and since when.
    opening: Option<(String, Instant, Option<u64>)>,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    /// How our database was last fenced, for a release.
    pub(in crate::core) fn fence_told(&self) -> Option<Fence> {
        self.journal.0.fence.clone()
    }

    /// As if nothing had been told so far.
    #[cfg(test)]
    pub(in crate::core) fn forget_journal(&mut self) {
        self.journal = Default::default();
    }

    /// The lease of `epoch` is asked for, in this state.
    pub(super) fn journal_decides(&mut self, epoch: Epoch, status: State) {
        let lease = self.view.lease();
        let evidence = lease.map(|lease| self.evidence(lease));
        let takes_over = status == State::ReplicaPromoting;
        let contenders = lease.map(|lease| self.contenders(lease, takes_over)).unwrap_or_default();
        let at_risk = lease.filter(|_| takes_over).map(|lease| self.at_risk(lease));
        let sign = self.view.staleness(self.now).map(|age| self.now - age).filter(|_| takes_over);
        let allowed = match takeover(self) {
            Takeover::At(at, _) => sign.map(|sign| millis(at.since(sign))),
            Takeover::No(_) | Takeover::NoLease => None,
        };
        let detected = sign.map(|sign| Phase {
            name: "detected".to_owned(),
            took_ms: millis(self.now.since(sign)),
            budget_ms: allowed,
        });
        let synchronous = lease.map(|lease| lease.synchronous.clone()).unwrap_or_default();
        let report = Report {
            epoch,
            holder: self.id.member.clone(),
            reason: String::new(),
            outcome: Ending::Opened,
            at: String::new(),
            asked: lease.and_then(|lease| self.asked(lease.epoch)),
            evidence,
            contenders,
            at_risk,
            synchronous: synchronous.into_iter().take(MOST_CONTENDERS).collect(),
            phases: detected.into_iter().collect(),
            writable_ms: None,
        };
        let decided = self.now;
        self.journal.0.open = Some(Open { report, sign, decided, acquired: None, opening: None });
    }

    /// The lease of `epoch` is ours.
    pub(super) fn journal_acquired(&mut self, epoch: Epoch) {
        let (now, limit) = (self.now, millis(self.policy.heartbeat_timeout));
        let Some(open) = self.journal.0.open.as_mut().filter(|open| open.report.epoch == epoch)
        else {
            return;
        };
        open.acquired = Some(now);
        open.report.phases.push(Phase {
            name: "acquired".to_owned(),
            took_ms: millis(now.since(open.decided)),
            budget_ms: Some(limit),
        });
    }

    /// An action begins.
    pub(super) fn journal_acts(&mut self, action: &Action, limit: Duration) {
        let (now, journal) = (self.now, &mut self.journal.0);
        let name = match action {
            Action::Fence { .. } => {
                journal.fencing.get_or_insert(now);
                journal.fence = None;
                return;
            }
            Action::Promote | Action::PromoteWith { .. } => "promoted",
            Action::StartPrimary => "started",
            Action::Bootstrap => "initialised",
            Action::Clone { .. }
            | Action::Follow { .. }
            | Action::Rejoin { .. }
            | Action::Demote { .. }
            | Action::Require { .. }
            | Action::Checkpoint => return,
        };
        let Some(open) = journal.open.as_mut() else { return };
        open.finish_opening(now);
        if let Some(acquired) = open.acquired.filter(|at| *at < now && open.opening.is_none()) {
            let took_ms = millis(now.since(acquired));
            open.report.phases.push(Phase {
                name: "prepared".to_owned(),
                took_ms,
                budget_ms: None,
            });
        }
        open.opening = Some((name.to_owned(), now, Some(millis(limit))));
    }

    /// An action ended.
    pub(super) fn journal_acted(&mut self, outcome: &ActionOutcome) {
        let now = self.now;
        if let ActionOutcome::Applied(Done::Fenced(proof)) = outcome {
            let journal = &mut self.journal.0;
            let began = journal.fencing.take().unwrap_or(now);
            let why = journal.left.map_or("", Reason::name);
            journal.fence = Some(Fence::new(why, proof, millis(now.since(began))));
        }
    }

    /// We went from one state to another. The end of an acquisition is told.
    pub(in crate::core) fn journal_became(&mut self, from: State, to: State, reason: Reason) {
        let leaves = matches!(to, State::PrimaryFailed | State::PrimaryYielding);
        if leaves && from != State::PrimaryFenced {
            self.journal.0.left = Some(reason);
        }
        let Some(mut open) = self.journal.0.open.take_if(|open| open.acquired.is_some()) else {
            return;
        };
        if open.report.reason.is_empty() {
            reason.name().clone_into(&mut open.report.reason);
        }
        match to {
            State::ReplicaPromoting | State::PrimaryInitializing => {
                self.journal.0.open = Some(open);
                return;
            }
            State::PrimaryHealthy => {
                // What was before is in this report, and no part of what comes.
                (self.journal.0.left, self.journal.0.fence) = (None, None);
                open.finish_opening(self.now);
                let since = open.sign.unwrap_or(open.decided);
                open.report.writable_ms = Some(millis(self.now.since(since)));
            }
            State::PrimaryFailed
            | State::PrimaryFenced
            | State::PrimaryYielding
            | State::ReplicaInitializing
            | State::ReplicaWatching
            | State::ReplicaFailed => {
                open.report.outcome = Ending::GivenUp(reason.name().to_owned());
            }
        }
        self.effects.push(Effect::Report(Box::new(open.report)));
    }

    fn evidence(&self, lease: &Lease) -> Evidence {
        let slot = self.view.lease_slot();
        let own = self.view.heartbeat_slot(&self.id.member).and_then(|slot| slot.created());
        let ours = self.is_ours(lease);
        let asked = lease.released.is_none() && !ours;
        let word = match self.view.witness(&self.id.member, lease.lease_duration) {
            Witness::Agrees => "agrees",
            Witness::Waits => "waits",
            Witness::Void => "void",
        };
        let told = lease.released.as_ref().and_then(|release| release.fence.0.clone());
        let release = lease.released.as_ref().map(|release| ReleaseTold {
            to: release.to.clone(),
            reason: short(&release.reason),
            lsn: release.lsn,
            timeline: release.timeline,
        });
        Evidence {
            holder: lease.holder.clone(),
            epoch: lease.epoch,
            revision: slot.revision(),
            seq: lease.seq,
            status: lease.status,
            database: lease.database,
            lease_duration_ms: millis(lease.lease_duration),
            unchanged_ms: self.view.staleness(self.now).map(millis),
            access_ms: self.view.access_since().map(|since| millis(self.now.since(since))),
            store_ms: own.zip(slot.created()).and_then(|(own, then)| own.since(then)).map(millis),
            witness: asked.then(|| word.to_owned()),
            release,
            fence: if ours { self.fence_told() } else { told },
        }
    }

    /// What a person had asked for of the holder of `epoch`, when its time had come.
    fn asked(&self, epoch: Epoch) -> Option<Asked> {
        let order = self.view.order(epoch).filter(|order| !order.rehearsal)?;
        (order.not_before <= self.view.store_now()).then(|| Asked {
            id: short(&order.id),
            wish: order.wish.name().to_owned(),
            to: order.to.clone(),
            by: short(&order.by),
        })
    }

    fn at_risk(&self, lease: &Lease) -> AtRisk {
        let exact = lease.released.as_ref().is_some_and(|release| release.lsn.is_some());
        AtRisk { bytes: candidate::lag(lease, self.position.lsn), exact }
    }

    /// Everybody who might have taken over, ourselves first, then in line, then who was not in it.
    fn contenders(&self, lease: &Lease, takes_over: bool) -> Vec<Contender> {
        let line = self.line();
        let mut all: Vec<Contender> = self
            .view
            .heartbeats()
            .filter(|(member, _)| **member != self.id.member)
            .map(|(member, heartbeat)| self.contender(lease, &line, member, heartbeat))
            .collect();
        let silent = self.view.cluster().into_iter().flat_map(|cluster| &cluster.members);
        let silent = silent.filter(|(member, _)| {
            **member != self.id.member
                && **member != lease.holder
                && self.view.heartbeat_age(member, self.now).is_none()
        });
        all.extend(silent.map(|(member, settings)| Contender {
            against: Some("it has written no heartbeat".to_owned()),
            ..self.told_of(lease, &line, member, Lsn(0), settings.priority)
        }));
        if takes_over {
            let own = self.told_of(
                lease,
                &line,
                &self.id.member,
                self.position.lsn,
                self.policy.priority,
            );
            let against = self.eligible(lease).err().map(|why| short(&why.to_string()));
            all.push(Contender { timeline: self.position.timeline, against, ..own });
        }
        all.sort_by_key(|it| {
            (it.member != self.id.member, it.place.unwrap_or(u32::MAX), it.member.clone())
        });
        all.truncate(MOST_CONTENDERS);
        all
    }

    fn contender(
        &self,
        lease: &Lease,
        line: &[Candidate],
        member: &MemberId,
        heartbeat: &Heartbeat,
    ) -> Contender {
        let age = self.view.heartbeat_age(member, self.now);
        let silent_after = self.policy.lease_duration + self.longest_gap();
        let against = if *member == lease.holder && lease.released.is_none() {
            Some("it is the holder that was replaced".to_owned())
        } else if age.is_none_or(|age| age > silent_after) {
            Some("it has not been heard of lately".to_owned())
        } else if let Some(why) = &heartbeat.ineligible {
            Some(short(why))
        } else if heartbeat.status != State::ReplicaWatching {
            Some(format!("it is in state {}", heartbeat.status))
        } else {
            None
        };
        let of = self.told_of(lease, line, member, heartbeat.database.lsn, heartbeat.priority);
        let timeline = heartbeat.database.timeline;
        Contender { timeline, age_ms: age.map(millis), against, ..of }
    }

    fn told_of(
        &self,
        lease: &Lease,
        line: &[Candidate],
        member: &MemberId,
        lsn: Lsn,
        priority: u8,
    ) -> Contender {
        let place = line.iter().position(|it| it.member == *member);
        let synchronous = lease.synchronous.contains(member);
        Contender {
            member: member.clone(),
            place: place.and_then(|place| u32::try_from(place).ok()),
            timeline: Default::default(),
            lsn,
            behind: candidate::lag(lease, lsn),
            priority,
            synchronous,
            age_ms: None,
            against: None,
        }
    }
}

impl Open {
    /// What opens the database is done.
    fn finish_opening(&mut self, now: Instant) {
        if let Some((name, since, budget_ms)) = self.opening.take() {
            self.report.phases.push(Phase { name, took_ms: millis(now.since(since)), budget_ms });
        }
    }
}
