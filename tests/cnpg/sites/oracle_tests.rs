//! The oracle sees what must not happen, when it happens.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::manifest::manifest;
use super::oracle::{Lease, Story, Version};
use super::site::AGENT;

const fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn lease(when: u64, holder: &str, epoch: u64, released: Value) -> Lease {
    let record = json!({
        "holder": holder, "epoch": epoch, "lease_duration_ms": 100, "released": released,
    });
    Lease { at: at(when), record }
}

fn version(when: u64, name: &str, change: impl Fn(&mut Value)) -> Version {
    let mut object = manifest(name, "pg-a", [1, 2]);
    change(&mut object);
    Version { at: at(when), by: AGENT.to_owned(), object }
}

fn given(object: &mut Value) {
    object["spec"]["replica"]["primary"] = json!("pg-b");
    object["status"]["demotionToken"] = json!("T");
}

fn taken(object: &mut Value) {
    object["spec"]["replica"] = json!({
        "self": "pg-b", "primary": "pg-b", "source": "pg-a", "promotionToken": "T",
    });
}

fn used(object: &mut Value) {
    taken(object);
    object["status"]["lastPromotionToken"] = json!("T");
}

/// A switchover from pg-a to pg-b, as it has to be.
fn sound() -> Story {
    Story {
        leases: vec![
            lease(0, "pg-a", 1, Value::Null),
            lease(90, "pg-a", 1, json!({ "fence": { "rung": "fast" } })),
            lease(100, "pg-b", 2, Value::Null),
        ],
        clusters: vec![
            ("pg-a", vec![version(0, "pg-a", |_| ()), version(80, "pg-a", given)]),
            (
                "pg-b",
                vec![
                    version(0, "pg-b", |_| ()),
                    version(110, "pg-b", taken),
                    version(120, "pg-b", used),
                ],
            ),
        ],
        acknowledged: vec![(at(50), "pg-a"), (at(130), "pg-b")],
    }
}

#[track_caller]
fn assert_seen(words: &str, change: impl Fn(&mut Story)) {
    let mut story = sound();
    change(&mut story);
    let said = story.judge().unwrap_err();
    assert!(said.contains(words), "{words:?} is not in {said}");
}

#[test]
fn a_sound_switchover_is_nothing_to_be_said_about() {
    sound().judge().unwrap();
    // So is a takeover from whom nobody has heard of any more, by a promotion without a token.
    let mut story = sound();
    story.leases[1].record["released"] = Value::Null;
    story.leases[2].at = at(190);
    story.clusters[0].1.pop();
    let promoted = |object: &mut Value| object["spec"]["replica"]["primary"] = json!("pg-b");
    story.clusters[1].1 = vec![version(0, "pg-b", |_| ()), version(195, "pg-b", promoted)];
    story.acknowledged[1].0 = at(200);
    story.judge().unwrap();
}

#[test]
fn what_must_not_happen_is_seen() {
    assert_seen("pg-a acknowledged", |story| story.acknowledged.push((at(101), "pg-a")));
    assert_seen("pg-b acknowledged", |story| story.acknowledged.push((at(99), "pg-b")));
    assert_seen("two hold one epoch", |story| story.leases[2].record["epoch"] = json!(1));
    assert_seen("goes back", |story| story.leases[2].record["epoch"] = json!(0));
    assert_seen("neither fenced nor expired", |story| {
        story.leases[1].record["released"] = Value::Null;
    });
    assert_seen("neither fenced nor expired", |story| {
        story.leases[1].record["released"] = json!({ "to": "pg-b" });
    });
    assert_seen("pg-b was promoted", |story| story.clusters[1].1[1].at = at(95));
    assert_seen("pg-a was unfenced", |story| {
        let fenced = |object: &mut Value| {
            object["metadata"]["annotations"] = json!({ "cnpg.io/fencedInstances": "[\"*\"]" });
        };
        story.clusters[0].1 = vec![version(0, "pg-a", fenced), version(140, "pg-a", |_| ())];
        story.clusters[1].1.truncate(1);
    });
    assert_seen("nobody gave the token", |story| story.clusters[0].1[1].at = at(115));
    assert_seen("which is no replica", |story| {
        let early = |object: &mut Value| object["status"]["demotionToken"] = json!("T");
        story.clusters[0].1[1] = version(80, "pg-a", early);
    });
    assert_seen("a used token", |story| {
        story.clusters[1].1.push(version(130, "pg-b", taken));
        story.clusters[1].1.push(version(140, "pg-b", used));
    });
    assert_seen("came to pg-a, too", |story| {
        let back = |object: &mut Value| {
            object["spec"]["replica"]["promotionToken"] = json!("T");
        };
        story.leases.push(lease(300, "pg-a", 3, Value::Null));
        story.clusters[0].1.push(version(310, "pg-a", back));
    });
}
