//! What the Role allows is what the agent calls, no less and no more.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{SITES, object, site, text};

/// A verb and what it is done to, with its subresource.
type Call = (String, String);

fn allowed(role: &Value) -> BTreeSet<Call> {
    let texts = |list: &Value| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        items.map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let mut found = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    assert!(!format!("{group}{resource}{verb}").contains('*'), "{rule}");
                    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                    let (name, rest) =
                        resource.split_once('/').map_or((&resource[..], ""), |(a, b)| (a, b));
                    let rest = if rest.is_empty() { String::new() } else { format!("/{rest}") };
                    found.insert((verb, format!("{name}{group}{rest}")));
                }
            }
        }
    }
    found
}

/// The rows of the table of calls in the documentation.
fn documented() -> BTreeSet<Call> {
    let page = text("docs/cnpg/permissions.md");
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let code = |cell: &str| cell.strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
        Some((code(cells.get(1)?)?, code(cells.get(2)?)?))
    });
    rows.collect()
}

#[test]
fn the_role_allows_what_is_called_and_nothing_else() {
    for name in SITES {
        let objects = site(name);
        let role = object(&objects, "Role");
        assert_eq!(allowed(role), documented(), "docs/cnpg/permissions.md and role.yaml");
        let cluster = &object(&objects, "Cluster")["metadata"]["name"];
        for rule in role["rules"].as_array().unwrap() {
            // One object, by its name.
            assert_eq!(rule["resourceNames"], serde_json::json!([cluster]), "{rule}");
        }
    }
}
