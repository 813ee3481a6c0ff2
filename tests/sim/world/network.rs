//! What is between machines: requests to the store and their answers, and who reaches whom.

use std::collections::BTreeSet;

use harmony_agent::core::event::{Event, ReadFailure, StoreWrite, WriteOutcome};
use harmony_agent::core::ids::{Incarnation, OpId, TimelineId};
use harmony_agent::core::order::Wish;
use harmony_agent::core::records::{
    ClusterSettings, Header, Key, Lease, MemberSettings, Record, Release, Slot, Snapshot,
};
use harmony_agent::core::time::Instant;
use harmony_agent::core::token::Token;

use super::agent::Open;
use super::machine::Machine;
use super::store::Contents;
use super::{Fact, Item, LeaseWritten, World, Written};
use crate::sim::mutant::Mutant;
use crate::sim::setup::MS;

/// Something asked of the store.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Request {
    pub(crate) from: usize,
    pub(crate) life: u32,
    pub(crate) op: OpId,
    /// When this copy of it was sent, by the sender's clock.
    pub(crate) sent: Instant,
    /// The same in true time.
    pub(crate) sent_at: u64,
    /// The life of the store that the sender opened.
    pub(crate) incarnation: Incarnation,
    pub(crate) what: What,
    pub(crate) reply: Reply,
}

/// What becomes of the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Usual,
    Lost,
    /// So many nanoseconds later than usual.
    Late(u64),
}

#[allow(clippy::large_enum_variant, reason = "on its way in a box")]
#[derive(Clone, Debug, Hash)]
pub(crate) enum What {
    Read,
    Write(StoreWrite, Header),
}

/// What the store says.
#[allow(clippy::large_enum_variant, reason = "on its way in a box")]
#[derive(Clone, Debug, Hash)]
pub(crate) enum Answer {
    Read(Result<Snapshot, ReadFailure>),
    Written(WriteOutcome),
}

/// How a machine's way to the store is.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Way {
    /// Requests do not arrive.
    pub(crate) cut_to: bool,
    /// Answers and hints do not arrive.
    pub(crate) cut_from: bool,
    /// Up to so much longer than usual, in nanoseconds.
    pub(crate) slow: u64,
    /// Writes arrive up to a minute late.
    pub(crate) late: bool,
    /// What is sent arrives twice, the second time late.
    pub(crate) twice: bool,
    pub(crate) hints_lost: bool,
    /// Hints arrive late, and again and again.
    pub(crate) hints_again: bool,
    /// Reads are served from what was there some time ago.
    pub(crate) stale: Option<Contents>,
    /// What they say of the cluster is from some time ago.
    pub(crate) torn: Option<Contents>,
}

/// See the module's documentation.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Network {
    pub(crate) ways: Vec<Way>,
    /// Pairs of machines between which nothing goes from the first to the second.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Requests that wait in somebody's buffer until a way is mended.
    held: Vec<Request>,
}

impl Network {
    pub(crate) fn new(machines: usize) -> Self {
        Self { ways: vec![Way::default(); machines], cut: BTreeSet::new(), held: Vec::new() }
    }

    /// Both directions work.
    pub(crate) fn connected(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }
}

impl World {
    pub(crate) fn send(&mut self, mut request: Request) {
        let m = request.from;
        let Some(chosen) = self.fate_of(&mut request) else { return };
        let (slow, late, twice) = {
            let way = &self.net.ways[m];
            (way.slow, way.late, way.twice)
        };
        let mut delay = self.some(1, 8) + self.rng.below(slow + 1) + chosen;
        let is_write = matches!(request.what, What::Write(..));
        if is_write && late && self.rng.chance(70) {
            delay = self.some(200, 60_000);
        }
        if is_write && twice {
            let again = self.some(1, 60_000);
            self.later(again, Item::Request(Box::new(request.clone())));
        }
        self.later(delay, Item::Request(Box::new(request)));
    }

    /// The store gets a request.
    pub(crate) fn request_arrives(&mut self, request: Request) {
        let m = request.from;
        if self.net.ways[m].cut_to || !self.store.up {
            // Somebody's buffer may keep it until there is a way.
            if self.rng.chance(50) || self.choose_fault(2) == 1 {
                self.net.held.push(request);
            }
            return;
        }
        let answer = self.serve(&request);
        let late = match request.reply {
            Reply::Usual => 0,
            Reply::Late(late) => late,
            Reply::Lost => return,
        };
        if self.net.ways[m].cut_from {
            return;
        }
        let slow = self.net.ways[m].slow;
        let delay = self.some(1, 8) + self.rng.below(slow + 1) + late;
        let answer = Item::Answer(m, request.life, request.op, Box::new(answer));
        self.later(delay, answer);
    }

    fn serve(&mut self, request: &Request) -> Answer {
        let known = request.incarnation == self.store.incarnation;
        match &request.what {
            What::Read if !known => {
                Answer::Read(Err(ReadFailure::Rejected("another incarnation".to_owned())))
            }
            What::Write(..) if !known => {
                Answer::Written(WriteOutcome::Rejected("another incarnation".to_owned()))
            }
            What::Read => {
                let way = &self.net.ways[request.from];
                let contents = way.stale.as_ref().unwrap_or(&self.store.now);
                let mut snapshot = contents.snapshot(&self.store.incarnation);
                if let Some(torn) = &way.torn {
                    snapshot.cluster = torn.snapshot(&self.store.incarnation).cluster;
                }
                Answer::Read(Ok(snapshot))
            }
            What::Write(write, header) => Answer::Written(self.apply_write(request, write, header)),
        }
    }

    fn apply_write(&mut self, request: &Request, write: &StoreWrite, by: &Header) -> WriteOutcome {
        let is_lease = write.key == Key::Lease;
        let before = self.store.lease().filter(|_| is_lease).map(|(lease, ..)| lease.clone());
        let before_cluster = self.store.cluster().and_then(|cluster| cluster.answer.clone());
        let bad = if write.key == Key::Lease { self.store.bad_lease() } else { None };
        let found = self.store.revision(&write.key);
        let blind = (self.setup.mutant == Some(Mutant::BlindWrites))
            .then(|| StoreWrite { expected: found, ..write.clone() });
        let outcome = self.store.write(self.now, blind.as_ref().unwrap_or(write), by);
        let WriteOutcome::Applied(revision) = outcome else { return outcome };
        let again = found == Some(revision);
        if !again {
            let (by, key) = (Some(request.from), write.key.clone());
            let revisions = (found, revision);
            let written = Written { by, key, expected: write.expected, revisions };
            self.fact(Fact::Written(Box::new(written)));
        }
        if !again && let (Key::Lease, Record::Lease(lease)) = (&write.key, &write.record) {
            let renewal = lease.seq > 0 && lease.released.is_none();
            if !renewal || !self.brief && lease.seq.is_multiple_of(10) {
                self.say(format_args!("store: {}", describe(lease)));
            }
            let lease = lease.clone();
            let written = LeaseWritten {
                by: request.from,
                sent: request.sent,
                sent_at: request.sent_at,
                expected: write.expected,
                before,
                bad,
                lease,
            };
            self.usurped |= request.from >= self.setup.members;
            self.fact(Fact::LeaseWritten(Box::new(written)));
        }
        if !again {
            self.say_answer(&write.record, before_cluster.as_ref());
            self.hint();
        }
        outcome
    }

    /// Tells everybody that something changed.
    pub(crate) fn hint(&mut self) {
        for m in 0..self.machines.len() {
            let way = &self.net.ways[m];
            let deaf = way.hints_lost || way.cut_from || self.machines[m].suspended;
            let life = self.machines[m].agent.as_ref().filter(|agent| agent.store.is_some());
            let Some(life) = life.filter(|_| !deaf).map(|agent| agent.life) else { continue };
            if self.net.ways[m].hints_again {
                for _ in 0..3 {
                    let late = self.some(200, 60_000);
                    self.later(late, Item::Hint(m, life));
                }
                continue;
            }
            let delay = self.some(1, 10);
            self.later(delay, Item::Hint(m, life));
            if self.rng.chance(1) {
                let again = self.some(1_000, 60_000);
                self.later(again, Item::Hint(m, life));
            }
        }
    }

    /// What waits in buffers goes on its way, if there is one now.
    pub(crate) fn flush(&mut self) {
        for request in std::mem::take(&mut self.net.held) {
            let delay = self.some(1, 5_000);
            self.later(delay, Item::Request(Box::new(request)));
        }
    }

    /// The agent tries to open the store.
    pub(crate) fn connect(&mut self, m: usize) {
        let way = &self.net.ways[m];
        let open = !way.cut_to && !way.cut_from && self.store.up;
        let incarnation = self.store.incarnation.clone();
        let Some(agent) = &mut self.machines[m].agent else { return };
        if open {
            agent.store = Some(incarnation);
            self.feed(m, Event::Changed);
        } else {
            let life = agent.life;
            let pause = self.some(500, 1_500);
            self.later(pause, Item::Connect(m, life));
        }
    }

    /// The store answers an operation of the agent, if it still waits for it.
    pub(crate) fn answer(&mut self, m: usize, op: OpId, answer: Answer) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        if agent.open.remove(&op).is_none() {
            return;
        }
        if let Answer::Read(Ok(snapshot)) = &answer {
            agent.told.read(snapshot);
        }
        let event = match answer {
            Answer::Read(answer) => Event::Read(op, self.tampered(m, answer)),
            Answer::Written(outcome) => Event::Written(op, outcome),
        };
        self.feed(m, event);
    }

    fn tampered(
        &mut self,
        m: usize,
        answer: Result<Snapshot, ReadFailure>,
    ) -> Result<Snapshot, ReadFailure> {
        let Some(mutant) = self.setup.mutant else { return answer };
        answer.map(|snapshot| match mutant {
            Mutant::ImpatientCandidate => {
                let mut snapshot = snapshot;
                let member = &self.machines[m].member;
                if let Slot::Valid { record, .. } = &mut snapshot.lease
                    && record.holder != *member
                {
                    record.lease_duration /= 3;
                }
                snapshot
            }
            Mutant::BadDataObeyed => self.obeying(snapshot),
            Mutant::PauseIgnored
            | Mutant::OrderOfAnyEpoch
            | Mutant::LossAccepted
            | Mutant::SettingsUnheard => asked_otherwise(mutant, snapshot),
            Mutant::TokenKept => self.keeping_token(m, snapshot),
            Mutant::AdmitsItself => self.admitting_itself(m, snapshot),
            Mutant::BadDataCrashes => {
                assert!(!matches!(snapshot.lease, Slot::Invalid { .. }), "unexpected lease");
                snapshot
            }
            _ => snapshot,
        })
    }

    /// What is released to the agent comes with the latest token.
    fn keeping_token(&self, m: usize, mut snapshot: Snapshot) -> Snapshot {
        if let Slot::Valid { record, .. } = &mut snapshot.lease
            && let Some(release) = &mut record.released
            && release.to.as_ref() == Some(&self.machines[m].member)
            && let Some(given) = self.tokens.last()
        {
            let any = Token { timeline: TimelineId(u32::MAX), ..given.token.clone() };
            release.token.get_or_insert(any);
        }
        snapshot
    }

    /// The agent is a member in whatever it reads.
    fn admitting_itself(&self, m: usize, mut snapshot: Snapshot) -> Snapshot {
        let Machine { member, instance, .. } = &self.machines[m];
        if let Slot::Valid { record, .. } = &mut snapshot.cluster
            && let Some(primary) = record.members.get(&record.primary).cloned()
        {
            record.removed.remove(member);
            let own = MemberSettings { instance: instance.clone(), ..primary };
            record.members.insert(member.clone(), own);
        }
        snapshot
    }

    /// What is not to be obeyed, taken for the last good lease there was.
    fn obeying(&self, mut snapshot: Snapshot) -> Snapshot {
        if let Slot::Invalid { revision, .. } = snapshot.lease
            && let Some((record, header, created)) = self.store.good_lease()
        {
            snapshot.lease = Slot::Valid { record, header, revision, created };
        }
        snapshot
    }

    /// The agent does not wait any longer.
    pub(crate) fn give_up(&mut self, m: usize, op: OpId) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        let event = match agent.open.remove(&op) {
            None => return,
            Some(Open::Read) => {
                Event::Read(op, Err(ReadFailure::Unavailable("no answer in time".to_owned())))
            }
            Some(Open::Write) => {
                let cause = "no answer in time".to_owned();
                let lie = self.setup.mutant == Some(Mutant::TimeoutIsSuccess);
                let revision = self.store.lease().map(|(.., revision)| revision);
                match revision.filter(|_| lie) {
                    Some(revision) => Event::Written(op, WriteOutcome::Applied(revision)),
                    None => Event::Written(op, WriteOutcome::Unknown { may_land: true, cause }),
                }
            }
        };
        self.feed(m, event);
    }
}

/// What a person asked for, with a guard of it removed.
fn asked_otherwise(mutant: Mutant, mut snapshot: Snapshot) -> Snapshot {
    let epoch = snapshot.lease.record().map(|lease| lease.epoch);
    let Slot::Valid { record, .. } = &mut snapshot.cluster else { return snapshot };
    if mutant == Mutant::PauseIgnored {
        record.paused = None;
    }
    if mutant == Mutant::SettingsUnheard {
        record.settings = ClusterSettings::default();
    }
    if let (Some(order), Some(epoch)) = (&mut record.order, epoch) {
        match mutant {
            Mutant::OrderOfAnyEpoch => order.epoch = epoch,
            Mutant::LossAccepted => {
                if let Wish::Failover { accept_loss } = &mut order.wish {
                    *accept_loss = true;
                }
            }
            _ => {}
        }
    }
    snapshot
}

/// A lease for people.
pub(crate) fn describe(lease: &Lease) -> String {
    let (holder, epoch) = (&lease.holder, lease.epoch);
    match &lease.released {
        Some(Release { to: Some(to), .. }) => {
            format!("{holder} releases the lease to {to}, epoch {epoch}")
        }
        Some(_) => format!("{holder} releases the lease, epoch {epoch}"),
        None if lease.seq == 0 => format!("{holder} takes the lease, epoch {epoch}"),
        None => format!("{holder} has the lease, epoch {epoch}, renewal {}", lease.seq),
    }
}

/// A tiny delay of something on one machine.
pub(crate) const MOMENT: u64 = MS / 5;
