//! What a key of the configuration is. The keys themselves are in [`super::table`].

use super::table::KEYS;

/// One key: the source of the template, of the environment's names and of every default.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section and name, as in `timing.lease_duration`.
    pub path: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What it is when nothing is said.
    pub default: Default,
    /// What it means, and what more or less of it costs.
    pub about: &'static str,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// An absolute path.
    Path,
    /// An absolute path of a file that must be readable and not empty.
    File,
    /// The same, and only its owner and group should be able to read it.
    Secret,
    /// A whole number within these limits.
    Whole(u64, u64),
    /// `true` or `false`.
    Flag,
    /// A time with its unit, `250ms`.
    Duration,
    /// Bytes with their unit, `16MiB`.
    Size,
    /// A share between 0 and 1, kept in parts per million.
    Fraction,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts; in the environment separated by commas.
    List,
    /// A program by its absolute path, and its arguments; written as a list.
    Command,
    /// Names of the user's own choice, each with a value.
    Table,
}

impl Kind {
    /// What it looks like, for the template and for errors.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Path => "absolute path".to_owned(),
            Self::File => "absolute path of a file".to_owned(),
            Self::Secret => "absolute path of a file with a secret".to_owned(),
            Self::Whole(least, most) => format!("whole number, {least} to {most}"),
            Self::Flag => "true or false".to_owned(),
            Self::Duration => "time with a unit (us, ms, s, m, h)".to_owned(),
            Self::Size => "bytes with a unit (B, KiB, MiB, GiB, TiB)".to_owned(),
            Self::Fraction => "share between 0 and 1".to_owned(),
            Self::Choice(words) => words.join(" | "),
            Self::List => "list of texts".to_owned(),
            Self::Command => "list: absolute path of a program, then its arguments".to_owned(),
            Self::Table => "table of names and values".to_owned(),
        }
    }
}

/// What a key is when nothing is said. Texts are written as in the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// It has to be said.
    Required,
    /// Absent.
    Absent,
    /// This.
    Is(&'static str),
    /// By profile: fast, standard, wan.
    ByProfile([&'static str; 3]),
    /// Found out at start, as described.
    Found(&'static str),
}

impl Key {
    /// The section, `timing` of `timing.lease_duration`; empty for keys outside any.
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The name within the section.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The environment variable that sets it: `HARMONY_TIMING__LEASE_DURATION`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.path.replace('.', "__").to_uppercase())
    }
}

/// How environment variables of ours begin.
pub(super) const PREFIX: &str = "HARMONY_";

/// Key that takes names of the user's own choice below it, and the rest of `path` as such a name.
pub(super) fn table_entry(path: &str) -> Option<(&'static Key, &str)> {
    KEYS.iter().filter(|key| key.kind == Kind::Table).find_map(|key| {
        let name = path.strip_prefix(key.path)?.strip_prefix('.')?;
        (!name.is_empty()).then_some((key, name))
    })
}

/// The key called `path`.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The key most like `path`, when one is like it at all.
pub(super) fn nearest(path: &str) -> Option<&'static Key> {
    let last = path.rsplit_once('.').map_or(path, |(_, name)| name);
    let likeness = |key: &Key| {
        let whole = strsim::normalized_damerau_levenshtein(path, key.path);
        // The right name in the wrong section is the likeliest mistake of all.
        whole.max(0.95 * strsim::normalized_damerau_levenshtein(last, key.name()))
    };
    let best = KEYS.iter().map(|key| (likeness(key), key)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness >= 0.6).map(|(_, key)| key)
}
