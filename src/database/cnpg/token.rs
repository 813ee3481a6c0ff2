//! CloudNativePG's demotion token: base64 of a JSON object with six texts, none of them empty.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::Value;

use crate::core::ids::TimelineId;
use crate::core::token::Token;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    #[serde(rename = "latestCheckpointTimelineID")]
    timeline: String,
    redo_wal_file: String,
    database_system_identifier: String,
    #[serde(rename = "latestCheckpointREDOLocation")]
    redo: String,
    time_of_latest_checkpoint: String,
    operator_version: String,
}

/// Reads a token. What is wrong is said without repeating any of it.
pub(super) fn read(text: &str) -> Result<Token, String> {
    let value =
        text.parse().map_err(|error: crate::core::token::InvalidToken| error.to_string())?;
    let decoded: ByteString = serde_json::from_value(Value::String(text.to_owned()))
        .map_err(|_| "the token is not base64".to_owned())?;
    let content: Content = serde_json::from_slice(&decoded.0).map_err(|_| {
        "the token is not what CloudNativePG gives out: a JSON object with six texts".to_owned()
    })?;
    let all = [
        &content.timeline,
        &content.redo_wal_file,
        &content.database_system_identifier,
        &content.redo,
        &content.time_of_latest_checkpoint,
        &content.operator_version,
    ];
    if all.iter().any(|text| text.is_empty()) {
        return Err("the token has an empty field".to_owned());
    }
    let bad = |what: &str| format!("the token's {what} is not one");
    Ok(Token {
        value,
        system: content.database_system_identifier.parse().map_err(|_| bad("system identifier"))?,
        timeline: TimelineId(content.timeline.parse().map_err(|_| bad("timeline"))?),
        lsn: content.redo.parse().map_err(|_| bad("position"))?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::core::ids::{Lsn, SystemId};

    /// A token as CloudNativePG writes it.
    pub(in crate::database::cnpg) fn written(system: &str, timeline: &str, redo: &str) -> String {
        let content = serde_json::json!({
            "latestCheckpointTimelineID": timeline,
            "redoWalFile": "000000010000000000000003",
            "databaseSystemIdentifier": system,
            "latestCheckpointREDOLocation": redo,
            "timeOfLatestCheckpoint": "Sat 21 Nov 2026 10:00:00 AM UTC",
            "operatorVersion": "1.30.1",
        });
        encoded(content.to_string().as_bytes())
    }

    fn encoded(bytes: &[u8]) -> String {
        let text = serde_json::to_value(ByteString(bytes.to_vec())).unwrap();
        text.as_str().unwrap().to_owned()
    }

    #[test]
    fn a_token_is_read() {
        let token = read(&written("7411111111111111111", "3", "0/3000028")).unwrap();
        assert_eq!(token.system, SystemId(7_411_111_111_111_111_111));
        assert_eq!((token.timeline, token.lsn), (TimelineId(3), Lsn(0x300_0028)));
    }

    #[test]
    fn what_is_none_is_refused_without_being_repeated() {
        let secret = "c2VjcmV0";
        for bad in [
            String::new(),
            secret.to_owned(),
            format!("{secret}!"),
            encoded(b"{}"),
            encoded(br#"["secret"]"#),
            written("", "3", "0/3000028"),
            written("secret", "3", "0/3000028"),
            written("7", "secret", "0/3000028"),
            written("7", "3", "secret"),
            written("7", "-3", "0/1"),
        ] {
            let why = read(&bad).unwrap_err();
            assert!(!why.contains("secret") && !why.contains(secret), "{why}");
        }
    }
}
