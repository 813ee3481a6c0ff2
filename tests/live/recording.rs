//! Recordings of real agents: they replay, they are private, and a full disk harms nobody.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::checks::assert_sound;
use super::cluster::{Member, Place};
use crate::support::disk::Disk;
use crate::support::postgres::need_root;

fn recording(member: &Member) -> std::path::PathBuf {
    member.dir.join("state").join("recording.jsonl")
}

fn replay(file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_harmony-agent")).arg("replay").arg(file).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_failover_replays_and_an_altered_line_is_found() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    kill_process(a.postmaster(), Signal::KILL).unwrap();
    b.until_leads();
    a.until_follows();
    // Killed in the middle of whatever it does, and started again: it goes on in the same file.
    b.kill();
    a.until_leads();
    b.start();
    b.until_follows();
    assert_sound(&mut [&mut a, &mut b]);

    for member in [&a, &b] {
        let file = recording(member);
        let ended = replay(&file);
        assert!(ended.status.success(), "{}", said(&ended));
        assert!(said(&ended).contains(" steps, no difference"), "{}", said(&ended));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&file).unwrap();
        let password = fs::read_to_string(place.path().join("password")).unwrap();
        assert!(!text.contains(password.trim()), "a secret was recorded");
    }
    assert_eq!(said(&replay(&recording(&b))).matches("from step 1 at").count(), 2);

    let text = fs::read_to_string(recording(&b)).unwrap();
    let promoted =
        text.lines().position(|line| line.contains(r#""to":"replica_promoting""#)).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[promoted] =
        lines[promoted].replace(r#""to":"replica_promoting""#, r#""to":"replica_failed""#);
    let altered = place.path().join("altered.jsonl");
    fs::write(&altered, lines.join("\n") + "\n").unwrap();
    let ended = replay(&altered);
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    let line = format!("(line {})", promoted + 1);
    for words in [
        "first difference",
        &line,
        "-     \"to\": \"replica_failed\"",
        "+     \"to\": \"replica_promoting\"",
    ] {
        assert!(said(&ended).contains(words), "no {words} in\n{}", said(&ended));
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_nothing_else() {
    need_root();
    let place = Place::new();
    let directory = place.path().join("full");
    fs::create_dir(&directory).unwrap();
    place.give_away(&directory);
    let disk = Disk::mount(&directory, "40m");
    let mut a = place.member("a");
    let file = disk.path().join("recording.jsonl");
    a.settings["record"] = json!({ "file": file, "max_size": "64MiB" });
    a.start();
    a.until_leads();
    // Not what it has recorded so far, nor the room it leaves to others, is touched by it.
    disk.fill();
    a.until_says("recording is over");
    let status = a.until_leads();
    assert_eq!(status["alarms"], json!([]), "{status:#}");
    a.sql("create table after (n int)").unwrap();
    let ended = replay(&file);
    assert!(ended.status.success(), "{}", said(&ended));
    assert_sound(&mut [&mut a]);
    assert_eq!(a.log().matches("recording is over").count(), 1, "{}", a.log());
}

#[test]
fn a_small_state_directory_is_not_filled_by_the_recording() {
    need_root();
    let place = Place::new();
    let mut a = place.member("a");
    let disk = Disk::mount(&a.dir.join("state"), "1m");
    a.start();
    a.until_leads();
    a.until_says("recording is over");
    let status = a.until_leads();
    assert_eq!(status["alarms"], json!([]), "{status:#}");
    let length = fs::metadata(disk.path().join("recording.jsonl")).unwrap().len();
    assert_eq!(length, 0);
    assert_sound(&mut [&mut a]);
}
