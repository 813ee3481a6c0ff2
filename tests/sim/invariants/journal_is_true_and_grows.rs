//! What the journal tells happened.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use harmony_agent::core::ids::{Epoch, MemberId};
use harmony_agent::core::journal::Report;

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct JournalIsTrueAndGrows {
    holders: BTreeMap<Epoch, MemberId>,
}

/// The exhaustive search has no journal: what is remembered here makes no two of its worlds different.
impl Hash for JournalIsTrueAndGrows {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl JournalIsTrueAndGrows {
    fn check(&self, epoch: Epoch, holder: &MemberId) -> Result<(), String> {
        match self.holders.get(&epoch) {
            Some(known) if known != holder => {
                Err(format!("a report says that {holder} held epoch {epoch}; it was {known}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn told(&self, report: &Report, before: Option<&Report>) -> Result<(), String> {
        self.check(report.epoch, &report.holder)?;
        if let Some(evidence) = &report.evidence {
            self.check(evidence.epoch, &evidence.holder)?;
            if evidence.epoch >= report.epoch {
                return Err(format!("epoch {} is told to follow {}", report.epoch, evidence.epoch));
            }
        }
        match before {
            Some(before) if before.epoch >= report.epoch => Err(format!(
                "the report of epoch {} replaces that of {}",
                report.epoch, before.epoch
            )),
            Some(_) | None => Ok(()),
        }
    }
}

impl Invariant for JournalIsTrueAndGrows {
    fn name(&self) -> &'static str {
        "journal_is_true_and_grows"
    }

    fn sentence(&self) -> &'static str {
        "A report names who acquired that epoch and who held the one before, and replaces none of the same or a later epoch."
    }

    fn source(&self) -> &'static str {
        "section 2 (the journal)"
    }

    fn fact(&mut self, _: &World, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::StoreLost => self.holders.clear(),
            Fact::LeaseWritten(written) if written.lease.seq == 0 => {
                let lease = &written.lease;
                self.holders.insert(lease.epoch, lease.holder.clone());
            }
            Fact::Reported(report, before) => self.told(report, before.as_deref())?,
            _ => {}
        }
        Ok(())
    }
}
