//! A kind of database that is made a standby before its lease is released, and promoted with what that
//! gave out (CloudNativePG): whoever asks for it, the demotion goes on by itself and cannot be taken back.

use harmony_agent::core::event::{ActionOutcome, Done};
use harmony_agent::core::ids::{Lsn, SystemId, TimelineId};
use harmony_agent::core::token::Token;

use super::acting::{Acting, Flow, Phase, refused};
use super::database::{Server, ServerEvent};
use super::fault::Kind;
use super::{Fact, Item, World};
use crate::sim::mutant::Mutant;

/// A token that was given out, as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Given {
    /// The machine whose database gave it.
    pub(crate) by: usize,
    pub(crate) token: Token,
    /// Somebody was promoted with it.
    pub(crate) spent: bool,
}

/// A demotion under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Demoting {
    /// Whom it will follow.
    pub(crate) to: usize,
    /// Fences begun when it was asked for: one that came later keeps it down.
    permit: u64,
}

impl World {
    pub(crate) fn demote(&mut self, m: usize, to: usize, acting: &mut Acting) -> Flow {
        let poll = self.setup.scaled(40);
        let db = &self.machines[m].db;
        if acting.phase == Phase::AwaitDemotion {
            return match db.demoting {
                Some(_) => Flow::Again(Phase::AwaitDemotion, poll),
                None => self.demoted(m),
            };
        }
        let Some(data) = &db.data else { return refused("there is no data directory") };
        if db.server != Server::Down {
            return refused("it is not stopped: fence it first");
        }
        if data.standby_signal {
            return self.demoted(m);
        }
        if !data.clean || data.recovery {
            return refused("its last stop was not clean");
        }
        if self.fault_on(m, Kind::FailDemote) {
            return refused("its operator does not let it");
        }
        if self.setup.mutant == Some(Mutant::DemotionLies) {
            self.give_token(m);
            return self.demoted(m);
        }
        let (permit, number) = (acting.permit, db.server_number);
        self.machines[m].db.demoting = Some(Demoting { to, permit });
        let slow = self.faults.values().find(|f| f.kind == Kind::SlowDemote && f.machine == m);
        let took = match slow.map(|fault| fault.detail % self.setup.scaled(120_000)) {
            Some(took) => took,
            None => self.some(100, 3_000),
        };
        self.later(took, Item::Server(m, number, ServerEvent::Demoted));
        Flow::Again(Phase::AwaitDemotion, poll)
    }

    fn demoted(&self, m: usize) -> Flow {
        let given = self.machines[m].db.token.and_then(|number| self.tokens.get(number));
        let token = given.map(|given| given.token.clone());
        Flow::Done(ActionOutcome::Applied(Done::Demoted { token }))
    }

    /// From here on nothing but a promotion makes it a primary again.
    pub(crate) fn becomes_standby(&mut self, m: usize) {
        let Some(Demoting { to, permit }) = self.machines[m].db.demoting.take() else { return };
        let Some(data) = &mut self.machines[m].db.data else { return };
        (data.standby_signal, data.recovery, data.upstream) = (true, true, Some(to));
        self.give_token(m);
        let name = self.name(m);
        self.say(format_args!("{name}: is a standby's now"));
        if self.machines[m].on && self.machines[m].db.fences == permit {
            self.launch(m, true);
        }
    }

    fn give_token(&mut self, m: usize) {
        let Some(data) = &self.machines[m].db.data else { return };
        let timeline = TimelineId(self.branches.get(data.place.branch).number);
        let value = format!("token{}", self.tokens.len()).parse().unwrap();
        let token = Token { value, system: data.system, timeline, lsn: Lsn(data.place.lsn) };
        let foreign = self.faults.values().find(|f| f.kind == Kind::ForeignToken && f.machine == m);
        let token = match foreign.map(|fault| fault.detail % 3) {
            None => token,
            Some(0) => Token { system: SystemId(1), ..token },
            Some(1) => Token { timeline: TimelineId(0), ..token },
            Some(_) => Token { timeline: TimelineId(timeline.0 + 1), ..token },
        };
        let lost = self.fault_on(m, Kind::LoseToken);
        self.machines[m].db.token = (!lost).then_some(self.tokens.len());
        self.tokens.push(Given { by: m, token, spent: false });
    }

    /// A promotion that waits until it has all that the token says.
    pub(crate) fn promote_with(&mut self, m: usize, token: &Token, acting: &mut Acting) -> Flow {
        let db = &self.machines[m].db;
        let begun = acting.phase == Phase::AwaitPromotion;
        let Some(data) = db.data.as_ref().filter(|_| !begun && !db.is_primary()) else {
            return self.promote(m, acting);
        };
        let timeline = TimelineId(self.branches.get(data.place.branch).number);
        let known = self.given(token);
        let spent = known.is_none_or(|given| given.spent);
        if spent || data.system != token.system || timeline != token.timeline {
            return refused("the token is not for this data");
        }
        if self.fault_on(m, Kind::RefuseToken) {
            return refused("the token is refused");
        }
        if Lsn(data.place.lsn) < token.lsn {
            return Flow::Again(Phase::Work, self.setup.scaled(200));
        }
        self.promote(m, acting)
    }

    /// A token as it was given out.
    pub(crate) fn given(&self, token: &Token) -> Option<&Given> {
        self.tokens.iter().find(|given| given.token.value == token.value)
    }

    /// A promotion that was begun with a token, or without one, is done.
    pub(crate) fn spend(&mut self, m: usize) {
        let Some(number) = self.machines[m].db.promoted_with.take() else { return };
        if let Some(given) = self.tokens.get_mut(number) {
            given.spent = true;
            let token = given.token.clone();
            self.fact(Fact::TokenUsed(token));
        }
    }

    /// The site that this database is cannot come up as a primary by itself.
    pub(crate) fn is_standbys(&self, m: usize) -> bool {
        let db = &self.machines[m].db;
        let data = db.data.as_ref().is_none_or(|data| data.standby_signal);
        data && !db.is_primary() && !db.becomes_primary()
    }
}
