//! Reports on their way into the journal, as `src/runtime/journal.rs` takes them there: read what is at the
//! place, replace it by a compare-and-set if it may be, try again for about a minute.
//!
//! Nothing is drawn for it, so that a seed's world is the same with reports and without; and the exhaustive
//! search leaves them out, because no core reads them.

use harmony_agent::core::Identity;
use harmony_agent::core::event::{StoreWrite, WriteOutcome};
use harmony_agent::core::ids::Revision;
use harmony_agent::core::journal::{self, Place, Report};
use harmony_agent::core::records::{Header, Key, Record};

use super::{Fact, Item, World};
use crate::sim::mutant::Mutant;
use crate::sim::setup::MS;

/// A write of a report on its way.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Draft {
    report: Box<Report>,
    header: Header,
    key: Key,
    expected: Option<Revision>,
    tries: u32,
}

/// Tries before a report is given up.
const MOST_TRIES: u32 = 7;

impl World {
    /// The agent of a machine has a report to write.
    pub(crate) fn report(&mut self, m: usize, mut report: Box<Report>, tries: u32) {
        let Some(agent) = &self.machines[m].agent else { return };
        if self.setup.terms.is_some() || tries >= MOST_TRIES {
            return;
        }
        if self.setup.mutant == Some(Mutant::ReportOfAnother) {
            report.holder = "nobody".parse().unwrap();
        }
        let (life, id) = (agent.life, agent.core.identity().clone());
        let way = &self.net.ways[m];
        let there = self.store.up && !way.cut_to && !way.cut_from;
        if !there || agent.store.as_ref() != Some(&self.store.incarnation) {
            return self.report_again(m, life, report, tries);
        }
        let blind = self.setup.mutant == Some(Mutant::ReportOverLater);
        let key = if blind { Key::Journal(0) } else { journal::key(report.epoch) };
        let place = journal::place(&self.store.journal(&key), report.epoch, &id.boot);
        let expected = match place {
            _ if blind => self.store.revision(&key),
            Place::Free(expected) => expected,
            Place::Written | Place::Taken => return,
        };
        let header = self.header_of(&id, &report, tries);
        let draft = Draft { report, header, key, expected, tries };
        self.later(5 * MS, Item::Reported(m, life, Box::new(draft)));
    }

    fn header_of(&self, id: &Identity, report: &Report, tries: u32) -> Header {
        Header {
            incarnation: self.store.incarnation.clone(),
            operation: format!("{}-journal-{}-{tries}", id.boot, report.epoch),
            member: id.member.clone(),
            boot: id.boot.clone(),
        }
    }

    fn report_again(&mut self, m: usize, life: u32, report: Box<Report>, tries: u32) {
        self.later((1_000 * MS) << tries, Item::Report(m, life, report, tries + 1));
    }

    /// It arrives.
    pub(crate) fn reported(&mut self, m: usize, life: u32, draft: Draft) {
        let Draft { report, header, key, expected, tries } = draft;
        let there = self.store.up && header.incarnation == self.store.incarnation;
        let before = self.store.journal(&key).record().cloned().map(Box::new);
        let (record, number) = (Record::Journal(report.clone()), 0);
        let write = StoreWrite { key, expected, record, number };
        if there && let WriteOutcome::Applied(_) = self.store.write(self.now, &write, &header) {
            self.fact(Fact::Reported(report, before));
            return;
        }
        self.report_again(m, life, report, tries);
    }
}
