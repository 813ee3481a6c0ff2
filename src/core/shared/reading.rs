//! Reading the store, and the floor that no restart may forget.

use std::time::Duration;

use super::{REMEMBER_INTERVAL, Shared, Signal};
use crate::core::event::{Alarm, Effect, Floor, ReadFailure};
use crate::core::ids::{Epoch, OpId, Revision};
use crate::core::records::{Slot, Snapshot};
use crate::core::time::Instant;

impl Shared {
    /// The longest time between two reads that still counts as unbroken access to the store.
    pub(in crate::core) fn longest_gap(&self) -> Duration {
        self.policy.heartbeat_interval * 2 + self.policy.heartbeat_timeout
    }

    /// The view was read lately enough to decide on.
    pub(in crate::core) fn view_is_fresh(&self) -> bool {
        self.outdated.is_none() && self.view.is_fresh(self.now, self.longest_gap())
    }

    /// Something changed in the store: read as soon as possible.
    pub(in crate::core) fn changed(&mut self) {
        self.read_due = self.now;
        self.reread = true;
    }

    /// The view is known to be behind: nothing is decided on it before a read that begins from now on.
    pub(in crate::core) fn outdate(&mut self) {
        self.outdated = Some(OpId(self.next_op));
        self.changed();
    }

    pub(in crate::core) fn read_done(
        &mut self,
        op: OpId,
        answer: Result<Snapshot, ReadFailure>,
    ) -> Signal {
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
            // Begun before a write of ours was applied, it may show what was there before.
            Ok(snapshot) if self.predates(op, &snapshot) => {
                self.changed();
                Signal::Look
            }
            Ok(snapshot) => {
                self.outdated = self.outdated.filter(|outdated| op <= *outdated);
                let gap = self.longest_gap();
                self.view.update(self.now, snapshot, self.floor.as_ref(), gap);
                self.heed_settings();
                self.set_alarm(Alarm::StoreRejects, self.writes_rejected);
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

    /// The read was begun before our latest write to the lease was applied, and does not show it.
    fn predates(&self, op: OpId, snapshot: &Snapshot) -> bool {
        let written = self.floor.as_ref().map(|floor| floor.revision);
        self.raised_at.is_some_and(|raised| op <= raised) && snapshot.lease.revision() < written
    }

    fn note_view(&mut self) {
        let not_obeyed = !self.view.obeyed();
        self.set_alarm(Alarm::StoreNotObeyed, not_obeyed);
        let invalid = !self.view.invalid().is_empty();
        self.set_alarm(Alarm::RecordInvalid, invalid);
        self.learn_floor();
        self.note_admitted();
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
            bound: self.bound_by_view(),
        };
        self.floor = Some(floor);
    }

    /// Our own applied write raises the floor without waiting for a read.
    pub(super) fn raise_floor(&mut self, epoch: Epoch, revision: Revision) {
        self.raised_at = Some(OpId(self.next_op));
        if let Some(floor) = &mut self.floor {
            floor.epoch = floor.epoch.max(epoch);
            floor.revision = floor.revision.max(revision);
        }
    }

    /// The floor on disk covers `epoch`.
    pub(in crate::core) fn has_remembered(&self, epoch: Epoch) -> bool {
        self.remembered.as_ref().is_some_and(|floor| floor.epoch >= epoch)
    }

    pub(in crate::core) fn remembered(&mut self, op: OpId, written: bool) {
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

    // ---- what is done at the end of every step

    /// Reads, and writes the floor, when due.
    pub(in crate::core) fn housekeeping(&mut self) {
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
                || known.bound != floor.bound
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
    pub(in crate::core) fn housekeeping_due(&self) -> Option<Instant> {
        let read = self.read.is_none().then_some(self.read_due);
        let retry = self.alarms.contains(&Alarm::FloorNotWritten).then_some(self.remember_due);
        [read, retry].into_iter().flatten().min()
    }
}
