//! Actions on a database as the agent's process runs them (`src/runtime/executor.rs`): one at a time,
//! each with a limit, cancellable; a fence starts at once and waits for the rest at its end.

use harmony_agent::core::event::{Action, ActionOutcome, Done, Event, FenceProof};
use harmony_agent::core::ids::{Epoch, Lsn, OpId, TimelineId};
use harmony_agent::core::time::Instant;

use super::database::Server;
use super::fault::{Fault, Kind};
use super::network::MOMENT;
use super::{Fact, Item, World};
use crate::sim::mutant::Mutant;

/// An action under way.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Acting {
    pub(crate) action: Action,
    pub(crate) epoch: Epoch,
    began: u64,
    limit: u64,
    /// End of the right to write when it was asked for.
    right: Option<Instant>,
    /// Waits for the one before.
    pub(crate) waits: bool,
    pub(crate) cancelled: bool,
    /// It is in the middle of something that cannot be interrupted.
    blocked: bool,
    due: u64,
    pub(crate) phase: Phase,
    /// Fences begun when it was allowed to start a server.
    pub(crate) permit: u64,
    /// How a rejoin is being tried, or by what rung a fence got there.
    pub(crate) rung: &'static str,
    /// Since when nothing has moved.
    pub(crate) since: u64,
}

/// How far an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Begin,
    /// Copying, rewinding, initialising: to be done when it is called next.
    Work,
    Launch,
    AwaitUp,
    AwaitStream,
    AwaitPromotion,
    Fast,
    Immediate,
    Kill,
    Prove,
    AwaitOthers,
}

/// What comes next in an action.
pub(crate) enum Flow {
    /// Call again with this phase after so many nanoseconds.
    Again(Phase, u64),
    Done(ActionOutcome),
}

pub(crate) fn refused(why: &str) -> Flow {
    Flow::Done(ActionOutcome::Refused(why.to_owned()))
}

pub(crate) fn unknown(why: &str) -> Flow {
    Flow::Done(ActionOutcome::Unknown(why.to_owned()))
}

impl World {
    /// The core asked for an action.
    pub(crate) fn begin(&mut self, m: usize, op: OpId, action: Action, epoch: Epoch, limit: u64) {
        let name = self.name(m);
        match (epoch, &action) {
            (Epoch(0), _) | (_, Action::Fence { .. }) => {
                self.say(format_args!("{name}: {} begins", action.name()))
            }
            _ => self.say(format_args!("{name}: {} begins, epoch {epoch}", action.name())),
        }
        self.overlaps(m, &action);
        let now = self.now;
        let fences = self.machines[m].db.fences;
        let Some(agent) = &mut self.machines[m].agent else { return };
        let fence = matches!(action, Action::Fence { .. });
        let free = agent.lock.is_none();
        if free {
            agent.lock = Some(op);
        }
        let acting = Acting {
            action,
            epoch,
            began: now,
            limit: now + limit,
            right: agent.core.writable_until(),
            waits: !free && !fence,
            cancelled: false,
            blocked: false,
            due: now,
            phase: Phase::Begin,
            permit: fences,
            rung: "",
            since: now,
        };
        let opens = matches!(acting.action, Action::Promote | Action::StartPrimary);
        agent.actions.insert(op, acting);
        let life = agent.life;
        if opens {
            self.stumble(m);
        }
        if fence && self.setup.mutant == Some(Mutant::FenceLies) {
            let proof = self.proof(m, "kill");
            return self.finish(m, op, ActionOutcome::Applied(Done::Fenced(proof)));
        }
        if self.setup.mutant == Some(Mutant::AnswersEarly) && !fence {
            let outcome = ActionOutcome::Unknown("no answer in time".to_owned());
            self.later(MOMENT, Item::Tell(m, life, Box::new(Event::Acted(op, outcome))));
        }
        self.later(MOMENT, Item::Act(m, life, op));
        self.later(limit, Item::Act(m, life, op));
    }

    /// The core asks for an action while another one has not ended: a fence may, anything else not.
    fn overlaps(&mut self, m: usize, action: &Action) {
        let Some(agent) = &self.machines[m].agent else { return };
        let other = agent.actions.values().next().map(|acting| acting.action.name());
        if let Some(other) = other.filter(|_| !matches!(action, Action::Fence { .. })) {
            self.fact(Fact::Overlaps(m, action.name(), other));
        }
    }

    /// The agent stands still between the decision and the act.
    fn stumble(&mut self, m: usize) {
        let stumbles = self.faults.values().find(|f| f.kind == Kind::Stumble && f.machine == m);
        let Some(fault) = stumbles.copied() else { return };
        let kind = Kind::FreezeAgent;
        let lasts = fault.detail % self.setup.scaled(30_000);
        self.apply(Fault { kind, lasts, ..fault });
    }

    /// The core wants an action to end.
    pub(crate) fn cancel(&mut self, m: usize, op: OpId) {
        if self.setup.mutant == Some(Mutant::EpochEndUnheard) {
            return;
        }
        let blocked = self.rng.chance(20);
        let delay = if self.rng.chance(5) { self.some(500, 1_900) } else { self.some(1, 30) };
        let Some(agent) = &mut self.machines[m].agent else { return };
        let life = agent.life;
        let Some(acting) = agent.actions.get_mut(&op) else { return };
        if !acting.cancelled {
            acting.cancelled = true;
            acting.blocked = blocked;
            self.later(delay, Item::Act(m, life, op));
        }
    }

    /// An epoch ended: what was done in the name of it and of those before ends.
    pub(crate) fn cancel_before(&mut self, m: usize, current: Epoch) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        agent.epoch_of_tasks = agent.epoch_of_tasks.max(current);
        if self.setup.mutant == Some(Mutant::EpochEndUnheard) {
            return;
        }
        let ended = |acting: &Acting| acting.epoch > Epoch(0) && acting.epoch < current;
        let ops: Vec<OpId> =
            agent.actions.iter().filter(|(_, a)| ended(a)).map(|(op, _)| *op).collect();
        for op in ops {
            self.cancel(m, op);
        }
    }

    /// An action goes on.
    pub(crate) fn act_on(&mut self, m: usize, op: OpId) {
        let (now, local) = (self.now, self.local(m));
        let Some(agent) = &mut self.machines[m].agent else { return };
        let Some(acting) = agent.actions.get_mut(&op) else { return };
        let over = now >= acting.limit;
        if acting.waits {
            if acting.cancelled || over {
                let why = "the action before did not end".to_owned();
                self.finish(m, op, ActionOutcome::Refused(why));
            }
            return;
        }
        let stops = (acting.cancelled || over) && acting.phase != Phase::AwaitOthers;
        if stops && !std::mem::replace(&mut acting.blocked, false) {
            let outcome = ActionOutcome::Unknown("cancelled, or out of time".to_owned());
            return self.finish(m, op, outcome);
        }
        if !stops && now < acting.due {
            return;
        }
        if acting.phase == Phase::Begin {
            let opens = matches!(acting.action, Action::Promote | Action::StartPrimary);
            let late = opens && acting.right.is_some_and(|end| local >= end);
            if late && self.setup.mutant != Some(Mutant::NoLastLook) {
                let why = "the lease had run out before it began".to_owned();
                return self.finish(m, op, ActionOutcome::Refused(why));
            }
            if opens {
                let fact = Fact::Opening(m, acting.action.clone(), acting.epoch);
                self.fact(fact);
            }
        }
        match self.go_on(m, op) {
            Flow::Done(outcome) => self.finish(m, op, outcome),
            Flow::Again(phase, delay) => {
                let due = self.now + delay;
                let Some(agent) = &mut self.machines[m].agent else { return };
                let life = agent.life;
                let Some(acting) = agent.actions.get_mut(&op) else { return };
                acting.phase = phase;
                acting.due = due;
                let delay = if acting.cancelled { delay.min(MOMENT) } else { delay };
                self.later(delay, Item::Act(m, life, op));
            }
        }
    }

    fn go_on(&mut self, m: usize, op: OpId) -> Flow {
        let Some(agent) = &self.machines[m].agent else { return unknown("no agent") };
        let Some(acting) = agent.actions.get(&op) else { return unknown("no action") };
        let mut acting = acting.clone();
        let flow = match &acting.action {
            Action::Fence { .. } => self.fence(m, op, &mut acting),
            Action::Bootstrap => self.bootstrap(m, &mut acting),
            Action::Clone { upstream } => {
                let source = self.machine_of(&upstream.address.host);
                self.clone_data(m, source, &mut acting)
            }
            Action::Follow { upstream } => {
                let up = upstream.as_ref().map(|up| self.machine_of(&up.address.host));
                self.follow(m, up, &mut acting)
            }
            Action::Rejoin { upstream } => {
                let source = self.machine_of(&upstream.address.host);
                self.rejoin(m, source, &mut acting)
            }
            Action::StartPrimary => self.start_primary(m, &mut acting),
            Action::Promote => self.promote(m, &mut acting),
            Action::Demote { .. } | Action::PromoteWith { .. } => refused("not modelled"),
            Action::Require { requirement } => {
                let requirement = requirement.clone();
                self.require(m, requirement, &mut acting)
            }
            Action::Checkpoint => self.checkpoint(m, &mut acting),
        };
        if let Some(kept) = self.machines[m].agent.as_mut().and_then(|a| a.actions.get_mut(&op)) {
            let cancelled = kept.cancelled;
            *kept = acting;
            kept.cancelled = cancelled;
        }
        flow
    }

    fn machine_of(&self, host: &str) -> usize {
        self.machines.iter().position(|machine| machine.host == host).unwrap_or(0)
    }

    fn finish(&mut self, m: usize, op: OpId, outcome: ActionOutcome) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        let life = agent.life;
        let Some(acting) = agent.actions.remove(&op) else { return };
        let works = |other: &&Acting| !other.waits && !matches!(other.action, Action::Fence { .. });
        let beside = agent.actions.values().find(works).map(|other| other.action.name());
        if agent.lock == Some(op) {
            agent.lock = agent.actions.iter().find(|(_, next)| next.waits).map(|(op, _)| *op);
            if let Some(next) = agent.lock {
                if let Some(acting) = agent.actions.get_mut(&next) {
                    acting.waits = false;
                }
                self.later(MOMENT, Item::Act(m, life, next));
            }
        }
        let (name, action) = (self.name(m), acting.action.name());
        match &outcome {
            ActionOutcome::Applied(Done::Fenced(proof)) => {
                if let Some(other) = beside {
                    self.fact(Fact::FencedBeside(m, other));
                }
                self.say(format_args!("{name}: fenced by {}", proof.rung));
            }
            ActionOutcome::Applied(_) => self.say(format_args!("{name}: {action} done")),
            ActionOutcome::Refused(why) => {
                self.say(format_args!("{name}: {action} refused: {why}"))
            }
            ActionOutcome::Unknown(why) => {
                self.say(format_args!("{name}: {action} unknown: {why}"))
            }
        }
        if self.setup.mutant == Some(Mutant::AnswerLost) && action == "rejoin" {
            return;
        }
        self.later(MOMENT, Item::Tell(m, life, Box::new(Event::Acted(op, outcome))));
    }

    // ---- the fence

    fn fence(&mut self, m: usize, op: OpId, acting: &mut Acting) -> Flow {
        let Action::Fence { ladder } = acting.action else { return unknown("no fence") };
        let poll = self.setup.scaled(40);
        let running = self.machines[m].db.is_running();
        let passed = self.now - acting.began;
        let (fast, immediate) =
            (super::agent::nanos(ladder.fast), super::agent::nanos(ladder.immediate));
        match acting.phase {
            Phase::Begin => {
                self.machines[m].db.fences += 1;
                acting.began = self.now;
                acting.rung = if running { "kill" } else { "down" };
                if running && fast > 0 {
                    self.stop_server(m, true);
                    return Flow::Again(Phase::Fast, poll.min(fast));
                }
                if running && immediate > 0 {
                    self.stop_server(m, false);
                    return Flow::Again(Phase::Immediate, poll.min(immediate));
                }
                Flow::Again(Phase::Kill, 1)
            }
            Phase::Fast | Phase::Immediate if !running => {
                acting.rung = if acting.phase == Phase::Fast { "fast" } else { "immediate" };
                Flow::Again(Phase::Kill, 1)
            }
            Phase::Fast if passed < fast => Flow::Again(Phase::Fast, poll.min(fast - passed)),
            Phase::Fast if immediate > fast => {
                self.stop_server(m, false);
                Flow::Again(Phase::Immediate, poll.min(immediate - fast))
            }
            Phase::Immediate if passed < immediate => {
                Flow::Again(Phase::Immediate, poll.min(immediate - passed))
            }
            Phase::Prove if !running => {
                let Some(agent) = &mut self.machines[m].agent else { return unknown("no agent") };
                let waits = self.setup.mutant != Some(Mutant::FenceAlone);
                match agent.lock {
                    Some(holder) if holder != op && waits => Flow::Again(Phase::AwaitOthers, poll),
                    Some(_) | None => {
                        let proof = self.proof(m, acting.rung);
                        Flow::Done(ActionOutcome::Applied(Done::Fenced(proof)))
                    }
                }
            }
            Phase::AwaitOthers => {
                let late = self.now >= acting.limit + (acting.limit - acting.began);
                let Some(agent) = &mut self.machines[m].agent else { return unknown("no agent") };
                match agent.lock {
                    Some(_) if late => unknown("an earlier action does not end"),
                    Some(_) => Flow::Again(Phase::AwaitOthers, poll),
                    None => {
                        agent.lock = Some(op);
                        Flow::Again(Phase::Kill, 1)
                    }
                }
            }
            _ if running => {
                acting.rung = "kill";
                self.kill_server(m);
                let pause = self.some(4, 20);
                Flow::Again(Phase::Kill, pause)
            }
            _ => {
                let pause = self.some(2, 10);
                Flow::Again(Phase::Prove, pause)
            }
        }
    }

    fn proof(&self, m: usize, rung: &'static str) -> FenceProof {
        let Some(data) = &self.machines[m].db.data else {
            return FenceProof { clean: false, lsn: Lsn(0), timeline: TimelineId(0), rung };
        };
        let lsn = if data.clean || data.recovery { data.place.lsn } else { data.checkpoint };
        let timeline = TimelineId(self.branches.get(data.place.branch).number);
        let clean = data.clean && !data.recovery && self.machines[m].db.server == Server::Down;
        FenceProof { clean, lsn: Lsn(lsn), timeline, rung }
    }
}
