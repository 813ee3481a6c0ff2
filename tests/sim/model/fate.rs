//! What becomes of a message: chosen by the search instead of drawn.

use harmony_agent::core::records::Key;

use crate::sim::world::agent::nanos;
use crate::sim::world::network::{Reply, Request, What};
use crate::sim::world::{Item, World};

/// Of which messages the fate is chosen. All others arrive as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fates {
    None,
    /// Of writes to the lease, and of promises and what asks for them.
    Lease,
    All,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Usual,
    /// It never arrives.
    Lost,
    /// It arrives, its answer does not.
    AnswerLost,
    /// Whatever else arrives at the same instant arrives before it.
    Overtaken,
    /// So many halves of a heartbeat interval late.
    Late(u64),
    /// Its answer is half a heartbeat interval late.
    AnswerLate,
    /// It arrives, and once more after a takeover may have happened.
    Twice,
}

/// Halves of a heartbeat interval after which a takeover may have happened.
const LONG: u64 = 14;

/// A request to the store that writes.
const WRITE: &[Fate] = &[
    Fate::Usual,
    Fate::Lost,
    Fate::AnswerLost,
    Fate::Overtaken,
    Fate::Late(1),
    Fate::Late(2),
    Fate::Late(LONG),
    Fate::Twice,
];
/// One that reads: whether it or its answer is lost makes no difference.
const READ: &[Fate] = &[Fate::Usual, Fate::AnswerLost, Fate::AnswerLate];
/// A message from agent to agent.
const MESSAGE: &[Fate] = &[Fate::Usual, Fate::Lost, Fate::Late(1), Fate::Late(LONG), Fate::Twice];

/// A choice that came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) options: u8,
    pub(crate) chosen: u8,
}

/// What is chosen, one after the other, from here to the next layer.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    /// What was chosen beforehand; beyond it the first option is taken.
    script: Vec<u8>,
    /// What came up.
    pub(crate) taken: Vec<Choice>,
    /// Faults that may still happen.
    pub(crate) left: u8,
    of: Fates,
}

impl Choices {
    pub(crate) fn new(script: Vec<u8>, left: u8, of: Fates) -> Self {
        Self { script, taken: Vec::new(), left, of }
    }

    fn next(&mut self, options: usize) -> usize {
        let chosen = self.script.get(self.taken.len()).copied().unwrap_or(0);
        let options = u8::try_from(options).unwrap_or(u8::MAX);
        self.taken.push(Choice { options, chosen });
        usize::from(chosen)
    }
}

impl World {
    /// One of several orders that are as likely: costs no fault. 0 when nobody searches.
    pub(crate) fn choose_order(&mut self, options: usize) -> usize {
        self.choices.as_mut().map_or(0, |choices| choices.next(options))
    }

    /// Something unusual, or 0. Costs a fault.
    pub(crate) fn choose_fault(&mut self, options: usize) -> usize {
        let Some(choices) = self.choices.as_mut().filter(|choices| choices.left > 0) else {
            return 0;
        };
        let chosen = choices.next(options);
        choices.left -= u8::from(chosen > 0);
        chosen
    }

    fn fate(&mut self, fates: &[Fate], lease: bool, what: &str) -> Fate {
        let counts = self.choices.as_ref().is_some_and(|choices| match choices.of {
            Fates::None => false,
            Fates::Lease => lease,
            Fates::All => true,
        });
        let chosen = if counts { self.choose_fault(fates.len()) } else { 0 };
        let fate = fates[chosen];
        if fate != Fate::Usual {
            self.say(format_args!("!! {what}: {fate:?}"));
        }
        fate
    }

    fn halves(&self, halves: u64) -> u64 {
        nanos(self.setup.policy.heartbeat_interval) / 2 * halves
    }

    /// How much later than usual a request arrives; `None` when it does not.
    pub(crate) fn fate_of(&mut self, request: &mut Request) -> Option<u64> {
        if self.choices.is_none() {
            return Some(0);
        }
        let who = self.name(request.from);
        let fate = match &request.what {
            What::Read => self.fate(READ, false, &format!("read of {who}")),
            What::Write(write, _) => {
                let (key, lease) = (write.key.clone(), write.key == Key::Lease);
                self.fate(WRITE, lease, &format!("write of {who} to {key:?}"))
            }
        };
        match fate {
            Fate::Usual => Some(0),
            Fate::Lost => None,
            Fate::AnswerLost => {
                request.reply = Reply::Lost;
                Some(0)
            }
            Fate::AnswerLate => {
                request.reply = Reply::Late(self.halves(1));
                Some(0)
            }
            Fate::Overtaken => Some(1),
            Fate::Late(halves) => Some(self.halves(halves)),
            Fate::Twice => {
                let again = Item::Request(Box::new(request.clone()));
                self.later(self.halves(LONG), again);
                Some(0)
            }
        }
    }

    /// How much later than usual a message of an agent arrives; `None` when it does not.
    pub(crate) fn fate_of_message(&mut self, item: &Item) -> Option<u64> {
        if self.choices.is_none() {
            return Some(0);
        }
        let what = match item {
            Item::Asked(m, ..) => format!("request for a promise to {}", self.name(*m)),
            Item::Tell(m, ..) => format!("answer about a promise to {}", self.name(*m)),
            _ => "message".to_owned(),
        };
        match self.fate(MESSAGE, true, &what) {
            Fate::Lost | Fate::AnswerLost => None,
            Fate::Usual | Fate::AnswerLate | Fate::Overtaken => Some(0),
            Fate::Late(halves) => Some(self.halves(halves)),
            Fate::Twice => {
                let again = item.clone();
                self.later(self.halves(LONG), again);
                Some(0)
            }
        }
    }
}
