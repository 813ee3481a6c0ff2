//! Who somebody is, and what he may do: bearer tokens and roles.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::failure::Failure;
use super::resource::Place;

/// Token of the account that may do everything.
pub(crate) const ADMIN_TOKEN: &str = "double-admin";
/// Name of that account.
pub(crate) const ADMIN: &str = "kubernetes-admin";

/// One rule of a Role.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    /// API groups, `*` for all.
    pub(crate) api_groups: Vec<String>,
    /// Resources, a subresource as `clusters/status`.
    pub(crate) resources: Vec<String>,
    /// Empty: all of them.
    #[serde(default)]
    pub(crate) resource_names: Vec<String>,
    /// Verbs, `*` for all.
    pub(crate) verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Role {
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
}

impl Rule {
    fn allows(&self, verb: &str, place: &Place, name: Option<&str>) -> bool {
        let has =
            |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        has(&self.verbs, verb)
            && has(&self.api_groups, place.resource.group)
            && has(&self.resources, &place.in_roles())
            && (self.resource_names.is_empty()
                || name.is_some_and(|name| self.resource_names.iter().any(|item| item == name)))
    }
}

/// The rules of every Role in `yaml`; other documents in it are passed over.
pub(crate) fn rules(yaml: &str) -> Result<Vec<Rule>, String> {
    let mut rules = Vec::new();
    for document in yaml.split("\n---") {
        if document.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        let role: Role = serde_saphyr::from_str(document).map_err(|error| error.to_string())?;
        if role.kind == "Role" || role.kind == "ClusterRole" {
            rules.extend(role.rules);
        }
    }
    Ok(rules)
}

/// Everybody who is known.
#[derive(Debug)]
pub(crate) struct Accounts {
    tokens: BTreeMap<String, String>,
    rules: BTreeMap<String, Vec<Rule>>,
}

impl Accounts {
    /// Only the one that may do everything.
    pub(crate) fn new() -> Self {
        let mut accounts = Self { tokens: BTreeMap::new(), rules: BTreeMap::new() };
        let all = vec!["*".to_owned()];
        let rule = Rule {
            api_groups: all.clone(),
            resources: all.clone(),
            resource_names: vec![],
            verbs: all,
        };
        accounts.set(ADMIN, ADMIN_TOKEN, vec![rule]);
        accounts
    }

    /// Lets `name` in with `token`, to do what `rules` allow.
    pub(crate) fn set(&mut self, name: &str, token: &str, rules: Vec<Rule>) {
        self.tokens.retain(|_, known| known != name);
        self.tokens.insert(token.to_owned(), name.to_owned());
        self.rules.insert(name.to_owned(), rules);
    }

    /// Whose request it is, by its `Authorization` header.
    pub(crate) fn who(&self, header: Option<&str>) -> Result<String, Failure> {
        let Some(header) = header else { return Ok("system:anonymous".to_owned()) };
        let token = header.strip_prefix("Bearer ").ok_or_else(Failure::unauthorized)?;
        self.tokens.get(token).cloned().ok_or_else(Failure::unauthorized)
    }

    /// Whether `who` may; `name` is what is named, also by a field selector.
    pub(crate) fn check(
        &self,
        who: &str,
        verb: &str,
        place: &Place,
        name: Option<&str>,
    ) -> Result<(), Failure> {
        let rules = self.rules.get(who).map(Vec::as_slice).unwrap_or_default();
        if rules.iter().any(|rule| rule.allows(verb, place, name)) {
            return Ok(());
        }
        let scope = place.namespace.as_ref().map_or_else(
            || "at the cluster scope".to_owned(),
            |namespace| format!("in the namespace {namespace:?}"),
        );
        let rest = format!(
            "User {who:?} cannot {verb} resource {:?} in API group {:?} {scope}",
            place.in_roles(),
            place.resource.group
        );
        Err(Failure::forbidden(place.resource, name, rest))
    }
}
