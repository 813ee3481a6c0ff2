//! Two lists of values side by side, for people.

use serde_json::Value;
use similar::TextDiff;

/// Lines of a comparison that are shown; the rest is counted.
const MOST_LINES: usize = 200;

/// What is only in `recorded` is marked with `-`, what is only in `computed` with `+`.
pub fn compare(recorded: &[Value], computed: &[Value]) -> String {
    let (old, new) = (text(recorded), text(computed));
    let changes = TextDiff::from_lines(&old, &new);
    let mut shown: Vec<String> = changes
        .iter_all_changes()
        .map(|change| format!("{} {}", change.tag(), change.value().trim_end_matches('\n')))
        .collect();
    if shown.len() > MOST_LINES {
        let more = shown.len() - MOST_LINES;
        shown.truncate(MOST_LINES);
        shown.push(format!("  … {more} lines more"));
    }
    shown.join("\n")
}

fn text(values: &[Value]) -> String {
    if values.is_empty() {
        return "(none)\n".to_owned();
    }
    values.iter().map(|value| format!("{:#}\n", hidden(value))).collect()
}

/// As it is, but without the texts of tokens: a recording has them, a terminal does not.
fn hidden(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let hide = |(key, value): (&String, &Value)| {
                let mut value = hidden(value);
                if key == "token"
                    && let Some(text) = value.get_mut("value")
                {
                    *text = Value::from("(not shown)");
                }
                (key.clone(), value)
            };
            Value::Object(fields.iter().map(hide).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(hidden).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_marked_and_nothing_else() {
        let recorded = [json!({"read": [4, 1]}), json!("observe")];
        let computed = [json!({"read": [5, 1]}), json!("observe"), json!({"cancel": 3})];
        let shown = compare(&recorded, &computed);
        let marked: Vec<_> = shown.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(marked, ["-     4,", "+     5,", "+ {", "+   \"cancel\": 3", "+ }"], "{shown}");
        assert_eq!(compare(&[], &[json!("observe")]), "- (none)\n+ \"observe\"");
    }

    #[test]
    fn the_text_of_a_token_is_not_shown() {
        let token = json!({"value": "c2VjcmV0", "system": "7", "timeline": 1, "lsn": "0/5000"});
        let effect = json!({"act": [1, {"PromoteWith": {"token": token}}, 7, 1]});
        for (old, new) in [(vec![effect.clone()], vec![]), (vec![], vec![effect])] {
            let shown = compare(&old, &new);
            assert!(!shown.contains("c2VjcmV0") && shown.contains("0/5000"), "{shown}");
        }
    }

    #[test]
    fn a_long_comparison_is_cut() {
        let old: Vec<_> = (0..5_000).map(|number| json!(number)).collect();
        let new: Vec<_> = (5_000..9_000).map(|number| json!(number)).collect();
        let shown = compare(&old, &new);
        assert_eq!(shown.lines().count(), MOST_LINES + 1);
        assert!(shown.ends_with("… 8800 lines more"), "{shown}");
    }
}
