//! What was seen of the database, and the actions on it.

use std::time::Duration;

use super::{Running, Shared, Signal};
use crate::core::event::{Action, ActionOutcome, Effect, Observation};
use crate::core::ids::{Epoch, OpId, SystemId};
use crate::core::records::Position;

impl Shared {
    /// Identity of the cluster's data as far as anything we may trust says.
    pub(in crate::core) fn system(&self) -> Option<SystemId> {
        self.view.system().or(self.floor.as_ref().and_then(|floor| floor.system))
    }

    /// An action runs, or one that was cancelled has not answered yet.
    pub(in crate::core) fn busy(&self) -> bool {
        self.running.is_some() || !self.cancelled.is_empty()
    }

    /// Starts an action in the name of `epoch`; one under way is cancelled.
    pub(in crate::core) fn act(&mut self, action: Action, epoch: Epoch, limit: Duration) {
        self.cancel();
        if action.opens() {
            self.opens();
        }
        self.journal_acts(&action, limit);
        let op = self.op();
        self.effects.push(Effect::Act(op, action.clone(), epoch, limit));
        self.running = Some(Running { op, action });
    }

    /// Cancels the action under way; its completion will be ignored.
    pub(in crate::core) fn cancel(&mut self) {
        if let Some(running) = self.running.take() {
            self.effects.push(Effect::Cancel(running.op));
            self.cancelled.insert(running.op);
        }
    }

    /// An epoch of ours ended: nothing done in its name goes on.
    pub(in crate::core) fn epoch_ended(&mut self, ended: Epoch) {
        self.forget_hook();
        if ended >= self.epoch_of_tasks {
            self.epoch_of_tasks = ended.next();
            self.effects.push(Effect::EpochEnded(self.epoch_of_tasks));
        }
    }

    pub(in crate::core) fn acted(&mut self, op: OpId, outcome: ActionOutcome) -> Signal {
        match self.running.take_if(|running| running.op == op) {
            Some(Running { action: action @ Action::Require { .. }, .. }) => {
                if let Action::Require { requirement } = &action {
                    self.required(requirement, &outcome);
                }
                self.effects.push(Effect::Observe);
                Signal::Acted(action, outcome)
            }
            Some(running) => {
                // What was seen before the action says nothing about now.
                self.database = None;
                self.effects.push(Effect::Observe);
                self.journal_acted(&outcome);
                Signal::Acted(running.action, outcome)
            }
            None => {
                self.cancelled.remove(&op);
                self.stale_completions += 1;
                Signal::Look
            }
        }
    }

    pub(in crate::core) fn observed(&mut self, observation: Observation) {
        let changes = |running: &Running| !matches!(running.action, Action::Require { .. });
        if self.running.as_ref().is_some_and(changes) {
            return;
        }
        self.looked_at_standbys();
        self.position = Position {
            system: observation.system,
            timeline: observation.timeline,
            lsn: observation.lsn,
            replayed: observation.replayed,
        };
        self.database = Some(observation);
    }
}
