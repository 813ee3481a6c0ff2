//! What the Role allows is what the agent calls, no less and no more.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use harmony_agent::database::cnpg::{CALLS, CALLS_OF_INSTANCES};

use super::{OF_INSTANCES, SITES, example, object, site, text};

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
                let (object, part) = resource.split_once('/').unwrap_or((resource, ""));
                let on = format!("{object}.{group}").trim_end_matches('.').to_owned();
                let on = if part.is_empty() { on } else { format!("{on}/{part}") };
                let call = (verb.to_owned(), on, named);
                assert!(found.insert(call), "{verb} {resource} is allowed twice");
            }
        }
    }
    found
}

/// The tables of calls in the documentation: what every agent does, and what one of several instances does
/// besides.
fn documented() -> [BTreeSet<Call>; 2] {
    let page = text("docs/cnpg/permissions.md");
    let (all, of_instances) = page.split_once("\n## ").expect("a part about instances");
    [all, of_instances].map(rows)
}

fn rows(part: &str) -> BTreeSet<Call> {
    let rows = part.lines().filter_map(|line| {
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
        assert_eq!(role, documented()[0], "docs/cnpg/permissions.md and role.yaml");
    }
}

/// Where every instance is a member, there is a second Role, for what the first one does not have.
#[test]
fn the_second_role_allows_what_instances_call_besides() {
    for name in OF_INSTANCES {
        let objects = example(name);
        let cluster = &object(&objects, "Cluster")["metadata"]["name"];
        let of_kind =
            |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
        assert_eq!([of_kind("Role").count(), of_kind("RoleBinding").count()], [2, 2], "{name}");
        for (role, wanted) in of_kind("Role").zip(documented()) {
            assert_eq!(allowed(role, cluster), wanted, "{name} and docs/cnpg/permissions.md");
            let mut bindings = of_kind("RoleBinding");
            let bound = bindings.find(|it| it["roleRef"]["name"] == role["metadata"]["name"]);
            let whom = &bound.expect("a binding")["subjects"][0]["name"];
            assert_eq!(whom, cluster, "{name}: the operator's service account");
        }
    }
}

#[test]
fn the_agent_calls_what_is_documented() {
    let calls = |list: &[(&str, &str, bool)]| -> BTreeSet<Call> {
        list.iter()
            .map(|(verb, on, named)| ((*verb).to_owned(), (*on).to_owned(), *named))
            .collect()
    };
    let known = [calls(&CALLS), calls(&CALLS_OF_INSTANCES)];
    assert_eq!(known, documented(), "docs/cnpg/permissions.md and CALLS");
}
