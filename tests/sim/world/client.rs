//! Clients that commit on whatever member they are pinned to, and the replication of what they wrote.

use super::fault::Kind;
use super::history::Streams;
use super::{Fact, Item, World};

impl World {
    /// A pause between two commits, or two parcels of the log. Without chance a quarter of a heartbeat
    /// interval: more of them are only more of the same.
    fn traffic(&mut self, from: u64, to: u64) -> u64 {
        match self.rng.is_calm() {
            true => super::agent::nanos(self.setup.policy.heartbeat_interval) / 4,
            false => self.some(from, to),
        }
    }

    /// The client of a member tries to commit.
    pub(crate) fn client(&mut self, m: usize) {
        let pause = self.traffic(100, 400);
        self.later(pause, Item::Client(m));
        if !self.can_acknowledge(m) {
            return;
        }
        let size = self.rng.range(8, 64) * 8;
        let Some(data) = &mut self.machines[m].db.data else { return };
        self.branches.append(&mut data.place, size, true);
        let place = data.place;
        self.acknowledged.push((m, place));
    }

    /// A standby receives what there is.
    pub(crate) fn stream(&mut self, m: usize) {
        let pause = self.traffic(60, 240);
        self.later(pause, Item::Stream(m));
        let source = self.machines[m].db.data.as_ref().and_then(|data| data.upstream);
        let Some(source) = source else {
            self.machines[m].db.streaming = None;
            return;
        };
        let streams = self.streams_from(m, source);
        let full = self.fault_on(m, Kind::FillDisk);
        if full || !matches!(streams, Some(Streams::Yes | Streams::Unnoticed)) {
            self.machines[m].db.streaming = None;
            return;
        }
        self.machines[m].db.streaming = Some(source);
        if streams == Some(Streams::Unnoticed) {
            self.fact(Fact::Diverged(m, source));
        }
        if self.fault_on(m, Kind::Lag) || self.rng.chance(10) {
            return;
        }
        let Some(place) = self.machines[source].db.data.as_ref().map(|data| data.place) else {
            return;
        };
        if let Some(data) = &mut self.machines[m].db.data {
            data.place = place;
        }
    }
}
