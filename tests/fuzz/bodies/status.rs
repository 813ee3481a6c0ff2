//! `/status` of an agent, as `status` reads and prints it.

use harmony_agent::cli::status::{decode, page};

pub(crate) fn body(data: &[u8]) {
    match decode(data) {
        Err(error) => assert!(!error.trim().is_empty()),
        Ok(view) => {
            let shown = page(&view);
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "controls a terminal");
            // A table is as wide as its widest cell in every row.
            let most = 4096 + (data.len() + 64) * (view.members.len() + 4) * 4;
            assert!(shown.len() <= most, "{} bytes shown of {}", shown.len(), data.len());
            let written = serde_json::to_vec(&view).unwrap();
            let again = decode(&written).unwrap();
            assert_eq!(serde_json::to_vec(&again).unwrap(), written);
        }
    }
}
