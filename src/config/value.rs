//! Texts and TOML values become values of the kind a key asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::fmt::friendly;

use super::keys::Kind;

/// A value of the kind its key asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(u64),
    Flag(bool),
    Duration(Duration),
    List(Vec<String>),
    Table(BTreeMap<String, String>),
}

/// Reads `text` (from the environment, a flag or a default) as a value of `kind`.
pub(super) fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    let toml = match kind {
        Kind::Whole(..) => text.trim().parse().map(toml::Value::Integer).ok(),
        Kind::Flag => text.trim().parse().map(toml::Value::Boolean).ok(),
        Kind::Fraction => text.trim().parse().map(toml::Value::Float).ok(),
        Kind::List | Kind::Command => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Some(toml::Value::Array(parts.map(|part| part.to_owned().into()).collect()))
        }
        Kind::Table => return Err(table_text()),
        Kind::Text
        | Kind::Path
        | Kind::File
        | Kind::Secret
        | Kind::Duration
        | Kind::Size
        | Kind::Choice(_) => None,
    };
    from_toml(kind, &toml.unwrap_or_else(|| text.into()))
}

/// Reads a TOML value as a value of `kind`. The error says what is wrong and what to write instead.
pub(super) fn from_toml(kind: Kind, value: &toml::Value) -> Result<Value, String> {
    let wrong = || Err(format!("is {}, expected {}", described(value), kind.describe()));
    match kind {
        Kind::Text => value.as_str().map_or_else(wrong, |text| Ok(Value::Text(text.to_owned()))),
        Kind::Path | Kind::File | Kind::Secret => value.as_str().map_or_else(wrong, path),
        Kind::Whole(least, most) => match value.as_integer().map(u64::try_from) {
            Some(Ok(number)) if (least..=most).contains(&number) => Ok(Value::Whole(number)),
            Some(_) | None => wrong(),
        },
        Kind::Flag => value.as_bool().map_or_else(wrong, |flag| Ok(Value::Flag(flag))),
        Kind::Duration => match (value.as_str(), number(value)) {
            (Some(text), _) => duration(text).map(Value::Duration),
            (None, Some(number)) => {
                Err(format!("is {number}, without a unit; write \"{number}s\" or \"{number}ms\""))
            }
            (None, None) => wrong(),
        },
        Kind::Size => match (value.as_str(), number(value)) {
            (Some(text), _) => size(text).map(Value::Whole),
            (None, Some(number)) => {
                Err(format!("is {number}, without a unit; write \"{number}MiB\""))
            }
            (None, None) => wrong(),
        },
        Kind::Fraction => match value.as_float().map(parts_per_million) {
            Some(Some(parts)) => Ok(Value::Whole(parts)),
            Some(None) | None => wrong(),
        },
        Kind::Choice(words) => match value.as_str() {
            Some(word) if words.contains(&word) => Ok(Value::Text(word.to_owned())),
            Some(_) | None => wrong(),
        },
        Kind::List => value
            .as_array()
            .and_then(|array| texts(array))
            .map_or_else(wrong, |list| Ok(Value::List(list))),
        Kind::Command => match value.as_array().and_then(|array| texts(array)) {
            Some(list) => command(list),
            None => wrong(),
        },
        Kind::Table => Err(table_text()),
    }
}

/// Reads one entry of a table of the user's own names: texts, numbers and flags, as PostgreSQL writes them.
pub(super) fn table_value(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(flag) => Ok(if *flag { "on" } else { "off" }.to_owned()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(format!("is {}, expected a text, a number or true or false", described(value)))
        }
    }
}

/// `duration` as a person writes it, `1s 500ms`.
pub fn show_duration(duration: Duration) -> String {
    friendly::SpanPrinter::new().unsigned_duration_to_string(&duration)
}

fn table_text() -> String {
    "is a section; set the names below it one by one".to_owned()
}

fn described(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("the text {text:?}"),
        toml::Value::Integer(_) | toml::Value::Float(_) => format!("the number {value}"),
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::Datetime(date) => format!("the date {date}"),
        toml::Value::Array(_) => format!("the list {value}"),
        toml::Value::Table(_) => "a section".to_owned(),
    }
}

fn number(value: &toml::Value) -> Option<String> {
    (value.is_integer() || value.is_float()).then(|| value.to_string())
}

fn path(text: &str) -> Result<Value, String> {
    if text.starts_with('/') {
        Ok(Value::Text(text.to_owned()))
    } else {
        Err(format!("is {text:?}, expected an absolute path: agents start in any directory"))
    }
}

fn command(list: Vec<String>) -> Result<Value, String> {
    match list.first() {
        None => Err("is empty, expected a program; leave it out to run none".to_owned()),
        Some(program) => path(program).map(|_| Value::List(list)),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    if text.trim().parse::<f64>().is_ok() {
        let number = text.trim();
        return Err(format!("is {text:?}, without a unit; write \"{number}s\" or \"{number}ms\""));
    }
    friendly::SpanParser::new()
        .parse_unsigned_duration(text.trim())
        .map_err(|_| format!("is {text:?}, expected a time such as \"250ms\", \"1s\" or \"2m\""))
}

const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];

fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("is {text:?}, expected bytes such as \"512KiB\", \"16MiB\" or \"1GiB\"");
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.trim().strip_suffix(unit)?.trim(), *shift)))
        .ok_or_else(wrong)?;
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("is {text:?}, which is too large"))
}

fn parts_per_million(share: f64) -> Option<u64> {
    let fits = (0.0..=1.0).contains(&share);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1 000 000")]
    let parts = (share * 1e6).round() as u64;
    fits.then_some(parts)
}

fn texts(array: &[toml::Value]) -> Option<Vec<String>> {
    array.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("0B"), Ok(0));
        for bad in ["16", "16MB", "16mb", "-1MiB", "MiB", "1.5MiB", "99999999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "0.5", "-1s", "1 fortnight", "1s ago"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown_durations_read_back() {
        for text in ["250ms", "1500ms", "1h", "2m", "23760ms"] {
            let read = duration(text).unwrap();
            assert_eq!(duration(&show_duration(read)), Ok(read));
        }
    }
}
