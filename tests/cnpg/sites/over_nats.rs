//! The same over the store that spans sites: three NATS servers.

use std::time::Duration;

use serde_json::json;

use super::site::Two;
use super::switchover::until_served;
use crate::live::checks::count;
use crate::live::cluster::until;
use crate::live::orders::{ask, done};
use crate::support::nats::Cluster;

/// Two sites on these servers, of which the first acts.
fn start(servers: &Cluster) -> Two {
    Two::start_with(|settings| {
        settings["store"] =
            json!({"backend": "nats", "nats": {"servers": servers.urls(), "replicas": 3}});
    })
}

#[test]
fn a_switchover_over_nats_and_back_with_a_server_less_loses_nothing() {
    let mut servers = Cluster::start();
    let mut two = start(&servers);
    let clients = two.clients();
    clients.until_acknowledges(0);
    done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(1);
    until_served(&two.a, &two.b);
    let proof = two.a.cluster()["status"]["demotionToken"].as_str().unwrap().to_owned();
    assert!(!proof.is_empty());
    two.b.until_cluster("its token was used", |cluster| cluster.token().is_empty());
    for site in [&two.a, &two.b] {
        assert!(!site.member.log().contains(&proof), "a token was logged");
    }

    servers.servers[0].kill();
    clients.until_acknowledges(1);
    // By the promises of the others, at first.
    until("the servers that are left have a leader", || {
        let answer = ask(&two.b.member, &["history"]);
        answer.status.success().then_some(()).ok_or_else(|| two.b.member.log())
    });
    done(&two.b.member, &["switchover", "--to", "pg-a", "--yes"]);
    clients.until_acknowledges(0);
    until_served(&two.b, &two.a);
    let acknowledged = clients.count(0) + clients.count(1);
    clients.assert_one_after_the_other(&[0, 1, 0]);
    assert!(count(&two.a.member) as usize >= acknowledged, "{acknowledged} were acknowledged");
    two.assert_sound();
}

#[test]
fn a_site_that_dies_is_taken_over_from_over_nats() {
    let servers = Cluster::start();
    let mut two = start(&servers);
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.node_dies();
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    two.a.node_comes_back();
    two.a.member.until_alarm("rejoin_failed");
    two.a.assert_silent(Duration::from_secs(2));
    two.a.until_cluster("it is fenced", |cluster| cluster.is_fenced("pg-a-1"));
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}
