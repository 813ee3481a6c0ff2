//! What CloudNativePG gives out when a site's primary was demoted in an orderly way: with it another site
//! proves, before it is promoted, that it has all of the old primary's log.
//!
//! To the core it is opaque: it passes it on, to whom the lease was released, and asks nothing of it but
//! which data it is about.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ids::{Lsn, SystemId, TimelineId};

/// Longest text of a token that is accepted. Those of CloudNativePG have some 350 characters.
const LONGEST: usize = 4096;

/// Proof of an orderly demotion, and which data it is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// As CloudNativePG wrote it.
    pub value: TokenText,
    /// Identity of the data.
    pub system: SystemId,
    /// The timeline that ended.
    pub timeline: TimelineId,
    /// Where its last checkpoint begins.
    pub lsn: Lsn,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token of system {}, timeline {}, {}", self.system, self.timeline, self.lsn)
    }
}

/// A token's text. It is shown nowhere: whoever has it can have a site promoted.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenText(String);

impl TokenText {
    /// The text, to be sent and not to be shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidToken {
    /// Its length in bytes; the text itself is not told.
    pub length: usize,
}

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a text of {} bytes is no token: 1 to {LONGEST} characters of base64 are expected",
            self.length
        )
    }
}

impl std::error::Error for InvalidToken {}

impl FromStr for TokenText {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=-_".contains(&c);
        if (1..=LONGEST).contains(&text.len()) && text.bytes().all(base64) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidToken { length: text.len() })
        }
    }
}

impl Serialize for TokenText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TokenText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_read_and_never_shown() {
        let token = Token {
            value: "eyJhIjoxfQ==".parse().unwrap(),
            system: SystemId(7),
            timeline: TimelineId(3),
            lsn: Lsn(0x5000),
        };
        for shown in [format!("{token:?}"), format!("{token:#?}"), token.to_string()] {
            assert!(
                !shown.contains("eyJ") && shown.contains('7') && shown.contains('3'),
                "{shown}"
            );
        }
        let json = serde_json::to_string(&token).unwrap();
        assert_eq!(serde_json::from_str::<Token>(&json).unwrap(), token);
        assert_eq!(token.value.reveal(), "eyJhIjoxfQ==");
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_told() {
        for bad in ["", "secret?", "secret secret", "sécret", &"secret".repeat(700)] {
            let why = bad.parse::<TokenText>().unwrap_err().to_string();
            assert!(!why.contains("cret"), "{why}");
            let json = serde_json::to_string(bad).unwrap();
            let why = serde_json::from_str::<TokenText>(&json).unwrap_err().to_string();
            assert!(!why.contains("cret"), "{why}");
        }
    }
}
