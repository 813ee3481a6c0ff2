//! The commented configuration with all keys, written from the table of keys.

use std::fmt::Write;

use super::keys::{Default, Key, Kind};
use super::table::{KEYS, SECTIONS};

/// The whole configuration as a file: every key with what it means, its unit and its default.
/// The required keys are empty and have to be filled in.
pub fn template() -> String {
    let mut text = HEAD.to_owned();
    for key in KEYS.iter().filter(|key| key.section().is_empty()) {
        entry(&mut text, key);
    }
    for (section, about) in SECTIONS {
        text.push_str("\n\n");
        comment(&mut text, about);
        text.push_str(&format!("[{section}]\n"));
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            entry(&mut text, key);
        }
    }
    text
}

const HEAD: &str = "\
# Configuration of harmony-agent. Written by `harmony-agent config template`; check yours with
# `harmony-agent config check`. What is commented out is the default.
#
# Every key can also be set in the environment, HARMONY_TIMING__LEASE_DURATION=1s (upper case, __ between
# section and name), and on the command line, --set timing.lease_duration=1s. The environment wins over
# this file, the command line over both.
";

fn entry(text: &mut String, key: &Key) {
    text.push('\n');
    comment(text, key.about);
    let name = key.name();
    let (line, remark) = match key.default {
        Default::Required => (format!("{name} = \"\""), "required".to_owned()),
        Default::Absent => (example(key), "not set".to_owned()),
        Default::Is(value) => (format!("# {name} = {}", literal(key.kind, value)), String::new()),
        Default::ByProfile([fast, standard, wan]) => (
            format!("# {name} = {}", literal(key.kind, standard)),
            format!("fast {fast}, standard {standard}, wan {wan}"),
        ),
        Default::Found(how) => (example(key), how.to_owned()),
    };
    let kind = key.kind.describe();
    let remark = if remark.is_empty() { kind } else { format!("{kind}; {remark}") };
    let written = writeln!(text, "# ({remark})\n{line}");
    debug_assert!(written.is_ok(), "writing to a string does not fail");
}

/// A key without a fixed default: shown as a comment that says so by its form, `# name = …`.
fn example(key: &Key) -> String {
    format!("# {} = …", key.name())
}

fn comment(text: &mut String, about: &str) {
    for line in about.lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
}

fn literal(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Whole(..) | Kind::Flag | Kind::Fraction => value.to_owned(),
        Kind::Text
        | Kind::Path
        | Kind::File
        | Kind::Secret
        | Kind::Duration
        | Kind::Size
        | Kind::Choice(_) => format!("{value:?}"),
        Kind::List | Kind::Command | Kind::Table => format!("[{value:?}]"),
    }
}
