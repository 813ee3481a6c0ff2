//! Clients that commit on whatever member they are pinned to, and the replication of what they wrote.

use harmony_agent::core::synchronous::Requirement;

use super::fault::{Kind, spoken};
use super::history::{Place, Streams};
use super::{Fact, Item, World};
use crate::sim::mutant::Mutant;

/// Commits of one member's clients that can wait for standbys at a time.
const SESSIONS: usize = 5;

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
        if !self.can_acknowledge(m) || self.machines[m].db.waiting.len() >= SESSIONS {
            return;
        }
        let size = self.rng.range(8, 64) * 8;
        let Some(data) = &mut self.machines[m].db.data else { return };
        self.branches.append(&mut data.place, size, true);
        let place = data.place;
        if self.setup.waits_for_standbys() {
            self.machines[m].db.waiting.push(place);
            self.release(m);
        } else {
            self.acknowledge(m, place);
        }
    }

    fn acknowledge(&mut self, m: usize, place: Place) {
        let before = self.latest.replace((m, self.now));
        self.fact(Fact::Acknowledged(m, place));
        if self.log.is_none() {
            return;
        }
        self.acknowledged.push(place);
        let (now, pause) = (self.now, self.setup.scaled(1_500));
        let own = self.machines[m].committed.replace(now);
        if own.is_some_and(|at| now - at <= pause) {
            return;
        }
        let (name, gap) = (self.name(m), before.map_or(0, |(_, at)| now - at));
        if gap > pause {
            self.say(format_args!("clients: {name} commits, after {} without", spoken(gap)));
        } else {
            self.say(format_args!("clients: {name} commits"));
        }
    }

    // ---- synchronous replication

    /// Members whose standbys have to have a commit of `m`; `None`: no commit is acknowledged.
    fn required_standbys(&self, m: usize) -> Option<Vec<usize>> {
        let all = 0..self.setup.members;
        if self.setup.synchronous {
            return Some(all.filter(|it| *it != m && self.machines[*it].joined).collect());
        }
        match &self.machines[m].db.requirement.0 {
            None | Some(Requirement::Nobody) => Some(Vec::new()),
            Some(Requirement::Unsatisfiable | Requirement::Withheld(_)) => None,
            Some(Requirement::All(members)) => {
                Some(all.filter(|it| members.contains(&self.machines[*it].member)).collect())
            }
        }
    }

    /// A standby says how far it has flushed.
    pub(crate) fn hears_of_flush(&mut self, m: usize, server: u64, standby: usize, place: Place) {
        let cut = self.net.cut.contains(&(standby, m));
        let db = &mut self.machines[m].db;
        if db.server_number != server || !db.is_primary() || cut {
            return;
        }
        db.flushed.insert(standby, place);
        self.release(m);
    }

    /// Clients hear of the commits that all standbys they wait for have.
    pub(crate) fn release(&mut self, m: usize) {
        while let Some(first) = self.machines[m].db.waiting.first().copied() {
            let flushed = &self.machines[m].db.flushed;
            let has = |standby: usize| {
                flushed
                    .get(&standby)
                    .is_some_and(|has| has.branch == first.branch && has.lsn >= first.lsn)
            };
            let enough = self.required_standbys(m).is_some_and(|standbys| {
                let mut standbys = standbys.into_iter();
                match self.setup.mutant {
                    Some(Mutant::AnyStandby) => standbys.any(has),
                    _ => standbys.all(has),
                }
            });
            if !enough || !self.can_acknowledge(m) {
                return;
            }
            self.machines[m].db.waiting.remove(0);
            self.acknowledge(m, first);
        }
    }

    /// A server came up as a primary.
    pub(crate) fn opened(&mut self, m: usize) {
        self.fact(Fact::Opened(m));
        let Some(data) = &self.machines[m].db.data else { return };
        let all = self.acknowledged.len();
        let has = |place: &&Place| self.branches.contains(data.place, **place);
        let lost = all - self.acknowledged.iter().filter(has).count();
        if all > 0 {
            let name = self.name(m);
            self.say(format_args!("{name}: {lost} of {all} acknowledged commits are missing here"));
        }
    }

    // ---- replication

    /// A standby receives what there is.
    pub(crate) fn stream(&mut self, m: usize) {
        let pause = self.traffic(60, 240);
        self.later(pause, Item::Stream(m));
        let source = self.machines[m].db.data.as_ref().and_then(|data| data.upstream);
        let Some(source) = source else {
            self.machines[m].db.streaming = None;
            return;
        };
        if self.machines[m].db.streaming == Some(source) && self.hears_goodbye(m, source) {
            return;
        }
        let streams = self.streams_from(m, source);
        let full = self.fault_on(m, Kind::FillDisk);
        if full || !matches!(streams, Some(Streams::Yes | Streams::Unnoticed)) {
            self.machines[m].db.streaming = None;
            // Its walsender ends.
            self.machines[source].db.flushed.remove(&m);
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
        if self.setup.waits_for_standbys() {
            let server = self.machines[source].db.server_number;
            let delay = self.some(1, 20);
            self.later(delay, Item::Flushed(source, server, m, place));
        }
    }
}
