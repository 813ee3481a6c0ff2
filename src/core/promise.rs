//! Peer promises: while the store does not answer, every other member may promise the holder not to
//! take over for a lease duration, and so extend its lease (`docs/protocol.md`, section 10).
//!
//! A promise is safe because of four things. Nobody but an admitted member may acquire, and only the
//! holder admits. Every admitted member has to promise, in one round. Who promised acquires nothing
//! before its promise has run out, nor does it act on an acquisition of its own that lands meanwhile.
//! And a member notes on its disk whom it may promise to before it does, so that a restart keeps it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{BootId, Epoch, Incarnation, InstanceId, MemberId};

/// The holder asks for a promise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PromiseRequest {
    /// Incarnation of the store whose lease it holds.
    pub incarnation: Incarnation,
    /// The holder.
    pub holder: MemberId,
    /// The start of its agent.
    pub boot: BootId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Number of the round; later ones are higher.
    pub round: u64,
    /// For how long: the lease duration it published.
    #[serde(rename = "duration_ms", with = "super::records::millis")]
    pub duration: Duration,
}

/// A member's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PromiseAnswer {
    /// The holder's boot id, as asked.
    pub boot: BootId,
    /// The round, as asked.
    pub round: u64,
    /// The member that answers.
    pub member: MemberId,
    /// Its state directory: two agents may be configured with one name.
    pub instance: InstanceId,
    /// Why it does not promise; `None` when it does.
    pub refused: Option<String>,
}

/// The holder that a member may have promised to. On its disk before the first promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bound {
    /// The holder's epoch.
    pub epoch: Epoch,
    /// The longest promise it may have given.
    #[serde(rename = "duration_ms", with = "super::records::millis")]
    pub duration: Duration,
}
