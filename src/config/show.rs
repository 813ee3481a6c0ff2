//! Values as the file would say them.

use super::keys::Kind;
use super::value::{Value, show_duration};

/// A value as the file would say it.
pub(super) fn show(kind: Kind, value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Whole(number) => match kind {
            Kind::Size => show_size(*number),
            Kind::Fraction => show_fraction(*number),
            Kind::Text
            | Kind::Path
            | Kind::File
            | Kind::Secret
            | Kind::Whole(..)
            | Kind::Flag
            | Kind::Duration
            | Kind::Choice(_)
            | Kind::List
            | Kind::Command
            | Kind::Table => number.to_string(),
        },
        Value::Flag(flag) => flag.to_string(),
        Value::Duration(duration) => format!("{:?}", show_duration(*duration)),
        Value::List(items) => {
            format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
        }
        Value::Table(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// A text in one line of TOML, whatever is in it.
fn quoted(text: &str) -> String {
    let mut shown = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => shown.extend(['\\', c]),
            c if c.is_control() => shown.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown.push('"');
    shown
}

/// Bytes with the largest unit that leaves a whole number.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(
        || format!("\"{bytes}B\""),
        |(unit, shift)| format!("\"{}{unit}\"", bytes >> shift),
    )
}

fn show_fraction(parts_per_million: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "at most 1 000 000")]
    let share = parts_per_million as f64 / 1e6;
    format!("{share:?}")
}
