//! `replay`: what it says of recordings that are whole, altered, damaged, or none at all.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use harmony_agent::config;
use harmony_agent::core::event::{Event, ReadFailure};
use harmony_agent::core::ids::OpId;
use harmony_agent::core::records::{Address, Snapshot};
use harmony_agent::core::time::Instant;
use harmony_agent::core::{Agent, Identity};
use harmony_agent::recording::line;

use super::{output, text};

/// A core that looks for a store: sixty steps, with a start in the middle.
fn recording() -> Vec<u8> {
    let flags = [("cluster_id", "c"), ("member", "a"), ("database.local.data_dir", "/nowhere")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let sources = config::Sources { flags: flags.into(), ..Default::default() };
    let policy = config::load(&sources).unwrap().config.policy;
    let id = Identity {
        member: "a".parse().unwrap(),
        boot: "boot".parse().unwrap(),
        instance: "instance".parse().unwrap(),
        address: Address { host: "h".to_owned(), port: 5432, http: None },
    };
    let mut now = Instant::from_millis(81_000);
    let mut agent = Agent::new(id, policy, None, now);
    let mut bytes = Vec::new();
    for step in 1..=60 {
        now = now + Duration::from_millis(500);
        let event = match step % 4 {
            1 => Event::Changed,
            2 => Event::Read(OpId(step / 4 + 1), Err(ReadFailure::Unavailable("gone".to_owned()))),
            3 => Event::Read(OpId(step / 4 + 1), Ok(Snapshot::default())),
            _ => Event::Tick,
        };
        if step % 30 == 1 {
            bytes.extend(line::start(&agent, step, now, 0, "2026-01-01T00:00:00Z".into()).unwrap());
        }
        let effects = agent.step(now, event.clone());
        bytes.extend(line::step(step, now, &event, &effects).unwrap());
    }
    bytes
}

fn replayed(bytes: &[u8], more: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording.jsonl");
    std::fs::write(&file, bytes).unwrap();
    let mut arguments = vec!["replay", file.to_str().unwrap()];
    arguments.extend(more);
    output(&arguments)
}

#[track_caller]
fn assert_says(ended: &Output, code: i32, words: &[&str]) {
    let said = format!("{}\n{}", text(&ended.stdout), text(&ended.stderr));
    assert_eq!(ended.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_whole_recording_shows_no_difference() {
    let bytes = recording();
    assert_says(&replayed(&bytes, &[]), 0, &["member a, boot boot", "60 steps, no difference"]);
    let shown = replayed(&bytes, &["--show", "--from", "59"]);
    assert_says(&shown, 0, &["59 110.500s ← {\"read\":", "60 111.000s ← \"tick\""]);
    assert!(!text(&shown.stdout).contains("58 110"), "{}", text(&shown.stdout));
    // The second half can be replayed without the first, and after it.
    let halves = bytes.windows(8).rposition(|part| part == b"{\"start\"").unwrap();
    assert_says(&replayed(&bytes[halves..], &[]), 0, &["from step 31", "30 steps, no difference"]);
    let directory = tempfile::tempdir().unwrap();
    let [first, second] =
        ["recording.jsonl.1", "recording.jsonl"].map(|name| directory.path().join(name));
    std::fs::write(&first, &bytes[..halves]).unwrap();
    std::fs::write(&second, &bytes[halves..]).unwrap();
    let show = |path: &Path| path.to_str().unwrap().to_owned();
    let both = output(&["replay", &show(&first), &show(&second)]);
    assert_says(&both, 0, &["60 steps, no difference"]);
}

#[test]
fn the_first_difference_is_shown() {
    let bytes = String::from_utf8(recording()).unwrap();
    let altered = |from: &str, to: &str| {
        assert!(bytes.contains(from), "no {from} in\n{bytes}");
        bytes.replacen(from, to, 1).into_bytes()
    };
    // An effect.
    let ended = replayed(&altered("\"effects\":[{\"read\":[1,", "\"effects\":[{\"read\":[7,"), &[]);
    assert_says(
        &ended,
        1,
        &["first difference: step 1 at 81.500s (line 2)", "-     7,", "+     1,"],
    );
    // An event: the core does something else from then on.
    let ended = replayed(&altered("\"event\":{\"read\":[1,", "\"event\":{\"read\":[9,"), &[]);
    assert_says(&ended, 1, &["first difference: step ", "effects, - recorded, + computed"]);
    // The core in the middle.
    let ended = replayed(
        &altered(
            "\"step\":31,\"at\":96500000000,\"lost\":0,\"state\":{\"exited\":false",
            "\"step\":31,\"at\":96500000000,\"lost\":0,\"state\":{\"exited\":true",
        ),
        &[],
    );
    assert_says(&ended, 1, &["step 31", "the core after the steps before", "-   \"exited\": true"]);
}

#[test]
fn what_cannot_be_replayed_is_said_in_clear_words() {
    let bytes = String::from_utf8(recording()).unwrap();
    let lines: Vec<&str> = bytes.lines().collect();
    let without = |at: usize| {
        let kept = lines.iter().enumerate().filter(|(number, _)| *number != at);
        kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    let cases = [
        (String::new(), "is empty"),
        ("harmony".to_owned(), "is no recording of harmony-agent (it begins with \"harmony\")"),
        ("{\"incarnation\":\"i\"}\n".to_owned(), "name the file of record.file"),
        (bytes.replacen("1.0.0", "2.1.0", 1), "schema \"2.1.0\", this release reads 1.0.0"),
        (bytes.replacen("\"shared\"", "\"spared\"", 1), "the core of agent"),
        (
            bytes.replacen("\"event\":\"tick\"", "\"event\":\"tock\"", 1),
            "its event is not understood",
        ),
        (
            bytes.replacen("\"event\":\"tick\"", "\"event\"\"tick\"", 1),
            "line 5: neither a start nor a step",
        ),
        (without(4), "line 5: step 5 where step 4 is due"),
        (bytes.replacen("\"at\":83000000000", "\"at\":3000000000", 1), "is before 82.500s"),
        (lines[0][..200].to_owned(), "its start is not whole"),
    ];
    for (content, expected) in cases {
        assert_says(&replayed(content.as_bytes(), &[]), 65, &[expected, "recording.jsonl"]);
    }
    let started = bytes.len() - 40;
    let ended = replayed(&bytes.as_bytes()[..started], &[]);
    assert_says(&ended, 0, &["the last line is cut off", "59 steps, no difference"]);
    let mut binary = bytes.clone().into_bytes();
    let middle = binary.len() / 2;
    binary[middle..middle + 100].fill(0xFF);
    assert_says(&replayed(&binary, &[]), 65, &["steps before it replayed without difference"]);
    assert_says(&output(&["replay", "/nonexistent"]), 66, &["/nonexistent cannot be read"]);
    assert_says(&output(&["replay", "/tmp"]), 66, &["/tmp: cannot be read"]);
    assert_says(&output(&["replay"]), 64, &["FILE"]);
}
