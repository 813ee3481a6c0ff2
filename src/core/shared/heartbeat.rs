//! Our own heartbeat as a replica.

use super::{Publishing, Shared};
use crate::core::candidate::{self, WhyNot};
use crate::core::event::{Effect, State, WriteOutcome};
use crate::core::ids::Epoch;
use crate::core::records::{Heartbeat, Key, Record};
use crate::core::time::Instant;

impl Shared {
    /// Writes our heartbeat when it is due. `witness_due` asks for one not older than that time.
    pub(in crate::core) fn drive_heartbeat(&mut self, status: State, witness_due: Option<Instant>) {
        if self.heartbeat.publishing.op.is_some() || self.now < self.next_heartbeat(witness_due) {
            return;
        }
        let record = self.heartbeat_record(status);
        let key = Key::Heartbeat(self.id.member.clone());
        self.heartbeat.seq += 1;
        let write = self.store_write(key, self.heartbeat.revision, Record::Heartbeat(record));
        let op = self.op();
        self.effects.push(Effect::Write(op, write, self.policy.heartbeat_timeout));
        self.heartbeat.publishing = Publishing { op: Some(op), sent: Some(self.now) };
        self.heartbeat.witness = witness_due.is_some_and(|due| self.now >= due);
        self.heartbeat.due = self.now + self.policy.heartbeat_interval;
    }

    /// When our next heartbeat is to be written.
    pub(in crate::core) fn next_heartbeat(&self, witness_due: Option<Instant>) -> Instant {
        let newest = self.heartbeat.applied.max(self.heartbeat.publishing.sent);
        let witness = witness_due.filter(|due| newest.is_none_or(|sent| sent < *due));
        witness.map_or(self.heartbeat.due, |due| due.min(self.heartbeat.due))
    }

    /// No heartbeat is on its way, and our name is ours.
    pub(in crate::core) fn heartbeat_may_go(&self) -> bool {
        self.heartbeat.publishing.op.is_none() && !self.name_contested()
    }

    /// Our state changed: say so at the next opportunity.
    pub(in crate::core) fn heartbeat_now(&mut self) {
        self.heartbeat.due = self.now;
    }

    pub(super) fn heartbeat_written(&mut self, outcome: &WriteOutcome) {
        let sent = self.heartbeat.publishing.sent;
        self.heartbeat.publishing.op = None;
        match outcome {
            WriteOutcome::Applied(revision) => {
                self.heartbeat.revision = Some(*revision);
                self.heartbeat.applied = sent;
                self.heartbeat.failures = 0;
                if self.heartbeat.witness {
                    self.changed();
                }
            }
            WriteOutcome::Refused => {
                // Another life of ours, or an unknown write of ours that landed, or a store that was
                // restored: whatever the next read shows is what the next one compares against.
                self.heartbeat.revision = None;
                self.heartbeat.failures += 1;
                self.changed();
            }
            WriteOutcome::Unknown { .. } | WriteOutcome::Rejected(_) => {
                // Sent again it would say what is no longer true: read what became of it, write anew.
                self.heartbeat.failures += 1;
                self.changed();
            }
        }
    }

    /// Our heartbeats failed as often in a row as the policy allows.
    pub(in crate::core) fn heartbeats_fail(&self) -> bool {
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
            database: self.position,
            address: self.id.address.clone(),
            priority: self.policy.priority,
            site: self.policy.site.clone(),
            streaming: self.database.as_ref().is_some_and(|database| database.streaming),
            lag,
            ineligible: eligible.err().map(|why| why.to_string()),
            doubtful: self.database.as_ref().and_then(|database| database.doubtful.clone()),
        }
    }
}
