//! The token that a lease is taken over with: kept in our own lease until the promotion has used it, so
//! that a restart in between does not lose it.

use super::Shared;
use crate::core::event::State;
use crate::core::token::Token;

impl Shared {
    /// The lease shown is about to be acquired, in this state: what there is to promote with.
    pub(super) fn inherit_token(&mut self, status: State) {
        let promotes = status == State::ReplicaPromoting && self.policy.demotes;
        self.token = self.token_shown().filter(|_| promotes).cloned();
    }

    /// The token that was released to us, if it is for our data as it is.
    fn token_shown(&self) -> Option<&Token> {
        let lease = self.view.lease()?;
        let token = match &lease.released {
            Some(release) if release.to.as_ref() == Some(&self.id.member) => release.token.as_ref(),
            // Of a former life of ours that did not get to its promotion.
            None if self.is_ours(lease) => lease.token.as_ref(),
            Some(_) | None => None,
        }?;
        let own = &self.position;
        (own.system == Some(token.system) && token.timeline >= own.timeline).then_some(token)
    }

    /// What a lease of ours in this state carries.
    pub(super) fn token_kept(&self, status: State) -> Option<Token> {
        self.token.clone().filter(|_| status == State::ReplicaPromoting)
    }

    /// What our promotion is to be made with.
    pub(in crate::core) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// It was made.
    pub(in crate::core) fn token_used(&mut self) {
        self.token = None;
    }
}
