//! What the agents of instances may do besides, taken away: it is named, nobody is promoted without it, and with it
//! back everything works.

use super::super::double::api::access::{Rule, rules};
use super::super::sites::site::{AGENT, ROLE, TOKEN};
use super::cluster::{Field, MORE, Site};
use crate::live::checks::LONG;
use crate::live::cluster::until;
use crate::live::orders::ask;

const APPOINT: &str = "not allowed to patch clusters.postgresql.cnpg.io/status";

/// What is deployed, without these verbs for these resources.
fn allow_all_but(site: &Site, without: &[(&str, &str)]) {
    let named = |role: &str| rules(&role.replace("[pg]", &format!("[{}]", site.name))).unwrap();
    let mut rules: Vec<Rule> = [named(ROLE), named(MORE)].concat();
    for (verb, resource) in without {
        let before: usize = rules.iter().map(|rule| rule.verbs.len()).sum();
        for rule in rules.iter_mut().filter(|rule| rule.resources.iter().any(|it| it == resource)) {
            rule.verbs.retain(|allowed| allowed != verb);
        }
        let after: usize = rules.iter().map(|rule| rule.verbs.len()).sum();
        assert_eq!(after, before - 1, "it was not allowed to {verb} {resource}");
    }
    site.double.server().set_account(AGENT, TOKEN, rules);
}

#[test]
fn nobody_is_promoted_who_may_not_be_appointed_and_somebody_is_as_soon_as_it_may() {
    let mut field = Field::one();
    let clients = field.clients();
    clients.until_acknowledges(0);
    allow_all_but(&field.sites[0], &[("patch", "clusters/status")]);
    for standby in ["pg-a-2", "pg-a-3"] {
        field.at(standby).member.until_says(APPOINT);
    }
    let primary = &field.at("pg-a-1").member;
    primary.until("nobody is in the line", |status| status["line"] == serde_json::json!([]));
    let asked = ask(primary, &["switchover", "--to", "pg-a-2", "--yes"]);
    let complaint = String::from_utf8_lossy(&asked.stderr);
    assert!(!asked.status.success() && complaint.contains(APPOINT), "{complaint}");
    clients.until_acknowledges(0);
    field.at_mut("pg-a-1").node_dies();
    for standby in ["pg-a-2", "pg-a-3"] {
        field.at(standby).assert_silent(LONG);
    }
    assert_eq!(field.sites[0].cluster()["status"]["targetPrimary"], "pg-a-1");
    allow_all_but(&field.sites[0], &[]);
    let new = until("another one leads", || {
        let leads = |index: &usize| {
            let said = field.sites[0].instances[*index].member.status();
            said["state"] == "primary_healthy" && said["writable"] == true
        };
        [1, 2].into_iter().find(leads).ok_or_else(|| format!("{}\n{}", field.told(), field.logs()))
    });
    clients.until_acknowledges(new);
    field.at_mut("pg-a-1").node_comes_back();
    field.at("pg-a-1").member.until_follows();
    clients.assert_one_after_the_other(&[0, new]);
    field.assert_sound();
}

#[test]
fn an_agent_that_starts_without_them_names_them_and_its_instance_goes_on() {
    let mut field = Field::one();
    let clients = field.clients();
    clients.until_acknowledges(0);
    allow_all_but(&field.sites[0], &[("patch", "clusters/status"), ("patch", "leases")]);
    let member = &mut field.at_mut("pg-a-2").member;
    member.kill();
    member.start();
    member.until_says(APPOINT);
    member.until_says("not allowed to patch leases.coordination.k8s.io");
    member.until_follows();
    clients.until_acknowledges(0);
    allow_all_but(&field.sites[0], &[]);
    field
        .at("pg-a-1")
        .member
        .until("pg-a-2 could take over", |status| status["line"].to_string().contains("pg-a-2"));
    field.done("pg-a-1", &["switchover", "--to", "pg-a-2", "--yes"]);
    clients.until_acknowledges(1);
    clients.assert_one_after_the_other(&[0, 1]);
    field.assert_sound();
}

#[test]
fn without_the_lease_of_managers_a_hand_over_waits_for_its_end() {
    for verb in ["get", "patch"] {
        let mut field = Field::one();
        let clients = field.clients();
        clients.until_acknowledges(0);
        allow_all_but(&field.sites[0], &[(verb, "leases")]);
        field.done("pg-a-1", &["switchover", "--to", "pg-a-2", "--yes"]);
        clients.until_acknowledges(1);
        let named = format!("not allowed to {verb} leases.coordination.k8s.io");
        field.at("pg-a-1").member.until_says(&named);
        field.at("pg-a-1").member.until_follows();
        clients.assert_one_after_the_other(&[0, 1]);
        field.assert_sound();
    }
}
