//! What the CloudNativePG beside us can do, as far as it can be found out.

use std::fmt;
use std::str::FromStr;

/// A version of CloudNativePG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) patch: u32,
}

impl Version {
    pub(super) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = String;

    /// "1.30.0", "v1.29.1", "1.31.0-rc1".
    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(32).collect();
        let bad = || format!("{shown:?} is no version of CloudNativePG, as in 1.30.1");
        let numbers = text.strip_prefix('v').unwrap_or(text).split(['-', '+']).next().unwrap_or("");
        let numbers: Result<Vec<u32>, _> = numbers.split('.').map(str::parse).collect();
        match numbers.map_err(|_| bad())?.as_slice() {
            [major, minor, patch] => Ok(Self::new(*major, *minor, *patch)),
            [major, minor] => Ok(Self::new(*major, *minor, 0)),
            _ => Err(bad()),
        }
    }
}

/// What was found out about CloudNativePG. Nothing rests on it but warnings: what an action needs, it
/// looks at itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Probe {
    /// Version of the operator that made the instance's pod.
    pub(super) version: Option<Version>,
    /// The instances have a lease among themselves (1.30 and later).
    pub(super) lease: Option<bool>,
}

/// The first one that fails over by quorum when it is told to.
const QUORUM: Version = Version::new(1, 28, 0);

impl Probe {
    /// It can make a failover of its own depend on a quorum of synchronous standbys; unknown: it may.
    pub(super) fn has_quorum(&self) -> bool {
        self.version.is_none_or(|version| version >= QUORUM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let of = |text: &str| text.parse::<Version>();
        assert_eq!(of("1.30.0"), Ok(Version::new(1, 30, 0)));
        assert_eq!(of("v1.29.1"), Ok(Version::new(1, 29, 1)));
        assert_eq!(of("1.31.0-rc1"), Ok(Version::new(1, 31, 0)));
        assert!(of("1.9.9").unwrap() < of("1.24").unwrap());
        for bad in ["", "main", "1", "1.x.0", "1.2.3.4", "-1.2.3"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
