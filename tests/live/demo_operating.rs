//! The demo's faults that are about operating: planned ways back, pauses, and the store.

use serde_json::{Value, json};

use super::demo::{EXPIRY, LEASE, fault, number};

/// How long clients wait is not judged.
const ANY: f64 = 60_000.0;
/// What is not to happen is waited for three times as long as a takeover waits: lease and margin.
const WATCHED: f64 = 3.0 * (LEASE + 100.0);

/// What a run of the demo says under its fault's name.
fn facts<'a>(report: &'a Value, name: &str) -> &'a Value {
    report.pointer(&format!("/runs/0/{name}")).unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn the_preferred_member_is_asked_back_and_nothing_is_lost() {
    let report = fault(&["--fault", "failback"], ANY, true);
    let back = facts(&report, "failback");
    assert_eq!((&back["preferred"], &back["from"]), (&json!("a"), &json!("b")), "{report}");
    assert_eq!(report["runs"][0]["leads"], "a", "{report}");
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
    // The lease was handed over, and not waited out.
    assert!(number(&report, "/runs/0/phases_ms/detect") < LEASE, "{report}");
    assert!(number(back, "/order_to_commit_ms") > 0.0, "{report}");
}

#[test]
fn a_dead_node_is_not_replaced_while_paused_and_is_once_resumed() {
    let report = fault(&["--fault", "pause-kill"], ANY, true);
    let paused = facts(&report, "pause_kill");
    assert_eq!(paused["takeovers_while_paused"], 0, "{report}");
    assert!(number(paused, "/paused_ms") >= WATCHED, "{report}");
    assert!(number(&report, "/runs/0/gap_ms") >= WATCHED, "{report}");
    // The lease ran out long ago.
    assert!(number(paused, "/resume_to_commit_ms") < EXPIRY, "{report}");
    assert!(number(&report, "/runs/0/rejoin_ms") > 0.0, "{report}");
}

#[test]
fn an_outage_of_the_store_is_ridden_out_by_promises() {
    let report = fault(&["--fault", "store-outage"], LEASE, false);
    let outage = facts(&report, "store_outage");
    assert_eq!(outage["fate"], "rode_out", "{report}");
    assert_eq!(outage["alarms"], json!(["held_by_promises"]), "{report}");
    assert_eq!(
        (&outage["epochs"], &outage["databases_restarted"]),
        (&json!(0), &json!(0)),
        "{report}"
    );
    assert!(number(outage, "/away_ms") >= WATCHED, "{report}");
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
}

#[test]
fn without_promises_an_outage_of_the_store_fences_in_time() {
    let arguments = ["--fault", "store-outage", "--set", "peers.promises=false"];
    let report = fault(&arguments, ANY, false);
    let outage = facts(&report, "store_outage");
    assert_eq!(outage["fate"], "fenced", "{report}");
    assert!(number(outage, "/last_commit_ms") <= LEASE, "{report}");
    assert!(number(outage, "/epochs") >= 1.0, "{report}");
    assert!(number(&report, "/runs/0/gap_ms") >= WATCHED - LEASE, "{report}");
}

#[test]
fn another_store_is_obeyed_by_nobody_and_the_old_one_is_enough() {
    let report = fault(&["--fault", "store-replace"], LEASE, false);
    let replaced = facts(&report, "store_replace");
    assert_eq!(replaced["fate"], "rode_out", "{report}");
    assert_eq!(replaced["alarms"], json!(["store_rejects", "held_by_promises"]), "{report}");
    assert_eq!(replaced["written"], 0, "{report}");
    assert_eq!(
        (&replaced["epochs"], &replaced["databases_restarted"]),
        (&json!(0), &json!(0)),
        "{report}"
    );
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
}
