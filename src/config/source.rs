//! Where settings come from: the file, then the environment, then flags; what comes later wins.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{self, Default, Kind, PREFIX};
use super::table::{KEYS, SECTIONS};
use super::value::{self, Value};
use super::{LoadError, Problem};

/// The environment variable that names the file; it is no key.
pub const FILE_VARIABLE: &str = "HARMONY_CONFIG";

/// Everything settings can come from.
#[derive(Clone, Debug, std::default::Default, PartialEq, Eq)]
pub struct Sources {
    /// The TOML file. A missing one is an error; without any, only the rest counts.
    pub file: Option<PathBuf>,
    /// Environment variables; those not called `HARMONY_…` are passed over.
    pub environment: Vec<(String, String)>,
    /// Keys and values from the command line, the later ones winning.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The environment of this process, and nothing else.
    pub fn from_environment() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Self { environment: environment.collect(), ..Self::default() }
    }
}

/// Where one setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was said.
    Default,
    /// Nothing was said; the profile says it.
    Profile,
    /// Nothing was said; it was found on this machine.
    Found,
    /// This line of the file.
    File(PathBuf, usize),
    /// This environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile => f.write_str("profile"),
            Self::Found => f.write_str("found on this machine"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// What was said, key by key, and what was wrong with the rest.
#[derive(Debug, std::default::Default)]
pub(super) struct Given {
    pub(super) values: BTreeMap<&'static str, (Value, Origin)>,
    /// Keys that were said, but badly.
    pub(super) broken: BTreeSet<&'static str>,
    /// Keys that were probably meant by something that is none.
    pub(super) misspelt: BTreeSet<&'static str>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// Reads all sources.
///
/// # Errors
/// Only when the file itself cannot be read; what is wrong inside is in [`Given::problems`].
pub(super) fn gather(sources: &Sources) -> Result<Given, LoadError> {
    let mut given = Given::default();
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| LoadError::File { path: path.clone(), error })?;
        given.read_file(path, &text);
    }
    given.read_sources(sources);
    Ok(given)
}

/// The same with a file that has been read.
pub(super) fn gather_text(file: &str, sources: &Sources) -> Given {
    let mut given = Given::default();
    given.read_file(Path::new("harmony-agent.toml"), file);
    given.read_sources(sources);
    given
}

impl Given {
    fn read_sources(&mut self, sources: &Sources) {
        for (name, text) in &sources.environment {
            self.read_variable(name, text);
        }
        for (path, text) in &sources.flags {
            self.read_text(path, text, Origin::Flag);
        }
    }

    fn read_file(&mut self, path: &Path, text: &str) {
        let (table, spans) = match (toml::from_str::<toml::Table>(text), DeTable::parse(text)) {
            (Ok(table), Ok(spans)) => (table, spans),
            (Err(error), _) | (_, Err(error)) => {
                let what = error.to_string().trim_end().to_owned();
                let origin = Origin::File(path.to_owned(), line(text, error.span()));
                return self.problems.push(Problem::new(Some(origin), format!("not TOML: {what}")));
            }
        };
        let mut lines = BTreeMap::new();
        collect_lines(spans.get_ref(), "", text, &mut lines);
        self.read_table(&table, "", path, &lines);
        // The table is in order of names.
        self.problems.sort_by_key(|problem| match &problem.origin {
            Some(Origin::File(_, line)) => *line,
            Some(_) | None => 0,
        });
    }

    fn read_table(
        &mut self,
        table: &toml::Table,
        section: &str,
        file: &Path,
        lines: &BTreeMap<String, usize>,
    ) {
        for (name, value) in table {
            let path = joined(section, name);
            let origin =
                || Origin::File(file.to_owned(), lines.get(&path).copied().unwrap_or_default());
            match (value.as_table(), keys::find(&path).map(|key| key.kind)) {
                (Some(inner), None | Some(Kind::Table)) => {
                    if inner.is_empty() && !is_section(&path) {
                        self.unknown(&path, origin());
                    }
                    self.read_table(inner, &path, file, lines);
                }
                (Some(_) | None, _) => self.read_value(&path, value, origin()),
            }
        }
    }

    fn read_value(&mut self, path: &str, value: &toml::Value, origin: Origin) {
        if let Some(key) = keys::find(path) {
            self.keep(key.path, value::from_toml(key.kind, value), origin);
        } else if let Some((key, name)) = keys::table_entry(path) {
            self.keep_entry(key.path, name, value::table_value(value), origin);
        } else {
            self.unknown(path, origin);
        }
    }

    fn read_text(&mut self, path: &str, text: &str, origin: Origin) {
        if let Some(key) = keys::find(path) {
            self.keep(key.path, value::from_text(key.kind, text), origin);
        } else if let Some((key, name)) = keys::table_entry(path) {
            self.keep_entry(key.path, name, Ok(text.to_owned()), origin);
        } else {
            self.unknown(path, origin);
        }
    }

    fn read_variable(&mut self, name: &str, text: &str) {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|_| name != FILE_VARIABLE) else {
            return;
        };
        if rest == "HOOK" || rest.starts_with("HOOK_") {
            // What the agent sets for hooks: one of them may call this program.
            return;
        }
        let path = rest.to_lowercase().replace("__", ".");
        let origin = Origin::Environment(name.to_owned());
        let known = keys::find(&path).is_some() || keys::table_entry(&path).is_some();
        if !known && is_service_link(rest) {
            let what = "no such key; passed over as one that Kubernetes sets for a service";
            return self.warnings.push(Problem::new(Some(origin), what.to_owned()));
        }
        self.read_text(&path, text, origin);
    }

    fn keep(&mut self, path: &'static str, value: Result<Value, String>, origin: Origin) {
        match value {
            Ok(value) => {
                self.broken.remove(path);
                self.values.insert(path, (value, origin));
            }
            Err(what) => {
                self.broken.insert(path);
                self.problems.push(Problem::new(Some(origin), format!("{path} {what}")));
            }
        }
    }

    fn keep_entry(
        &mut self,
        path: &'static str,
        name: &str,
        value: Result<String, String>,
        origin: Origin,
    ) {
        let entry = match value {
            Ok(entry) => entry,
            Err(what) => {
                return self
                    .problems
                    .push(Problem::new(Some(origin), format!("{path}.{name} {what}")));
            }
        };
        let (table, latest) = self
            .values
            .entry(path)
            .or_insert_with(|| (Value::Table(BTreeMap::new()), origin.clone()));
        if let Value::Table(table) = table {
            table.insert(name.to_owned(), entry);
        }
        *latest = origin;
    }

    fn unknown(&mut self, path: &str, origin: Origin) {
        let nearest = keys::nearest(path);
        self.misspelt.extend(nearest.map(|key| key.path));
        let hint = match (nearest, &origin) {
            (None, _) => "`harmony-agent config template` lists all keys".to_owned(),
            (Some(key), Origin::Environment(_)) => format!("did you mean {}?", key.variable()),
            (Some(key), _) => format!("did you mean {}?", key.path),
        };
        self.problems.push(Problem::new(Some(origin), format!("there is no key {path}; {hint}")));
    }
}

/// Fills in what was not said: all keys that have a value, with where it came from.
pub(super) fn complete(given: &Given, profile: usize) -> BTreeMap<&'static str, (Value, Origin)> {
    let mut all = given.values.clone();
    for key in KEYS {
        let (text, origin) = match key.default {
            Default::Is(text) => (text, Origin::Default),
            Default::ByProfile(texts) => (texts[profile], Origin::Profile),
            Default::Required | Default::Absent | Default::Found(_) => continue,
        };
        if let (false, Ok(value)) = (all.contains_key(key.path), value::from_text(key.kind, text)) {
            all.insert(key.path, (value, origin));
        }
    }
    all
}

fn joined(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

fn is_section(path: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == path) || keys::find(path).is_some()
}

/// A service called `harmony…` makes Kubernetes set these in every pod of its namespace: they must
/// not stop an agent from starting.
fn is_service_link(rest: &str) -> bool {
    rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || rest.ends_with("_PORT")
        || rest.contains("_PORT_")
}

fn line(text: &str, span: Option<std::ops::Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start).min(text.len());
    text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn collect_lines(table: &DeTable<'_>, section: &str, text: &str, to: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let path = joined(section, name.get_ref());
        to.insert(path.clone(), line(text, Some(name.span())));
        if let DeValue::Table(inner) = value.get_ref() {
            collect_lines(inner, &path, text, to);
        }
    }
}
