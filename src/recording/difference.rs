//! Two lists of values side by side, for people.

use serde_json::Value;

/// Lines of a comparison that are shown; the rest is counted.
const MOST_LINES: usize = 200;

/// What is only in `recorded` is marked with `-`, what is only in `computed` with `+`.
pub fn compare(recorded: &[Value], computed: &[Value]) -> String {
    let (old, new) = (lines(recorded), lines(computed));
    let mut shown = merge(&old, &new);
    if shown.len() > MOST_LINES {
        let more = shown.len() - MOST_LINES;
        shown.truncate(MOST_LINES);
        shown.push(format!("  … {more} lines more"));
    }
    shown.join("\n")
}

fn lines(values: &[Value]) -> Vec<String> {
    if values.is_empty() {
        return vec!["(none)".to_owned()];
    }
    let texts = values.iter().map(|value| format!("{value:#}"));
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The shortest way from `old` to `new`, unless they are too long for the table it takes.
fn merge(old: &[String], new: &[String]) -> Vec<String> {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let mut shown: Vec<String> = old[..same].iter().map(|line| format!("  {line}")).collect();
    let (old, new) = (&old[same..], &new[same..]);
    if old.len().saturating_mul(new.len()) > 4_000_000 {
        shown.extend(old.iter().map(|line| format!("- {line}")));
        shown.extend(new.iter().map(|line| format!("+ {line}")));
        return shown;
    }
    let width = new.len() + 1;
    // common[i * width + j]: lines that old[i..] and new[j..] have in common, in order.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            shown.push(format!("  {}", old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len()
            || i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]
        {
            shown.push(format!("- {}", old[i]));
            i += 1;
        } else {
            shown.push(format!("+ {}", new[j]));
            j += 1;
        }
    }
    shown
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
    fn a_long_comparison_is_cut() {
        let old: Vec<_> = (0..5_000).map(|number| json!(number)).collect();
        let new: Vec<_> = (5_000..9_000).map(|number| json!(number)).collect();
        let shown = compare(&old, &new);
        assert_eq!(shown.lines().count(), MOST_LINES + 1);
        assert!(shown.ends_with("… 8800 lines more"), "{shown}");
    }
}
