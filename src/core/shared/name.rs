//! Whether another agent uses our member name.

use serde::{Deserialize, Serialize};

use super::Shared;
use crate::core::event::Alarm;
use crate::core::ids::Revision;
use crate::core::records::Slot;

/// What is known of our name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Name {
    /// Not known yet.
    #[default]
    Unchecked,
    /// Records under our name were written by another instance; these were seen first.
    Contested(Foreign),
    /// Another agent with our name is alive.
    Taken,
    /// Ours; the records of a former life that are left do not change any more.
    Clear(Foreign),
}

/// Revisions of the records under our name that another instance wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Foreign {
    lease: Option<Revision>,
    heartbeat: Option<Revision>,
}

impl Foreign {
    /// A foreign record that was not there at `before`: whoever writes it is alive.
    fn moved_since(self, before: Self) -> bool {
        self.lease.is_some() && self.lease != before.lease
            || self.heartbeat.is_some() && self.heartbeat != before.heartbeat
    }

    fn nothing(self) -> bool {
        self == Self::default()
    }
}

impl Shared {
    /// Another agent uses our member name, or it is not known yet. Nothing is written meanwhile.
    pub(in crate::core) fn name_contested(&self) -> bool {
        !matches!(self.name, Name::Clear(_))
    }

    /// Another agent with our member name is alive: this one has to go.
    pub(in crate::core) fn name_taken(&self) -> bool {
        self.name == Name::Taken
    }

    /// Looks for another agent with our member name: a record under it, by another instance, that
    /// keeps changing is alive (this agent stops); one that does not is a former life of ours.
    pub(in crate::core) fn check_name(&mut self) {
        if self.view.last_read().is_none() {
            return;
        }
        let found = self.foreign_records();
        self.name = match self.name {
            Name::Unchecked if found.nothing() => Name::Clear(found),
            Name::Unchecked => Name::Contested(found),
            Name::Contested(first) if found.moved_since(first) => {
                self.raise(Alarm::NameTaken);
                Name::Taken
            }
            Name::Contested(_) if self.is_silent(found) => Name::Clear(found),
            // One that started at the same time as we did shows only now.
            Name::Clear(before) if found.moved_since(before) => Name::Contested(found),
            unchanged @ (Name::Contested(_) | Name::Clear(_) | Name::Taken) => unchanged,
        };
    }

    fn foreign_records(&self) -> Foreign {
        let lease = match self.view.lease_slot() {
            Slot::Valid { record, revision, .. }
                if record.holder == self.id.member && record.instance != self.id.instance =>
            {
                Some(*revision)
            }
            Slot::Valid { .. } | Slot::Absent | Slot::Invalid { .. } => None,
        };
        let heartbeat = match self.view.heartbeat_slot(&self.id.member) {
            Some(Slot::Valid { record, revision, .. }) if record.instance != self.id.instance => {
                Some(*revision)
            }
            Some(Slot::Valid { .. } | Slot::Absent | Slot::Invalid { .. }) | None => None,
        };
        Foreign { lease, heartbeat }
    }

    /// None of these records has changed for as long as a failover takes.
    fn is_silent(&self, found: Foreign) -> bool {
        let published = self.view.lease().map_or(self.policy.lease_duration, |l| l.lease_duration);
        let patience = self.policy.failover_timeout(published.max(self.policy.lease_duration));
        let lease = self.view.window_start().filter(|_| found.lease.is_some());
        let heartbeat = self.view.heartbeat_age(&self.id.member, self.now);
        let heartbeat = heartbeat.filter(|_| found.heartbeat.is_some());
        let ages = [lease.map(|since| self.now.since(since)), heartbeat];
        found.nothing()
            || self.view_is_fresh() && ages.into_iter().flatten().all(|age| age >= patience)
    }
}
