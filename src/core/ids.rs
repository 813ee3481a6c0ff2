//! Names and numbers with an order or a unit, each its own type so that none is mistaken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a valid name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidId {
    /// What was being read, e.g. "member name".
    pub what: &'static str,
    /// The text as read, shortened.
    pub text: String,
    /// The rule it broke.
    pub rule: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} is not valid: {}", self.what, self.text, self.rule)
    }
}

impl std::error::Error for InvalidId {}

impl InvalidId {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(64).collect(), rule }
    }
}

/// Longest name accepted: it becomes part of store keys, file names and `application_name`
/// (PostgreSQL cuts the latter at 63 bytes).
const LONGEST_NAME: usize = 48;

const NAME_RULE: &str =
    "1 to 48 characters of a-z, 0-9, '-' and '_', starting with a letter or a digit";

fn checked_name(what: &'static str, text: &str) -> Result<String, InvalidId> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if starts_well && text.len() <= LONGEST_NAME && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(InvalidId::new(what, text, NAME_RULE))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                checked_name($what, text).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// One logical PostgreSQL database; its bucket is `harmony_<cluster_id>`.
    ClusterId,
    "cluster id"
);
name!(
    /// One place that can hold the data: a PostgreSQL instance, or a CNPG `Cluster` in one site.
    MemberId,
    "member name"
);
name!(
    /// Where a member stands: those of one site reach each other sooner, and may fail together.
    Site,
    "site name"
);
name!(
    /// UUID made when the store's bucket was created. Another one means the store was lost or replaced.
    Incarnation,
    "incarnation"
);
name!(
    /// UUID made at each start of an agent.
    BootId,
    "boot id"
);
name!(
    /// UUID kept in the agent's state directory: tells two agents configured with one member name apart.
    InstanceId,
    "instance id"
);

macro_rules! number {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $type(pub $inner);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Number of lease acquisitions so far; only grows. With the incarnation it is the fencing token.
    Epoch(u64)
);
number!(
    /// The store's version number of one key, used for compare-and-set. Opaque but growing.
    Revision(u64)
);
number!(
    /// PostgreSQL timeline.
    TimelineId(u32)
);
number!(
    /// One operation of this agent: an effect with it is answered by exactly one completion.
    OpId(u64)
);

impl Epoch {
    /// The epoch of the next acquisition.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// `system_identifier` of a PostgreSQL cluster: equal on a primary and all its standbys.
/// Written as text, because JSON numbers lose it above 2⁵³.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let rule = "a whole number as printed by pg_controldata";
        text.parse().map(Self).map_err(|_| InvalidId::new("system identifier", text, rule))
    }
}

/// Position in the write-ahead log, in bytes; printed as PostgreSQL does, `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `behind` to this position; zero when `behind` is ahead.
    pub fn bytes_ahead_of(self, behind: Self) -> u64 {
        self.0.saturating_sub(behind.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let half = |digits: &str| {
            let fits =
                (1..=8).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit());
            fits.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| InvalidId::new("LSN", text, "two hexadecimal numbers as in 16/B374D848"))
    }
}

macro_rules! as_text {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(SystemId);
as_text!(Lsn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "pg-1", "0f_x"] {
            assert!(good.parse::<MemberId>().is_ok(), "{good}");
        }
        let long = "x".repeat(49);
        for bad in ["", "-a", "A", "a.b", "a*", "a b", "ä", &long] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lsn_reads_what_it_prints() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!(lsn.bytes_ahead_of("16/B374D800".parse().unwrap()), 0x48);
        for bad in ["", "16", "/", "16/", "G/0", "123456789/0", "+1/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
