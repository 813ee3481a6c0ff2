//! Synchronous replication: whom PostgreSQL waits for before it acknowledges a commit (`docs/protocol.md`,
//! section 7).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::MemberId;

/// Whether commits wait for standbys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SynchronousMode {
    /// They do not, as far as the agent is concerned.
    #[default]
    Off,
    /// They do while there is a standby to wait for.
    On,
    /// They always do: without a standby no commit is acknowledged.
    Strict,
}

impl SynchronousMode {
    /// Stable name for configuration, records and people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Strict => "strict",
        }
    }
}

/// What has to be before a server acknowledges a commit, besides its own disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Requirement {
    /// Nothing.
    Nobody,
    /// The standbys of all these members have flushed it.
    All(BTreeSet<MemberId>),
    /// What cannot be: it waits until another requirement takes effect.
    Unsatisfiable,
    /// The same, and these members besides: what they have flushed is known before a commit that only
    /// they have is acknowledged.
    Withheld(BTreeSet<MemberId>),
}

impl Requirement {
    /// Every commit that is acknowledged under it is on the disks of `members`, our own aside.
    pub fn covers(&self, members: &BTreeSet<MemberId>, own: &MemberId) -> bool {
        let mut others = members.iter().filter(|member| *member != own);
        match self {
            Self::Nobody => others.next().is_none(),
            Self::All(required) | Self::Withheld(required) => {
                others.all(|member| required.contains(member))
            }
            Self::Unsatisfiable => true,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::All(members) => {
                let names: Vec<&str> = members.iter().map(MemberId::as_str).collect();
                f.write_str(&names.join(", "))
            }
            Self::Unsatisfiable => f.write_str("a standby that there is not yet"),
            Self::Withheld(members) => {
                let names: Vec<&str> = members.iter().map(MemberId::as_str).collect();
                write!(f, "{}, and until the lease names them", names.join(", "))
            }
        }
    }
}
