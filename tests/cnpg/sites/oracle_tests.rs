//! The oracle sees what must not happen, when it happens.

use std::collections::BTreeMap;
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
        acknowledged: vec![(at(50), "pg-a".to_owned()), (at(130), "pg-b".to_owned())],
        homes: BTreeMap::new(),
    }
}

/// The same from pg-a-1 to pg-b-1, after one inside of pg-a, from pg-a-2 to pg-a-1.
fn sound_of_instances() -> Story {
    let mut story = sound();
    let named = |lease: &mut Lease| {
        lease.record["holder"] = json!(format!("{}-1", lease.holder()));
    };
    story.leases.iter_mut().for_each(named);
    story.leases[0].at = at(10);
    story.leases[0].record["epoch"] = json!(1);
    let before = [
        lease(0, "pg-a-2", 0, Value::Null),
        lease(8, "pg-a-2", 0, json!({ "fence": { "rung": "fast" } })),
    ];
    story.leases.splice(0..0, before);
    let acts = |current: &'static str, target: &'static str| {
        move |object: &mut Value| {
            object["status"]["currentPrimary"] = json!(current);
            object["status"]["targetPrimary"] = json!(target);
        }
    };
    let fenced = move |object: &mut Value| {
        acts("pg-a-1", "pg-a-1")(object);
        object["metadata"]["annotations"] = json!({
            "cnpg.io/fencedInstances": "[\"*\"]",
            "harmony-agent.io/fence": "{\"member\":\"pg-a-1\"}",
        });
    };
    story.clusters[0].1 = vec![
        version(0, "pg-a", acts("pg-a-2", "pg-a-2")),
        version(12, "pg-a", acts("pg-a-2", "pg-a-1")),
        version(70, "pg-a", acts("pg-a-1", "pg-a-1")),
        version(75, "pg-a", fenced),
        version(80, "pg-a", |object| {
            acts("pg-a-1", "pg-a-1")(object);
            given(object);
        }),
    ];
    for (_, member) in &mut story.acknowledged {
        member.push_str("-1");
    }
    story.acknowledged.insert(0, (at(5), "pg-a-2".to_owned()));
    let homes = [("pg-a-1", "pg-a"), ("pg-a-2", "pg-a"), ("pg-b-1", "pg-b"), ("pg-b-2", "pg-b")];
    story.homes = homes.map(|(member, site)| (member.to_owned(), site)).into();
    story
}

#[track_caller]
fn assert_seen(words: &str, change: impl Fn(&mut Story)) {
    assert_seen_in(sound(), words, change);
}

#[track_caller]
fn assert_seen_in(mut story: Story, words: &str, change: impl Fn(&mut Story)) {
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
    assert_seen("pg-a acknowledged", |story| story.acknowledged.push((at(101), "pg-a".to_owned())));
    assert_seen("pg-b acknowledged", |story| story.acknowledged.push((at(99), "pg-b".to_owned())));
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

#[test]
fn what_must_not_happen_between_instances_is_seen() {
    sound_of_instances().judge().unwrap();
    let assert_seen = |words: &str, change: &dyn Fn(&mut Story)| {
        assert_seen_in(sound_of_instances(), words, change);
    };
    // Beside another one of the same site.
    assert_seen("pg-a-2 acknowledged", &|story| {
        story.acknowledged.push((at(20), "pg-a-2".to_owned()));
    });
    assert_seen("pg-b was promoted", &|story| story.clusters[1].1[1].at = at(95));
    // Too early, and somebody else.
    assert_seen("pg-a-1 was appointed in pg-a", &|story| story.clusters[0].1[1].at = at(9));
    assert_seen("pg-a-1 was appointed in pg-a", &|story| {
        story.leases[2].record["released"] = json!({ "to": "pg-b-1" });
    });
    assert_seen("pg-a-2 fenced pg-a", &|story| {
        story.clusters[0].1[3].object["metadata"]["annotations"]["harmony-agent.io/fence"] =
            json!("{\"member\":\"pg-a-2\"}");
    });
    // In a replica site it makes nobody writable.
    let mut story = sound_of_instances();
    let mut other = story.clusters[0].1[4].clone();
    (other.at, other.object["status"]["targetPrimary"]) = (at(150), json!("pg-a-2"));
    story.clusters[0].1.push(other);
    story.judge().unwrap();
    // What a person does is nobody's fault here.
    let mut story = sound_of_instances();
    story.clusters[0].1[1].at = at(9);
    story.clusters[0].1[1].by = "admin".to_owned();
    story.judge().unwrap();
}
