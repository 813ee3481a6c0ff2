//! What somebody's manifest does to a Cluster that agents work with: fields that exclude each other, sites
//! that are missing, and changes of the agents that are reverted again and again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::double::{Double, cluster::Cluster};
use super::settle::{settle, told};
use super::site::{Site, Two, wait};
use crate::live::checks::LONG;
use crate::live::cluster::until;
use crate::live::orders::ask;

const UNCHECKED: &str = "cnpg.io/validation";

/// A manifest that the webhook would not take, with the webhook's checks off.
fn unchecked(spec: Value) -> Value {
    json!({ "metadata": { "annotations": { UNCHECKED: "disabled" } }, "spec": spec })
}

/// CloudNativePG makes a replica of such a primary, whatever the agents want.
#[test]
fn a_primary_with_enabled_beside_primary_is_taken_over_from_and_waits_for_its_manifest() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.patch(unchecked(json!({ "replica": { "enabled": true } })));
    two.a.member.until_says("spec.replica.enabled is set");
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    let replica = two.a.cluster()["spec"]["replica"].clone();
    assert_eq!(replica["primary"], "pg-a", "the agent changed what it must not: {replica}");
    let mended = json!({ "enabled": null, "primary": "pg-b", "source": "pg-b" });
    two.a.patch(json!({ "spec": { "replica": mended } }));
    two.a.member.until_follows();
    two.b.member.until_has_candidate();
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

#[test]
fn a_replica_that_knows_no_other_site_any_more_takes_nothing_over_until_it_does() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    let known = two.b.cluster()["spec"]["externalClusters"].clone();
    two.b.patch(unchecked(json!({ "externalClusters": [] })));
    two.b.member.until_says("there is no spec.externalClusters");
    // What it has it keeps.
    clients.until_acknowledges(0);
    two.b.member.until_follows();
    two.a.node_dies();
    two.b.assert_silent(LONG);
    assert_eq!(two.b.cluster()["spec"]["replica"]["primary"], "pg-a");
    two.b.patch(json!({ "spec": { "externalClusters": known } }));
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound_b();
}

/// Tells somebody to end, also when a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Applies the same part of a manifest whenever the Cluster differs, until it is told to end; counts.
fn applies(double: &Double, cluster: &str, replica: &Value, end: &AtomicBool, count: &AtomicU32) {
    while !end.load(Ordering::Relaxed) {
        let object = double.get(cluster);
        if replica["primary"] != Cluster(&object).text("/spec/replica/primary") {
            // CloudNativePG refuses it while it is at something.
            let patch = json!({ "spec": { "replica": replica } });
            let done = wait(double.patch(cluster, patch)).is_ok();
            count.fetch_add(u32::from(done), Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_promotion_that_is_reverted_again_and_again_comes_when_that_ends() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    let replica = json!({ "primary": "pg-a", "source": "pg-a", "promotionToken": null });
    let (end, reverted) = (AtomicBool::new(false), AtomicU32::new(0));
    two.a.node_dies();
    std::thread::scope(|scope| {
        let _ends = Ends(&end);
        scope.spawn(|| applies(&two.b.double, "pg-b", &replica, &end, &reverted));
        until("it was reverted more than once", || {
            (reverted.load(Ordering::Relaxed) >= 2).then_some(()).ok_or_else(|| two.b.member.log())
        });
    });
    // What was applied last may have come after the promotion, and is obeyed by the operator.
    two.b.until_cluster("it is promoted", |cluster| {
        cluster.text("/spec/replica/primary") == "pg-b" && !cluster.in_transition()
    });
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound_b();
}

/// The manifests of both sites are applied again and again while one hands over to the other.
#[test]
fn a_hand_over_that_is_reverted_on_both_sides_leaves_one_that_writes() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    let given = |site: &Site| {
        let mut replica = site.cluster()["spec"]["replica"].clone();
        replica["promotionToken"] = Value::Null;
        replica
    };
    let (of_a, of_b) = (given(&two.a), given(&two.b));
    let (end, reverted) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let _ends = Ends(&end);
        scope.spawn(|| applies(&two.a.double, "pg-a", &of_a, &end, &reverted));
        scope.spawn(|| applies(&two.b.double, "pg-b", &of_b, &end, &reverted));
        let _whatever = ask(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
        until("it was reverted more than once", || {
            (reverted.load(Ordering::Relaxed) >= 2).then_some(()).ok_or_else(|| told(&two))
        });
        std::thread::sleep(LONG);
    });
    let rebuilt = settle(&mut two);
    println!("{} reverts, {rebuilt} built anew", reverted.load(Ordering::Relaxed));
    clients.assert_never_at_once();
    two.assert_sound();
}
