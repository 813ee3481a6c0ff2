//! The primary's site is gone, and comes back.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::json;
use tokio::time::Instant;

use super::site::{Two, wait};
use crate::live::checks::{LONG, count};
use crate::live::cluster::until;

#[test]
fn a_site_that_dies_is_taken_over_from_and_comes_back_fenced() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.node_dies();
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    let replica = two.b.cluster()["spec"]["replica"].clone();
    assert_eq!(replica["primary"], "pg-b", "{replica}");
    assert_eq!(replica.get("promotionToken"), None, "there was nobody to give one: {replica}");

    two.a.node_comes_back();
    two.a.member.until_alarm("rejoin_failed");
    two.a.assert_silent(Duration::from_secs(2));
    two.a.member.until_says("rebuild a site");
    two.a.until_cluster("it is fenced", |cluster| cluster.is_fenced("pg-a-1"));
    assert_eq!(two.a.cluster()["spec"]["replica"]["primary"], "pg-a", "it was demoted");
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

#[test]
fn a_site_that_comes_back_starts_nothing_before_its_fence_is_in_place() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.node_dies();
    clients.until_acknowledges(1);
    // Nobody takes a fence, and the Cluster says that it is the primary's.
    two.a.double.server().set_webhook_down(true);
    let restarts = two.a.pod.state().restarts;
    two.a.node_comes_back();
    two.a.until_gated();
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        let state = two.a.pod.state().clone();
        assert!(!state.container, "{state:?}\n{}", two.a.member.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    two.a.double.server().set_webhook_down(false);
    two.a.until_cluster("it is fenced", |cluster| cluster.is_fenced("pg-a-1"));
    until("its manager runs", || {
        let state = two.a.pod.state().clone();
        (state.container && state.fenced).then_some(()).ok_or_else(|| format!("{state:?}"))
    });
    two.a.assert_silent(Duration::from_secs(1));
    // It was started once, and has found the fence.
    let state = two.a.pod.state().clone();
    assert!(state.restarts == restarts && !state.session, "{state:?}");
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

/// The agent of pg-a and its watchdog are gone, and its PostgreSQL is shut down in an orderly way: by the
/// kubelet, as its pod is deleted.
fn shut_down(two: &mut Two) {
    two.a.member.kill();
    for pid in two.a.member.watchdogs() {
        kill_process(pid, Signal::KILL).unwrap();
    }
    wait(two.a.double.delete_pod("pg-a-1")).unwrap();
    until("PostgreSQL is shut down", || {
        two.a.postmaster().is_none().then_some(()).ok_or_else(|| two.a.double.told())
    });
}

#[test]
fn a_site_that_was_shut_down_in_an_orderly_way_follows_without_a_new_copy() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    shut_down(&mut two);
    clients.until_acknowledges(1);
    // The new pod waits for its agent.
    two.a.until_gated();
    two.a.assert_silent(Duration::from_secs(1));
    two.a.member.start();
    two.a.member.until_follows();
    assert!(
        two.a.member.log().contains("\"by\":\"demotion\"")
            || two.a.member.log().contains("demotion")
    );
    let acknowledged = clients.count(0) + clients.count(1);
    clients.assert_one_after_the_other(&[0, 1]);
    assert!(count(&two.b.member) as usize >= acknowledged, "{acknowledged} were acknowledged");
    two.assert_sound();
}

#[test]
fn a_site_that_ended_with_more_than_the_new_primary_has_is_said_to_be_built_anew() {
    let mut two = Two::start();
    // pg-b does not reach pg-a any more.
    let externals = |site: u16| {
        let mut externals = two.b.cluster()["spec"]["externalClusters"].clone();
        externals[0]["connectionParameters"]["port"] = json!(site.to_string());
        json!({ "spec": { "externalClusters": externals } })
    };
    let (cut, mended) = (externals(1), externals(two.a.member.port));
    two.b.patch(cut);
    two.a.member.until("nobody streams", |status| status["database"]["standbys"] == json!([]));
    two.a.member.sql("insert into t select 7 from generate_series(1, 1000)").unwrap();
    shut_down(&mut two);
    two.b.member.until_leads();
    two.b.patch(mended);
    // CloudNativePG restarts whom it has promoted.
    let lost = until("it answers", || two.b.member.sql("select count(*) from t where n = 7"));
    assert_eq!(lost, "0");
    two.a.until_gated();
    two.a.member.start();
    two.a.member.until_alarm("rejoin_failed");
    two.a.assert_silent(Duration::from_secs(1));
    two.a.rebuild("pg-b", two.ports());
    two.a.member.until_follows();
    two.assert_sound();
}

/// Its instance manager looks at nothing for longer than a promotion may take.
#[test]
fn who_is_left_alone_and_is_not_promoted_in_time_is_promoted_when_it_can_be() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.b.pod.knobs().manager_hangs = true;
    two.a.node_dies();
    until("the promotion was given up", || {
        let log = two.b.member.log();
        let failed = log
            .lines()
            .any(|line| line.contains("action failed") && line.contains("\"action\":\"promote\""));
        failed.then_some(()).ok_or(log)
    });
    two.b.pod.knobs().manager_hangs = false;
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound_b();
}
