//! What both workflows share: who we are, what was seen, operations under way, and the effects of
//! this step.

use std::collections::BTreeSet;
use std::time::Duration;

use super::candidate::{self, Candidate, Fitness, WhyNot};
use super::event::{
    Action, ActionOutcome, Alarm, Effect, Floor, Guard, Observation, ReadFailure, ShutdownMode,
    State, StoreWrite, Upstream, WatchdogStatus, WriteOutcome,
};
use super::ids::{BootId, Epoch, InstanceId, MemberId, OpId, Revision, SystemId};
use super::lease::{Held, LeaseAnswer, PendingLease, Purpose};
use super::policy::{Policy, WatchdogMode};
use super::records::{
    Address, ClusterState, Header, Heartbeat, Key, Lease, Position, Record, Release, Slot, Snapshot,
};
use super::time::Instant;
use super::view::View;

/// Who this agent is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The member it speaks for.
    pub member: MemberId,
    /// This start of it.
    pub boot: BootId,
    /// Its state directory.
    pub instance: InstanceId,
    /// Where others reach the member.
    pub address: Address,
}

/// A database action under way; there is at most one, besides a fence that overtakes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Running {
    pub(super) op: OpId,
    pub(super) action: Action,
}

/// A write of our own heartbeat or of `cluster_state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Publishing {
    op: Option<OpId>,
    sent: Option<Instant>,
    write: Option<StoreWrite>,
}

/// Our own heartbeats as a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct OwnHeartbeat {
    publishing: Publishing,
    seq: u64,
    revision: Option<Revision>,
    due: Instant,
    /// When the latest applied one was sent.
    applied: Option<Instant>,
    failures: u32,
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shared {
    pub(super) id: Identity,
    pub(super) policy: Policy,
    pub(super) now: Instant,
    pub(super) view: View,
    pub(super) floor: Option<Floor>,
    pub(super) database: Option<Observation>,
    pub(super) watchdog: WatchdogStatus,
    pub(super) running: Option<Running>,
    pub(super) pending: Option<PendingLease>,
    pub(super) cooling_until: Option<Instant>,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) effects: Vec<Effect>,
    /// Completions that nobody waited for any more.
    pub(super) stale_completions: u64,
    alarms: BTreeSet<Alarm>,
    guarded: Option<(Instant, Epoch)>,
    epoch_of_tasks: Epoch,
    next_op: u64,
    next_write: u64,
    read: Option<OpId>,
    read_due: Instant,
    reread: bool,
    /// A write of ours was refused since: the view is known to be behind.
    outdated: bool,
    name: Name,
    remembering: Option<(OpId, Floor)>,
    remembered: Option<Floor>,
    remember_due: Instant,
    heartbeat: OwnHeartbeat,
    cluster_write: Publishing,
}

/// The agent was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shutdown {
    pub(super) mode: ShutdownMode,
    pub(super) by: Instant,
}

/// Whether another agent uses our member name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Name {
    /// Not known yet.
    Unchecked,
    /// A record under our name was written by another instance; this revision of it was seen first.
    Contested(Revision),
    /// Ours.
    Clear,
}

/// What a read or completion means to the workflows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Time passed or something was seen: look at everything again.
    Look,
    /// The database's postmaster ended.
    Died,
    /// A write to the lease was answered.
    Lease(LeaseAnswer),
    /// The action under way ended.
    Acted(Action, ActionOutcome),
}

/// Time between two writes of the floor when only the lease's revision moved: a crash forgets at
/// most this much of a rollback's evidence, while running agents forget none.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(30);

impl Shared {
    pub(super) fn new(id: Identity, policy: Policy, floor: Option<Floor>, now: Instant) -> Self {
        Self {
            id,
            policy,
            now,
            view: View::default(),
            floor: floor.clone(),
            database: None,
            watchdog: WatchdogStatus::Down,
            running: None,
            pending: None,
            cooling_until: None,
            shutdown: None,
            effects: Vec::new(),
            stale_completions: 0,
            alarms: BTreeSet::new(),
            guarded: None,
            epoch_of_tasks: Epoch(0),
            next_op: 0,
            next_write: 0,
            read: None,
            read_due: now,
            reread: false,
            outdated: false,
            name: Name::Unchecked,
            remembering: None,
            remembered: floor,
            remember_due: now,
            heartbeat: OwnHeartbeat { due: now, ..OwnHeartbeat::default() },
            cluster_write: Publishing::default(),
        }
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    // ---- alarms and the watchdog

    pub(super) fn raise(&mut self, alarm: Alarm) {
        if self.alarms.insert(alarm) {
            self.effects.push(Effect::Alarm(alarm));
        }
    }

    pub(super) fn clear(&mut self, alarm: Alarm) {
        self.alarms.remove(&alarm);
    }

    pub(super) fn set_alarm(&mut self, alarm: Alarm, on: bool) {
        if on {
            self.raise(alarm);
        } else {
            self.clear(alarm);
        }
    }

    pub(super) fn alarms(&self) -> &BTreeSet<Alarm> {
        &self.alarms
    }

    /// Moves the watchdog's deadline to what `held` proves.
    pub(super) fn guard(&mut self, held: &Held) {
        let until = self.policy.guard_at(held.until(&self.policy));
        if self.guarded != Some((until, held.epoch)) {
            self.guarded = Some((until, held.epoch));
            self.effects.push(Effect::Guard(Guard::Until(until, held.epoch)));
        }
    }

    /// The instance is proven down or is no primary.
    pub(super) fn unguard(&mut self) {
        self.guarded = None;
        self.effects.push(Effect::Guard(Guard::Released));
    }

    /// The watchdog is a condition of leadership and not there.
    pub(super) fn watchdog_missing(&self) -> bool {
        self.policy.watchdog == WatchdogMode::Required && self.watchdog == WatchdogStatus::Down
    }

    // ---- reading the store

    /// The longest time between two reads that still counts as unbroken access to the store.
    pub(super) fn longest_gap(&self) -> Duration {
        self.policy.heartbeat_interval * 2 + self.policy.heartbeat_timeout
    }

    /// The view was read lately enough to decide on.
    pub(super) fn view_is_fresh(&self) -> bool {
        !self.outdated && self.view.is_fresh(self.now, self.longest_gap())
    }

    /// Something changed in the store: read as soon as possible.
    pub(super) fn changed(&mut self) {
        self.read_due = self.now;
        self.reread = true;
    }

    pub(super) fn read_done(&mut self, op: OpId, answer: Result<Snapshot, ReadFailure>) -> Signal {
        if self.read != Some(op) {
            self.stale_completions += 1;
            return Signal::Look;
        }
        self.read = None;
        self.read_due = self.now + self.policy.heartbeat_interval;
        let behind = std::mem::take(&mut self.reread);
        if behind {
            self.read_due = self.now;
        }
        match answer {
            Ok(snapshot) => {
                self.outdated &= behind;
                let gap = self.longest_gap();
                self.view.update(self.now, snapshot, self.floor.as_ref(), gap);
                self.clear(Alarm::StoreRejects);
                self.note_view();
                self.resolve_pending()
            }
            Err(failure) => {
                self.view.access_broken();
                self.set_alarm(Alarm::StoreRejects, matches!(failure, ReadFailure::Rejected(_)));
                Signal::Look
            }
        }
    }

    fn note_view(&mut self) {
        let not_obeyed = !self.view.obeyed();
        self.set_alarm(Alarm::StoreNotObeyed, not_obeyed);
        let invalid = !self.view.invalid().is_empty();
        self.set_alarm(Alarm::RecordInvalid, invalid);
        self.learn_floor();
        if let Some(Slot::Valid { revision, .. }) = self.view.heartbeat_slot(&self.id.member) {
            self.heartbeat.revision = self.heartbeat.revision.max(Some(*revision));
        } else if let Some(slot) = self.view.heartbeat_slot(&self.id.member) {
            self.heartbeat.revision = slot.revision();
        }
    }

    /// Raises the floor to what an obeyed store shows.
    fn learn_floor(&mut self) {
        let Some(incarnation) = self.view.incarnation().filter(|_| self.view.obeyed()) else {
            return;
        };
        let known = self.floor.as_ref();
        let floor = Floor {
            incarnation: incarnation.clone(),
            epoch: self
                .view
                .lease()
                .map_or(Epoch(0), |lease| lease.epoch)
                .max(known.map_or(Epoch(0), |floor| floor.epoch)),
            revision: self
                .view
                .lease_slot()
                .revision()
                .unwrap_or_default()
                .max(known.map_or(Revision(0), |floor| floor.revision)),
            system: known.and_then(|floor| floor.system).or(self.view.system()),
        };
        self.floor = Some(floor);
    }

    /// Our own applied write raises the floor without waiting for a read.
    fn raise_floor(&mut self, epoch: Epoch, revision: Revision) {
        if let Some(floor) = &mut self.floor {
            floor.epoch = floor.epoch.max(epoch);
            floor.revision = floor.revision.max(revision);
        }
    }

    /// The floor on disk covers `epoch`.
    pub(super) fn has_remembered(&self, epoch: Epoch) -> bool {
        self.remembered.as_ref().is_some_and(|floor| floor.epoch >= epoch)
    }

    pub(super) fn remembered(&mut self, op: OpId, written: bool) {
        match self.remembering.take() {
            Some((waiting, floor)) if waiting == op => {
                self.set_alarm(Alarm::FloorNotWritten, !written);
                if written {
                    self.remembered = Some(floor);
                } else {
                    self.remember_due = self.now + self.policy.heartbeat_interval;
                }
            }
            other => {
                self.remembering = other;
                self.stale_completions += 1;
            }
        }
    }

    // ---- what the lease means

    /// Another agent uses our member name, or it is not known yet. Nothing is written meanwhile.
    pub(super) fn name_contested(&self) -> bool {
        self.name != Name::Clear
    }

    /// Looks for another agent with our member name: a record under it, by another instance, that
    /// keeps changing is alive (this agent stops); one that does not is a former life of ours.
    pub(super) fn check_name(&mut self) {
        if self.name == Name::Clear || self.view.last_read().is_none() {
            return;
        }
        let Some((revision, patience, age)) = self.foreign_record() else {
            self.name = Name::Clear;
            return;
        };
        match self.name {
            Name::Unchecked => self.name = Name::Contested(revision),
            Name::Contested(first) if first != revision => {
                let member = &self.id.member;
                let text = format!("another agent with the member name {member} is alive");
                self.raise(Alarm::NameTaken);
                self.effects.push(Effect::Exit(super::event::Exit::NameTaken(text)));
            }
            Name::Contested(_) if age >= patience && self.view_is_fresh() => {
                self.name = Name::Clear
            }
            Name::Contested(_) | Name::Clear => {}
        }
    }

    /// The record under our name that another instance wrote: revision, how long to watch it, age.
    fn foreign_record(&self) -> Option<(Revision, Duration, Duration)> {
        if let Slot::Valid { record, revision, .. } = self.view.lease_slot() {
            if record.holder == self.id.member && record.instance != self.id.instance {
                let patience = self.policy.failover_timeout(record.lease_duration);
                let since = self.view.window_start()?;
                return Some((*revision, patience, self.now.since(since)));
            }
        }
        match self.view.heartbeat_slot(&self.id.member)? {
            Slot::Valid { record, revision, .. } if record.instance != self.id.instance => {
                let patience = self.policy.failover_timeout(self.policy.lease_duration);
                let age = self.view.heartbeat_age(&self.id.member, self.now)?;
                Some((*revision, patience, age))
            }
            Slot::Valid { .. } | Slot::Absent | Slot::Invalid { .. } => None,
        }
    }

    /// The lease is damaged, we were its last valid holder, and nobody has touched it for a whole
    /// failover time: we may write it again. Nobody else may, and no newer schema is overwritten.
    pub(super) fn may_repair_lease(&self) -> bool {
        let damaged = matches!(
            self.view.lease_slot(),
            Slot::Invalid { why: super::records::Invalid::Damaged(_), .. }
        );
        let Some(last) = self.view.last_lease().filter(|last| last.holder == self.id.member) else {
            return false;
        };
        let known = self.floor.as_ref().map_or(Epoch(0), |floor| floor.epoch);
        let patience = self.policy.failover_timeout(last.lease_duration);
        let quiet = self.view.window_start().is_some_and(|since| self.now.since(since) >= patience);
        damaged && last.epoch >= known && quiet
    }

    /// The holder of the lease as somebody to follow: its lease is neither released nor silent.
    pub(super) fn live_holder(&self) -> Option<Upstream> {
        let lease = self.view.lease()?;
        let silent = self
            .view
            .staleness(self.now)
            .is_none_or(|age| age > self.policy.failover_timeout(lease.lease_duration));
        (lease.released.is_none() && !silent)
            .then(|| Upstream { member: lease.holder.clone(), address: lease.address.clone() })
    }

    /// Nobody has held a live lease for a failover time since `since`.
    pub(super) fn holder_gone(&self, since: Instant) -> bool {
        let patience = self.policy.failover_timeout(self.policy.lease_duration);
        self.live_holder().is_none() && self.now.since(since) >= patience
    }

    // ---- writing the lease

    /// Sends a write to the lease. Only one may be pending.
    fn write_lease(
        &mut self,
        purpose: Purpose,
        epoch: Epoch,
        expected: Option<Revision>,
        lease: Lease,
    ) {
        let write = self.store_write(Key::Lease, expected, Record::Lease(lease));
        let op = self.op();
        let (first_sent, last_sent) = (self.now, self.now);
        self.effects.push(Effect::Write(op, write.clone(), self.policy.heartbeat_timeout));
        self.pending =
            Some(PendingLease { purpose, op: Some(op), write, epoch, first_sent, last_sent });
    }

    fn store_write(&mut self, key: Key, expected: Option<Revision>, record: Record) -> StoreWrite {
        self.next_write += 1;
        StoreWrite { key, expected, record, number: self.next_write }
    }

    fn lease_record(
        &self,
        epoch: Epoch,
        seq: u64,
        status: State,
        released: Option<Release>,
    ) -> Lease {
        Lease {
            holder: self.id.member.clone(),
            boot: self.id.boot.clone(),
            instance: self.id.instance.clone(),
            epoch,
            seq,
            status,
            lease_duration: self.policy.lease_duration,
            database: self.position(),
            address: self.id.address.clone(),
            released,
        }
    }

    /// Tries to become the holder: compare-and-set on `expected`, with an epoch above all known.
    pub(super) fn acquire(&mut self, status: State, expected: Option<Revision>) {
        let known = self.floor.as_ref().map_or(Epoch(0), |floor| floor.epoch);
        let shown = self.view.lease().map_or(Epoch(0), |lease| lease.epoch);
        let epoch = known.max(shown).next();
        let lease = self.lease_record(epoch, 0, status, None);
        self.write_lease(Purpose::Acquire, epoch, expected, lease);
    }

    /// Renews when it is due, sends an unanswered write again when its time is up.
    pub(super) fn drive_renewal(&mut self, held: &Held, status: State) {
        if self.pending.is_some() {
            self.resend_pending();
        } else if self.now >= held.next_renewal {
            let lease = self.lease_record(held.epoch, held.seq + 1, status, None);
            self.write_lease(Purpose::Renew, held.epoch, Some(held.revision), lease);
        }
    }

    /// Gives the lease back.
    pub(super) fn release(&mut self, held: &Held, status: State, release: Release) {
        let lease = self.lease_record(held.epoch, held.seq + 1, status, Some(release));
        self.write_lease(Purpose::Release, held.epoch, Some(held.revision), lease);
    }

    /// Sends the identical pending write again, once its last try is over and its time has passed.
    pub(super) fn resend_pending(&mut self) {
        let retry_after = self.policy.heartbeat_timeout;
        let now = self.now;
        let ready =
            |pending: &PendingLease| pending.op.is_none() && now >= pending.last_sent + retry_after;
        if !self.pending.as_ref().is_some_and(ready) {
            return;
        }
        let op = self.op();
        if let Some(pending) = &mut self.pending {
            pending.op = Some(op);
            pending.last_sent = now;
            let again = pending.write.clone();
            self.effects.push(Effect::Write(op, again, self.policy.heartbeat_timeout));
        }
    }

    pub(super) fn written(&mut self, op: OpId, outcome: WriteOutcome) -> Signal {
        if self.pending.as_ref().is_some_and(|pending| pending.op == Some(op)) {
            return self.lease_written(outcome);
        }
        if self.heartbeat.publishing.op == Some(op) {
            self.heartbeat_written(&outcome);
        } else if self.cluster_write.op == Some(op) {
            self.cluster_write.op = None;
            self.changed();
        } else {
            self.stale_completions += 1;
        }
        Signal::Look
    }

    fn lease_written(&mut self, outcome: WriteOutcome) -> Signal {
        let Some(mut pending) = self.pending.take() else { return Signal::Look };
        match outcome {
            WriteOutcome::Applied(revision) => self.applied(&pending, revision),
            WriteOutcome::Refused if pending.first_sent == pending.last_sent => {
                self.outdated = true;
                self.changed();
                Signal::Lease(LeaseAnswer::Refused(pending.purpose))
            }
            // Refused after an unknown try may mean that our own earlier try landed: read, compare.
            WriteOutcome::Refused | WriteOutcome::Unknown { .. } => {
                self.changed();
                pending.op = None;
                let purpose = pending.purpose;
                self.pending = Some(pending);
                Signal::Lease(LeaseAnswer::Unknown(purpose))
            }
        }
    }

    fn applied(&mut self, pending: &PendingLease, revision: Revision) -> Signal {
        self.raise_floor(pending.epoch, revision);
        Signal::Lease(LeaseAnswer::Applied {
            purpose: pending.purpose,
            epoch: pending.epoch,
            revision,
            sent: pending.first_sent,
        })
    }

    /// A read may show what became of a pending write: ours is there, or another one moved the key.
    fn resolve_pending(&mut self) -> Signal {
        let Some(pending) = self.pending.take_if(|pending| pending.op.is_none()) else {
            return Signal::Look;
        };
        let operation = operation(&self.id.boot, pending.write.number);
        let slot = self.view.lease_slot();
        if self.view.lease_operation() == Some(&operation) {
            let revision = slot.revision().unwrap_or_default();
            return self.applied(&pending, revision);
        }
        if slot.revision() > pending.write.expected {
            // Ours can no longer land.
            return Signal::Lease(LeaseAnswer::Refused(pending.purpose));
        }
        self.pending = Some(pending);
        Signal::Look
    }

    // ---- our own heartbeat and the cluster's description

    /// Writes our heartbeat when it is due. `witness_due` asks for one not older than that time.
    pub(super) fn drive_heartbeat(&mut self, status: State, witness_due: Option<Instant>) {
        if self.heartbeat.publishing.op.is_some() || self.now < self.next_heartbeat(witness_due) {
            return;
        }
        let record = self.heartbeat_record(status);
        let write = match self.heartbeat.publishing.write.take() {
            Some(unresolved) => unresolved,
            None => {
                let key = Key::Heartbeat(self.id.member.clone());
                self.heartbeat.seq += 1;
                self.store_write(key, self.heartbeat.revision, Record::Heartbeat(record))
            }
        };
        let op = self.op();
        self.effects.push(Effect::Write(op, write.clone(), self.policy.heartbeat_timeout));
        self.heartbeat.publishing =
            Publishing { op: Some(op), sent: Some(self.now), write: Some(write) };
        self.heartbeat.due = self.now + self.policy.heartbeat_interval;
    }

    /// When our next heartbeat is to be written.
    pub(super) fn next_heartbeat(&self, witness_due: Option<Instant>) -> Instant {
        let newest = self.heartbeat.applied.max(self.heartbeat.publishing.sent);
        let witness = witness_due.filter(|due| newest.is_none_or(|sent| sent < *due));
        witness.map_or(self.heartbeat.due, |due| due.min(self.heartbeat.due))
    }

    /// No heartbeat is on its way, and our name is ours.
    pub(super) fn heartbeat_may_go(&self) -> bool {
        self.heartbeat.publishing.op.is_none() && !self.name_contested()
    }

    /// Our state changed: say so at the next opportunity.
    pub(super) fn heartbeat_now(&mut self) {
        self.heartbeat.due = self.now;
    }

    fn heartbeat_written(&mut self, outcome: &WriteOutcome) {
        let sent = self.heartbeat.publishing.sent;
        self.heartbeat.publishing.op = None;
        match outcome {
            WriteOutcome::Applied(revision) => {
                self.heartbeat.publishing.write = None;
                self.heartbeat.revision = Some(*revision);
                self.heartbeat.applied = sent;
                self.heartbeat.failures = 0;
            }
            WriteOutcome::Refused => {
                // Another life of ours, or an unknown write of ours that landed: read, then go on.
                self.heartbeat.publishing.write = None;
                self.heartbeat.failures += 1;
                self.changed();
            }
            WriteOutcome::Unknown { may_land, .. } => {
                if !may_land {
                    self.heartbeat.publishing.write = None;
                }
                self.heartbeat.failures += 1;
            }
        }
    }

    /// Our heartbeats failed as often in a row as the policy allows.
    pub(super) fn heartbeats_fail(&self) -> bool {
        self.heartbeat.failures >= self.policy.failure_threshold
    }

    fn heartbeat_record(&self, status: State) -> Heartbeat {
        let lease = self.view.lease();
        let lag = match (lease, &self.database) {
            (Some(lease), Some(database)) => candidate::lag(lease, database.lsn),
            (Some(_) | None, _) => 0,
        };
        let eligible = match lease {
            Some(lease) => self.eligible(lease),
            None => Err(WhyNot::StoreUnseen),
        };
        Heartbeat {
            boot: self.id.boot.clone(),
            instance: self.id.instance.clone(),
            seq: self.heartbeat.seq + 1,
            status,
            epoch: lease.map_or(Epoch(0), |lease| lease.epoch),
            database: self.position(),
            address: self.id.address.clone(),
            priority: self.policy.priority,
            streaming: self.database.as_ref().is_some_and(|database| database.streaming),
            lag,
            ineligible: eligible.err().map(|why| why.to_string()),
        }
    }

    /// Whether this member could take over from the holder of `lease`.
    pub(super) fn eligible(&self, lease: &Lease) -> Result<(), WhyNot> {
        let fitness = Fitness {
            me: &self.id.member,
            database: self.database.as_ref(),
            priority: self.policy.priority,
            maximum_lag: self.policy.maximum_lag_on_failover,
            cooling_down: self.cooling_until.is_some_and(|until| self.now < until),
            watchdog_missing: self.watchdog_missing(),
        };
        candidate::eligible(&fitness, lease, self.view.cluster())
    }

    /// Members that would take over, best first.
    pub(super) fn line(&self) -> Vec<Candidate> {
        candidate::line(&self.view, self.now, self.policy.lease_duration + self.longest_gap())
    }

    /// The other member that would take over first.
    pub(super) fn best_other(&self) -> Option<MemberId> {
        let other = |candidate: &Candidate| candidate.member != self.id.member;
        self.line().into_iter().find(other).map(|candidate| candidate.member)
    }

    /// Our place in that line, counted from 0; its end when we are not in it.
    pub(super) fn place_in_line(&self) -> u32 {
        let line = self.line();
        let place = line.iter().position(|candidate| candidate.member == self.id.member);
        u32::try_from(place.unwrap_or(line.len())).unwrap_or(u32::MAX)
    }

    /// The database is configured to follow `upstream`.
    pub(super) fn follows(&self, upstream: &Upstream) -> bool {
        let address = (upstream.address.host.as_str(), upstream.address.port);
        let configured = self.database.as_ref().and_then(|seen| seen.upstream.as_ref());
        configured.is_some_and(|(host, port)| (host.as_str(), *port) == address)
    }

    /// Describes the cluster in the store when the description there is not right.
    pub(super) fn publish_cluster(&mut self, wanted: ClusterState) {
        let last = self.cluster_write.sent;
        let waiting = self.cluster_write.op.is_some()
            || last.is_some_and(|sent| self.view.last_read() <= Some(sent));
        if waiting || !self.view_is_fresh() || self.view.cluster() == Some(&wanted) {
            return;
        }
        if matches!(
            self.view.cluster_slot(),
            Slot::Invalid { why: super::records::Invalid::Schema(_), .. }
        ) {
            return;
        }
        let expected = self.view.cluster_slot().revision();
        let write = self.store_write(Key::ClusterState, expected, Record::ClusterState(wanted));
        let op = self.op();
        self.effects.push(Effect::Write(op, write, self.policy.heartbeat_timeout));
        self.cluster_write = Publishing { op: Some(op), sent: Some(self.now), write: None };
    }

    // ---- the database

    fn position(&self) -> Position {
        self.database.as_ref().map_or_else(Position::default, |database| Position {
            system: database.system,
            timeline: database.timeline,
            lsn: database.lsn,
            replayed: database.replayed,
        })
    }

    /// Identity of the cluster's data as far as anything we may trust says.
    pub(super) fn system(&self) -> Option<SystemId> {
        self.view.system().or(self.floor.as_ref().and_then(|floor| floor.system))
    }

    /// Starts an action in the name of `epoch`; one under way is cancelled.
    pub(super) fn act(&mut self, action: Action, epoch: Epoch, limit: Duration) {
        self.cancel();
        let op = self.op();
        self.effects.push(Effect::Act(op, action.clone(), epoch, limit));
        self.running = Some(Running { op, action });
    }

    /// Cancels the action under way; its completion will be ignored.
    pub(super) fn cancel(&mut self) {
        if let Some(running) = self.running.take() {
            self.effects.push(Effect::Cancel(running.op));
        }
    }

    /// An epoch of ours ended: nothing done in its name goes on.
    pub(super) fn epoch_ended(&mut self, ended: Epoch) {
        if ended >= self.epoch_of_tasks {
            self.epoch_of_tasks = ended.next();
            self.effects.push(Effect::EpochEnded(self.epoch_of_tasks));
        }
    }

    pub(super) fn acted(&mut self, op: OpId, outcome: ActionOutcome) -> Signal {
        match self.running.take_if(|running| running.op == op) {
            Some(running) => {
                // What was seen before the action says nothing about now.
                self.database = None;
                self.effects.push(Effect::Observe);
                Signal::Acted(running.action, outcome)
            }
            None => {
                self.stale_completions += 1;
                Signal::Look
            }
        }
    }

    pub(super) fn observed(&mut self, observation: Observation) {
        if self.running.is_none() {
            self.database = Some(observation);
        }
    }

    // ---- what is done at the end of every step

    /// Reads, and writes the floor, when due.
    pub(super) fn housekeeping(&mut self) {
        if self.read.is_none() && self.now >= self.read_due {
            let op = self.op();
            self.read = Some(op);
            self.reread = false;
            self.effects.push(Effect::Read(op, self.policy.heartbeat_timeout));
        }
        self.remember();
    }

    fn remember(&mut self) {
        let Some(floor) = self.floor.clone().filter(|_| self.remembering.is_none()) else { return };
        let important = self.remembered.as_ref().is_none_or(|known| {
            known.epoch != floor.epoch
                || known.incarnation != floor.incarnation
                || known.system != floor.system
        });
        let moved = self.remembered.as_ref() != Some(&floor);
        let failed_lately =
            self.alarms.contains(&Alarm::FloorNotWritten) && self.now < self.remember_due;
        if failed_lately || !(important || moved && self.now >= self.remember_due) {
            return;
        }
        let op = self.op();
        self.remember_due = self.now + REMEMBER_INTERVAL;
        self.remembering = Some((op, floor.clone()));
        self.effects.push(Effect::Remember(op, floor));
    }

    /// When housekeeping wants to be called again.
    pub(super) fn housekeeping_due(&self) -> Option<Instant> {
        let read = self.read.is_none().then_some(self.read_due);
        let retry = self.alarms.contains(&Alarm::FloorNotWritten).then_some(self.remember_due);
        [read, retry].into_iter().flatten().min()
    }

    /// When a pending write to the lease is to be sent again, or the next renewal is due.
    pub(super) fn renewal_due(&self, held: Option<&Held>) -> Option<Instant> {
        match &self.pending {
            Some(pending) => {
                pending.op.is_none().then(|| pending.last_sent + self.policy.heartbeat_timeout)
            }
            None => held.map(|held| held.next_renewal),
        }
    }
}

/// Name of a write in the store: what its record's header says as `operation`.
pub fn operation(boot: &BootId, number: u64) -> String {
    format!("{boot}-{number}")
}

/// Header of a write by this agent.
pub fn header(id: &Identity, incarnation: &super::ids::Incarnation, number: u64) -> Header {
    Header {
        incarnation: incarnation.clone(),
        operation: operation(&id.boot, number),
        member: id.member.clone(),
        boot: id.boot.clone(),
    }
}
