//! What the server's codes mean for a write (`docs/protocol.md`, section 3).

use serde::Deserialize;

/// An error as the JetStream API tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ApiError {
    /// As in HTTP.
    #[serde(default)]
    pub(super) code: u16,
    /// The code that tells what happened.
    #[serde(default)]
    pub(super) err_code: u32,
    /// For people.
    #[serde(default)]
    pub(super) description: String,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.description, self.err_code)
    }
}

/// The server's answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is in the store; `duplicate` when an earlier sending of it is.
    Stored {
        /// Its revision.
        sequence: u64,
        /// By an earlier sending.
        duplicate: bool,
    },
    /// The key has moved on from the expected revision.
    MovedOn,
    /// Another write of the key, perhaps an earlier sending of this one, is under way.
    Busy,
    /// An earlier sending of this one is under way.
    UnderWay,
    /// No leader, or it has no time: this sending did not land.
    Unavailable(ApiError),
    /// No room.
    Full(ApiError),
    /// The value is longer than the bucket takes.
    TooLong,
    /// Refused for what an operator has to mend.
    Wrong(ApiError),
    /// Not an answer we know.
    Unclear(String),
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

/// Reads the answer to a write.
pub(super) fn answer(payload: &[u8]) -> Answer {
    let ack: Ack = match serde_json::from_slice(payload) {
        Ok(ack) => ack,
        Err(error) => return Answer::Unclear(format!("an answer that is none: {error}")),
    };
    let Some(error) = ack.error else {
        return match ack.seq {
            0 => Answer::Unclear("an answer without a sequence".to_owned()),
            sequence => Answer::Stored { sequence, duplicate: ack.duplicate },
        };
    };
    match error.err_code {
        10071 => Answer::MovedOn,
        10164 => Answer::Busy,
        10158 => Answer::UnderWay,
        10054 => Answer::TooLong,
        // No room in the account, the server, the stream.
        10002 | 10023 | 10028 | 10047 | 10077 => Answer::Full(error),
        10008 | 10009 | 10163 | 10167 => Answer::Unavailable(error),
        10060 | 10059 | 10039 | 10076 | 10109..=10111 => Answer::Wrong(error),
        _ if error.code == 503 || error.code == 429 => Answer::Unavailable(error),
        _ => Answer::Unclear(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, err_code: u32) -> Answer {
        let text = format!(
            r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"d"}},"stream":"s","seq":0}}"#
        );
        answer(text.as_bytes())
    }

    #[test]
    fn each_code_has_one_meaning() {
        assert_eq!(
            answer(br#"{"stream":"s","seq":7,"duplicate":true}"#),
            Answer::Stored { sequence: 7, duplicate: true }
        );
        assert_eq!(of(400, 10071), Answer::MovedOn);
        assert_eq!(of(400, 10164), Answer::Busy);
        assert_eq!(of(409, 10158), Answer::UnderWay);
        assert_eq!(of(400, 10054), Answer::TooLong);
        for code in [10008, 10009, 10163, 10999] {
            assert!(matches!(of(503, code), Answer::Unavailable(_)), "{code}");
        }
        for code in [10002, 10023, 10028, 10047, 10077] {
            assert!(matches!(of(503, code), Answer::Full(_)), "{code}");
        }
        assert!(matches!(of(400, 10060), Answer::Wrong(_)));
    }

    #[test]
    fn what_is_not_understood_is_unclear() {
        for text in ["", "{}", "[]", "null", r#"{"seq":0}"#, "garbage"] {
            assert!(matches!(answer(text.as_bytes()), Answer::Unclear(_)), "{text}");
        }
        assert!(matches!(of(500, 12345), Answer::Unclear(_)));
    }
}
