//! The replica's workflow (`docs/protocol.md`, section 6).
//!
//! ```text
//! Initializing ─► Watching ─► Promoting ─► (Primary: Healthy)
//!    ▲  │            │            └──────► (Primary: Failed): it may be writable already
//!    │  └─► Failed ◄─┘
//!    └───────┘ when heartbeats and database recover
//! ```

mod failed;
mod initializing;
mod promoting;
mod watching;

pub(super) use failed::Failed;
pub(super) use initializing::Initializing;
pub(super) use promoting::Promoting;
pub(super) use watching::{Takeover, Watching, takeover};

use serde::{Deserialize, Serialize};

use crate::core::agent::{Deadline, Next, Workflow};
use crate::core::event::State;
use crate::core::lease::Held;
use crate::core::shared::{Shared, Signal};
use crate::core::time::Instant;

/// A replica's state, with that state's data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Replica {
    Initializing(Initializing),
    Watching(Watching),
    Promoting(Promoting),
    Failed(Failed),
}

impl Replica {
    pub(super) fn state(&self) -> State {
        match self {
            Self::Initializing(_) => State::ReplicaInitializing,
            Self::Watching(_) => State::ReplicaWatching,
            Self::Promoting(_) => State::ReplicaPromoting,
            Self::Failed(_) => State::ReplicaFailed,
        }
    }

    pub(super) fn advance(self, cx: &mut Shared, signal: Signal) -> Next {
        match self {
            Self::Initializing(state) => state.advance(cx, signal),
            Self::Watching(state) => state.advance(cx, signal),
            Self::Promoting(state) => state.advance(cx, signal),
            Self::Failed(state) => state.advance(cx, signal),
        }
    }

    pub(super) fn deadline(&self, cx: &Shared) -> Option<Deadline> {
        match self {
            Self::Initializing(state) => state.deadline(cx),
            Self::Watching(state) => state.deadline(cx),
            Self::Promoting(state) => state.deadline(cx),
            Self::Failed(state) => state.deadline(cx),
        }
    }

    /// The lease this state counts on, if it does.
    pub(super) fn held(&self) -> Option<&Held> {
        match self {
            Self::Promoting(state) => Some(&state.held),
            Self::Initializing(_) | Self::Watching(_) | Self::Failed(_) => None,
        }
    }

    /// A heartbeat not older than this is wanted, as the store clock's witness.
    pub(super) fn witness_due(&self, cx: &Shared) -> Option<Instant> {
        match self {
            Self::Watching(_) => watching::witness_due(cx),
            Self::Initializing(_) | Self::Promoting(_) | Self::Failed(_) => None,
        }
    }
}

/// Where every replica starts.
pub(super) fn start(cx: &mut Shared) -> Workflow {
    cx.heartbeat_now();
    Workflow::Replica(Replica::Initializing(Initializing::new(cx.now)))
}
