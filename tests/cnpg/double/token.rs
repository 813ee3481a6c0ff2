//! The token of a demotion: base64 of JSON with six fields of `pg_controldata`.

use std::fmt::Write as _;

use serde_json::{Value, json};

const FIELDS: [&str; 6] = [
    "latestCheckpointTimelineID",
    "redoWalFile",
    "databaseSystemIdentifier",
    "latestCheckpointREDOLocation",
    "timeOfLatestCheckpoint",
    "operatorVersion",
];

/// What `pg_controldata` calls the first five.
const LABELS: [&str; 5] = [
    "Latest checkpoint's TimeLineID",
    "Latest checkpoint's REDO WAL file",
    "Database system identifier",
    "Latest checkpoint's REDO location",
    "Time of latest checkpoint",
];

/// One line of `pg_controldata`.
pub(crate) fn line<'a>(control: &'a str, label: &str) -> &'a str {
    control
        .lines()
        .find_map(|line| line.strip_prefix(label)?.strip_prefix(':'))
        .map(str::trim)
        .unwrap_or_default()
}

/// The token of this control data, by an operator of this version.
pub(crate) fn write(control: &str, version: &str) -> String {
    let mut content = json!({ "operatorVersion": version });
    for (field, label) in FIELDS.iter().zip(LABELS) {
        content[field] = line(control, label).into();
    }
    encode(content.to_string().as_bytes())
}

/// A token with another field.
#[cfg(test)]
pub(crate) fn forged(token: &str, field: &str, value: &str) -> String {
    let mut content: Value = read(token).expect("a token");
    content[field] = value.into();
    encode(content.to_string().as_bytes())
}

/// The content of a token, or what the webhook says about it.
pub(crate) fn read(token: &str) -> Result<Value, String> {
    let bytes = decode(token)
        .ok_or_else(|| "Invalid promotionToken format: illegal base64 data".to_owned())?;
    let content: Value = serde_json::from_slice(&bytes)
        .map_err(|error| format!("Invalid promotionToken format: {error}"))?;
    match FIELDS.iter().find(|field| content[**field].as_str().unwrap_or_default().is_empty()) {
        Some(field) => Err(format!("Invalid promotionToken content: {field} is empty")),
        None => Ok(content),
    }
}

/// What the token means for an instance with this control data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has exactly what the token says.
    Right,
    /// It does not have everything yet.
    Early,
    /// It never will.
    Wrong,
}

/// Compares; `control` is that of a standby after a checkpoint.
pub(crate) fn judge(content: &Value, control: &str) -> Verdict {
    let field = |name: &str| content[name].as_str().unwrap_or_default();
    if field("databaseSystemIdentifier") != line(control, "Database system identifier") {
        return Verdict::Wrong;
    }
    let timelines = (number(line(control, LABELS[0])), number(field("latestCheckpointTimelineID")));
    let places = (
        lsn(line(control, "Latest checkpoint's REDO location")),
        lsn(field("latestCheckpointREDOLocation")),
    );
    match (timelines, places) {
        ((Some(own), Some(wanted)), _) if own > wanted => Verdict::Wrong,
        ((Some(own), Some(wanted)), _) if own < wanted => Verdict::Early,
        (_, (Some(own), Some(wanted))) if own > wanted => Verdict::Wrong,
        (_, (Some(own), Some(wanted))) if own < wanted => Verdict::Early,
        ((Some(_), Some(_)), (Some(_), Some(_))) => Verdict::Right,
        _ => Verdict::Wrong,
    }
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// A place in the WAL.
pub(crate) fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0_u8; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u32::from(word[0]) << 16 | u32::from(word[1]) << 8 | u32::from(word[2]);
        for place in 0..4 {
            if place <= chunk.len() {
                let index = (word >> (18 - 6 * place)) & 63;
                let _ = write!(text, "{}", char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    for letter in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        word = word << 6 | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((word >> bits) & 255).ok()?);
        }
    }
    Some(bytes)
}
