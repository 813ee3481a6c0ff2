//! `/status` of an agent, as `status` reads and prints it.

use harmony_agent::cli::status::{decode, page};
use harmony_agent::http::View;
use serde_json::Value;

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
            assert_eq!(without_fractions(&again), without_fractions(&view));
        }
    }
}

/// Seconds are for people, and may lose their last digit when they are read.
fn without_fractions(view: &View) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Number(number) if number.is_f64() => *value = Value::Null,
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::Object(entries) => entries.values_mut().for_each(strip),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut value = serde_json::to_value(view).unwrap();
    strip(&mut value);
    value
}
