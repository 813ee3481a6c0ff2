//! Hooks: programs of the operator's that run on transitions (`adr/0017-hooks.md`).
//!
//! Only one of them is waited for: [`Hook::BeforePromote`], which the core asks for with
//! [`super::event::Effect::BeforePromote`]. All others are told of a transition after the fact.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{State, Transition};

/// What a hook is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// The lease is won; the promotion waits for it.
    BeforePromote,
    /// A promotion is complete.
    AfterPromote,
    /// The member has become the primary, by a promotion or because it was started again.
    OnPrimary,
    /// The member has ceased to be the primary; its database may still be stopping.
    OnDemote,
    /// The member's database is proven unable to write.
    OnFence,
    /// The member follows a primary.
    OnReplica,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::BeforePromote,
        Self::AfterPromote,
        Self::OnPrimary,
        Self::OnDemote,
        Self::OnFence,
        Self::OnReplica,
    ];

    /// Stable name for configuration, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforePromote => "before_promote",
            Self::AfterPromote => "after_promote",
            Self::OnPrimary => "on_primary",
            Self::OnDemote => "on_demote",
            Self::OnFence => "on_fence",
            Self::OnReplica => "on_replica",
        }
    }

    /// Those that are told of `transition`, in their order.
    pub fn told_of(transition: &Transition) -> impl Iterator<Item = Self> {
        let Transition { from, to, .. } = *transition;
        let left = from == State::PrimaryHealthy;
        let became = match to {
            State::PrimaryHealthy => Some(Self::OnPrimary),
            State::PrimaryFenced => Some(Self::OnFence),
            State::ReplicaWatching => Some(Self::OnReplica),
            State::PrimaryInitializing
            | State::PrimaryFailed
            | State::PrimaryYielding
            | State::ReplicaInitializing
            | State::ReplicaPromoting
            | State::ReplicaFailed => None,
        };
        let promoted = (from, to) == (State::ReplicaPromoting, State::PrimaryHealthy);
        let promoted = promoted.then_some(Self::AfterPromote);
        left.then_some(Self::OnDemote).into_iter().chain(promoted).chain(became)
    }
}

/// The `before_promote` hook as the core counts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BeforePromote {
    /// How long it may take; part of the promotion's limit.
    pub limit: Duration,
    /// A hook that does not end well refuses the promotion. Otherwise it is only waited for.
    pub required: bool,
}

/// How a hook that the core waits for ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookOutcome {
    /// Its program ended with status 0, in time.
    Succeeded,
    /// Anything else: another status, not begun, killed at its deadline; the text says which.
    Failed(String),
}
