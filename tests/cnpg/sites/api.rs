//! The API server is away, or takes no changes.

use std::time::Duration;

use rusqlite::Connection;

use super::super::double::api::faults::{Answer, Fault, Network};
use super::site::{AGENT, Site, Two};
use crate::live::checks::{LONG, until_healed};
use crate::live::cluster::until;
use crate::live::orders::ask;

#[test]
fn an_api_server_that_is_away_is_no_reason_to_fail_over() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    for network in [Network::Refused, Network::Silent] {
        for site in [&two.a, &two.b] {
            site.double.server().set_network(network);
        }
        let before = clients.count(0);
        std::thread::sleep(2 * LONG);
        assert!(clients.count(0) > before + 100, "the writes stopped\n{}", two.a.member.log());
        let said = two.a.member.until_leads();
        assert_eq!(said["epoch"], 1, "{said:#}");
        for site in [&two.a, &two.b] {
            site.double.server().set_network(Network::Up);
        }
    }
    two.b.member.until_follows();
    clients.assert_one_after_the_other(&[0]);
    two.assert_sound();
}

/// Nobody renews for so long that the primary has to fence itself, with no way to say so in the Cluster.
fn fences_alone(breaks: impl Fn(&Site), mends: impl Fn(&Site)) {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    breaks(&two.a);
    let store = Connection::open(two.place.store()).unwrap();
    store.busy_timeout(Duration::from_secs(10)).unwrap();
    store.execute_batch("begin exclusive").unwrap();
    until("it fences", || {
        let down = two.a.postmaster().is_none();
        down.then_some(()).ok_or_else(|| two.a.member.log())
    });
    // The manager reaches its API server, which says nothing of a fence, and brings PostgreSQL up again.
    until("PostgreSQL finds its port taken", || {
        let log = two.a.pod.postgres.log();
        log.contains("Address already in use").then_some(()).ok_or(log)
    });
    two.a.assert_silent(LONG);
    assert_eq!(two.a.fence(), None, "nobody could set it");
    drop(store);
    mends(&two.a);
    // It ended cleanly: whoever leads, the other one follows.
    until_healed(&two.a.member, &two.b.member);
    let led = two.b.member.status()["is_primary"] == true;
    clients.until_acknowledges(usize::from(led));
    let order: &[usize] = if led { &[0, 1] } else { &[0] };
    clients.assert_one_after_the_other(order);
    two.assert_sound();
}

#[test]
fn a_fence_needs_no_api_server() {
    let fault = || Fault::always(Answer::Server(503)).of(AGENT);
    fences_alone(
        |site| site.double.server().set_faults(vec![fault()]),
        |site| site.double.server().set_faults(Vec::new()),
    );
}

#[test]
fn a_fence_needs_no_webhook() {
    fences_alone(
        |site| site.double.server().set_webhook_down(true),
        |site| site.double.server().set_webhook_down(false),
    );
}

#[test]
fn a_switchover_that_nobody_could_demote_for_is_called_off() {
    let mut two = Two::start_with(|settings| {
        settings["timing"] = serde_json::json!({"stop_timeout": "3s", "shutdown_timeout": "10s"});
    });
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.double.server().set_webhook_down(true);
    let asked = ask(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(!asked.status.success(), "{said}");
    clients.until_acknowledges(0);
    let status = two.a.member.until_leads();
    assert_eq!(status["is_primary"], true, "{status:#}");
    assert_eq!(two.a.cluster()["spec"]["replica"]["primary"], "pg-a");
    two.a.double.server().set_webhook_down(false);
    two.b.member.until_follows();
    clients.assert_one_after_the_other(&[0]);
    two.assert_sound();
}
