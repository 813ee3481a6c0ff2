//! What the Role allows is what the agent calls, no less and no more.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{SITES, object, site, text};

/// A verb, what it is done to, and whether only the Cluster's own name is meant.
type Call = (String, String, bool);

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().unwrap()).collect()
}

fn allowed(role: &Value, cluster: &Value) -> BTreeSet<Call> {
    let mut found = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let named = match rule.get("resourceNames") {
            Some(names) => {
                assert_eq!(names, &json!([cluster]), "{rule}");
                true
            }
            None => false,
        };
        for (group, resource) in texts(&rule["apiGroups"])
            .into_iter()
            .flat_map(|group| texts(&rule["resources"]).into_iter().map(move |it| (group, it)))
        {
            for verb in texts(&rule["verbs"]) {
                assert!(![group, resource, verb].contains(&"*"), "{rule}");
                let on = format!("{resource}.{group}").trim_end_matches('.').to_owned();
                let call = (verb.to_owned(), on, named);
                assert!(found.insert(call), "{verb} {resource} is allowed twice");
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
        let call = (code(cells.get(1)?)?, code(cells.get(2)?)?);
        Some((call.0, call.1, cells.get(3)? == &"the site's own"))
    });
    rows.collect()
}

#[test]
fn the_role_allows_what_is_called_and_nothing_else() {
    for name in SITES {
        let objects = site(name);
        let cluster = &object(&objects, "Cluster")["metadata"]["name"];
        let role = allowed(object(&objects, "Role"), cluster);
        assert_eq!(role, documented(), "docs/cnpg/permissions.md and role.yaml");
    }
}

#[test]
fn the_agent_calls_what_is_documented() {
    let calls = harmony_agent::database::cnpg::CALLS;
    let calls = calls.map(|(verb, on, named)| (verb.to_owned(), on.to_owned(), named));
    assert_eq!(BTreeSet::from(calls), documented(), "docs/cnpg/permissions.md and CALLS");
}
