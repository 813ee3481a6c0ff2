//! What a person asked for through `cluster_state`: a pause, or another primary (`docs/protocol.md`,
//! section 7).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::event::State;
use super::ids::{Epoch, MemberId};
use super::time::StoreTime;

/// No automatic transition while it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pause {
    /// Why, for people.
    pub reason: String,
    /// Who asked for it, for people.
    pub by: String,
    /// When it ends by itself, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<StoreTime>,
}

impl Pause {
    /// It has not ended, as far as the newest time the store has shown says. While the store is away
    /// no pause ends.
    pub fn holds(&self, store_now: Option<StoreTime>) -> bool {
        self.until.is_none_or(|until| store_now < Some(until))
    }
}

/// What kind of change is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// A planned change that loses nothing: to the member named, or to the first in line.
    Switchover,
    /// The same, to the member preferred over the primary.
    Failback,
    /// As a switchover while there is a primary; without one, the member named takes over although
    /// transitions are paused.
    Failover {
        /// It may also when it is behind, or not in the synchronous set.
        accept_loss: bool,
    },
}

impl Wish {
    /// Stable name for logs and people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failback => "failback",
            Self::Failover { .. } => "failover",
        }
    }
}

/// A change of primary that a person asked for. It is about one lease, and void in any other epoch:
/// nobody carries it out twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Order {
    /// Tells it from every other.
    pub id: String,
    /// What is asked for.
    pub wish: Wish,
    /// The lease it is about.
    pub epoch: Epoch,
    /// Who is to be the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberId>,
    /// Who asked for it, for people.
    pub by: String,
    /// Not to be begun before, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<StoreTime>,
    /// Only say what would happen.
    #[serde(default)]
    pub rehearsal: bool,
}

impl Order {
    /// It wants the holder replaced in spite of a pause, and even when the holder is gone: whether at
    /// any loss.
    pub fn failover(&self) -> Option<bool> {
        match self.wish {
            Wish::Failover { accept_loss } if !self.rehearsal => Some(accept_loss),
            Wish::Failover { .. } | Wish::Switchover | Wish::Failback => None,
        }
    }
}

/// What became of the latest order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// The order's.
    pub id: String,
    /// It was carried out, or would be.
    pub done: bool,
    /// In a sentence.
    pub text: String,
}

/// Why a primary does not hand over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Transitions are paused.
    Paused(String),
    /// The member is the primary.
    Itself,
    /// No such member reports.
    Unknown {
        /// The one asked for.
        member: MemberId,
        /// Those that do.
        known: Vec<MemberId>,
    },
    /// A person wants it not to take over.
    Drained(MemberId),
    /// Its heartbeat does not change any more.
    Silent(MemberId),
    /// It is not watching.
    NotWatching(MemberId, State),
    /// It says itself that it would not take over.
    Ineligible(MemberId, String),
    /// Its promotion would fail now, as it says.
    Doubtful(MemberId, String),
    /// The primary itself could not be made a standby now.
    NotDemotable(MemberId, String),
    /// It does not stream.
    NotStreaming(MemberId),
    /// It is further behind than allowed.
    LagsBehind {
        /// The member.
        member: MemberId,
        /// Bytes behind.
        bytes: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// Nobody is in line.
    Nobody,
    /// Nobody who is in line is preferred over the primary.
    NobodyPreferred,
}

impl Refusal {
    /// It may be over in a moment, without anybody doing anything: a standby attaches, or catches up.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotWatching(..)
            | Self::Ineligible(..)
            | Self::Doubtful(..)
            | Self::NotDemotable(..)
            | Self::NotStreaming(_)
            | Self::LagsBehind { .. }
            | Self::Nobody
            | Self::NobodyPreferred => true,
            Self::Paused(_)
            | Self::Itself
            | Self::Unknown { .. }
            | Self::Drained(_)
            | Self::Silent(_) => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused(why) => write!(
                f,
                "transitions are paused: {why}; `harmony-agent resume` first, or ask for a failover"
            ),
            Self::Itself => f.write_str("it is the primary already"),
            Self::Unknown { member, known } => {
                let known: Vec<&str> = known.iter().map(MemberId::as_str).collect();
                write!(f, "no member {member} reports; those that do: {}", known.join(", "))
            }
            Self::Drained(member) => {
                write!(f, "{member} is drained; `harmony-agent member drain {member} --off` first")
            }
            Self::Silent(member) => {
                write!(f, "{member} has not been heard of lately; see to its agent")
            }
            Self::NotWatching(member, state) => write!(f, "{member} is in state {state}"),
            Self::Ineligible(member, why) => write!(f, "{member} would not take over: {why}"),
            Self::Doubtful(member, why) => write!(
                f,
                "{member} could not be promoted now (only a failover tries it all the same): {why}"
            ),
            Self::NotDemotable(member, why) => write!(
                f,
                "{member}, the primary, could not be demoted now (only a failover tries it all the same): {why}"
            ),
            Self::NotStreaming(member) => {
                write!(f, "{member} does not stream from the primary; see to its database")
            }
            Self::LagsBehind { member, bytes, allowed } => write!(
                f,
                "{member} is {bytes} bytes behind, allowed are {allowed} \
                 (failover.maximum_lag_on_failover); wait until it has caught up"
            ),
            Self::Nobody => {
                f.write_str("no member could take over; `harmony-agent status` says why")
            }
            Self::NobodyPreferred => {
                f.write_str("no member that could take over has a higher priority than the primary")
            }
        }
    }
}
