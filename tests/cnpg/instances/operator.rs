//! Somebody has CloudNativePG change who acts, without the agents: the one that is to be promoted is barred from it
//! until the lease is there.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use super::super::sites::site::wait;
use super::cluster::{Field, Site};
use crate::live::checks::count;
use crate::live::client::Pinned;
use crate::live::cluster::until;

/// A field whose lease lasts longer than CloudNativePG needs to change who acts, however busy the machine is: so
/// the old primary ends in an orderly way, and the new one is promoted while somebody else has the lease. One
/// may `never` take over.
fn patient(never: Option<&str>) -> Field {
    Field::one_with(|settings| {
        settings["timing"] = json!({ "lease_duration": "3s" });
        if never.is_some_and(|never| settings["member"] == never) {
            settings["failover"] = json!({ "priority": 0 });
        }
    })
}

/// What `kubectl cnpg promote` does.
pub(super) fn promote(site: &Site, name: &str) {
    let status = json!({
        "targetPrimary": name, "targetPrimaryTimestamp": "2026-08-21T10:00:00.000000Z",
        "phase": "Switchover in progress", "phaseReason": format!("Switching over to {name}"),
    });
    wait(site.double.patch_status(site.name, status)).unwrap();
}

/// Waits until somebody leads under a new lease, and whoever else is not `away` follows; who leads.
fn until_one_leads(field: &Field, away: usize) -> usize {
    until("one leads, the others follow", || {
        let said: Vec<_> = field.sites[0].instances.iter().map(|it| it.member.status()).collect();
        let leads = said.iter().position(|it| it["state"] == "primary_healthy");
        let follow = said
            .iter()
            .filter(|it| it["state"] == "replica_watching" && it["database"]["streaming"] == true);
        match leads {
            Some(leads) if follow.count() == 2 - away && said[leads]["epoch"] != 1 => Ok(leads),
            Some(_) | None => Err(format!("{said:#?}\n{}\n{}", field.told(), field.logs())),
        }
    })
}

/// Everything that was acknowledged is at `leader`, and at most one acknowledged at a time, in this order.
fn assert_nothing_lost(mut field: Field, clients: Pinned, order: &[usize]) {
    let leader = *order.last().unwrap();
    clients.until_acknowledges(leader);
    let acknowledged: usize = (0..3).map(|member| clients.count(member)).sum();
    let rows = count(&field.sites[0].instances[leader].member) as usize;
    let mut turns = order.to_vec();
    turns.dedup();
    clients.assert_one_after_the_other(&turns);
    assert!(rows >= acknowledged, "{rows} of {acknowledged}");
    field.assert_sound();
}

/// Waits until its manager has tried to promote it, in vain.
fn until_barred(field: &Field, name: &str) {
    until("its manager has tried to promote it", || {
        let state = field.at(name).pod.state().clone();
        let tried = state.told.iter().any(|it| it.contains("could not create promote signal file"));
        tried.then_some(()).ok_or_else(|| format!("{state:#?}\n{}", field.logs()))
    });
}

/// The agent of the acting instance is frozen, and another instance is promoted, in vain.
fn promote_beside_a_frozen_holder(field: &Field) {
    field.at("pg-a-1").member.signal(Signal::STOP);
    promote(&field.sites[0], "pg-a-2");
    until_barred(field, "pg-a-2");
}

#[test]
fn who_is_promoted_without_the_agents_writes_beside_nobody_and_one_leads_in_the_end() {
    let field = Field::one();
    let clients = field.clients();
    clients.until_acknowledges(0);
    promote(&field.sites[0], "pg-a-2");
    let leader = until_one_leads(&field, 0);
    assert_nothing_lost(field, clients, &[0, leader]);
}

#[test]
fn a_promotion_beside_an_agent_that_is_frozen_waits_for_the_end_of_its_lease() {
    let field = patient(Some("pg-a-3"));
    let clients = field.clients();
    clients.until_acknowledges(0);
    promote_beside_a_frozen_holder(&field);
    assert_eq!(until_one_leads(&field, 1), 1, "{}", field.logs());
    field.at("pg-a-1").member.signal(Signal::CONT);
    assert_eq!(until_one_leads(&field, 0), 1, "{}", field.logs());
    assert_nothing_lost(field, clients, &[0, 1]);
}

#[test]
fn a_promotion_whose_lease_does_not_come_fails_until_the_store_is_back() {
    let field = patient(None);
    let clients = field.clients();
    clients.until_acknowledges(0);
    let store = field.locked_store();
    promote(&field.sites[0], "pg-a-2");
    until_barred(&field, "pg-a-2");
    field.at("pg-a-2").assert_silent(Duration::from_secs(2));
    assert_eq!(clients.count(1) + clients.count(2), 0, "nobody has the lease\n{}", field.logs());
    drop(store);
    let leader = until_one_leads(&field, 0);
    assert_nothing_lost(field, clients, &[0, leader]);
}

#[test]
fn a_promotion_comes_to_nothing_when_the_lease_goes_to_another_one() {
    let field = patient(Some("pg-a-2"));
    let clients = field.clients();
    clients.until_acknowledges(0);
    promote_beside_a_frozen_holder(&field);
    assert_eq!(until_one_leads(&field, 1), 2, "{}", field.logs());
    assert_eq!(clients.count(1), 0, "{}", field.logs());
    field.at("pg-a-1").member.signal(Signal::CONT);
    assert_eq!(until_one_leads(&field, 0), 2, "{}", field.logs());
    assert_nothing_lost(field, clients, &[0, 2]);
}

#[test]
fn a_promotion_fails_while_its_agent_is_gone_and_until_the_next_one_has_the_lease() {
    let mut field = patient(None);
    let clients = field.clients();
    clients.until_acknowledges(0);
    promote_beside_a_frozen_holder(&field);
    field.at_mut("pg-a-2").member.kill();
    // By then nobody has the lease.
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(clients.count(1) + clients.count(2), 0, "{}", field.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    field.at_mut("pg-a-2").member.start();
    let leader = until_one_leads(&field, 1);
    field.at("pg-a-1").member.signal(Signal::CONT);
    assert_eq!(until_one_leads(&field, 0), leader, "{}", field.logs());
    assert_nothing_lost(field, clients, &[0, leader]);
}
