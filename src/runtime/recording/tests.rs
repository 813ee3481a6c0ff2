//! Real files in a directory of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::recording::{Replay, Taken};
use crate::runtime::clock;

fn agent(now: Instant) -> Agent {
    let id = crate::core::Identity {
        member: "a".parse().unwrap(),
        boot: "boot".parse().unwrap(),
        instance: "instance".parse().unwrap(),
        address: crate::core::records::Address { host: "h".to_owned(), port: 1, http: None },
    };
    let flags = [("cluster_id", "c"), ("member", "a"), ("database.local.data_dir", "/nowhere")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let sources = crate::config::Sources { flags: flags.into(), ..Default::default() };
    let config = crate::config::load(&sources).unwrap().config;
    Agent::new(id, config.policy, None, now)
}

/// Records `steps` ticks, waiting for each to be written when `slowly`.
async fn record(file: &Path, max_size: u64, steps: u32) {
    let settings = Settings { file: file.to_owned(), max_size };
    let mut recording = Recording::start(settings);
    let mut now = clock::now();
    let mut agent = agent(now);
    for _ in 0..steps {
        now = now + Duration::from_millis(100);
        let begun = recording.begin(&agent, now, &Event::Tick);
        let effects = agent.step(now, Event::Tick);
        recording.end(begun, &effects);
        // Lets the thread keep up: losing steps is another test's business.
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    recording.close(Duration::from_secs(5)).await;
}

fn replay(files: &[&Path]) -> Replay {
    let mut replay = Replay::new();
    for path in files {
        let bytes = fs::read(path).unwrap();
        replay
            .file(&*bytes, |taken| {
                assert!(matches!(taken, Taken::Start(_) | Taken::Same(_)), "{taken:?}")
            })
            .unwrap();
    }
    replay
}

#[tokio::test]
async fn what_was_recorded_replays_and_the_next_agent_goes_on_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recording.jsonl");
    record(&file, 1 << 20, 30).await;
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(replay(&[&file]).steps(), 30);
    // Killed while it was writing.
    let mut bytes = fs::read(&file).unwrap();
    bytes.extend(b"{\"step\":{\"step\":31,\"at\":12");
    fs::write(&file, &bytes).unwrap();
    record(&file, 1 << 20, 5).await;
    assert_eq!(replay(&[&file]).steps(), 35);
}

#[tokio::test]
async fn it_stays_within_its_size_and_both_files_replay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recording.jsonl");
    let older = dir.path().join("recording.jsonl.1");
    record(&file, 40_000, 2_000).await;
    for path in [&file, &older] {
        let length = fs::metadata(path).unwrap().len();
        assert!(length <= 20_000, "{} has {length}", path.display());
        assert!(replay(&[path]).steps() > 0);
    }
    let both = replay(&[&older, &file]);
    assert_eq!(both.lost(), 0);
    assert!(both.steps() > 20, "{}", both.steps());
}

#[test]
fn what_does_not_fit_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording.jsonl");
    let mut files = Files::open(&path, 1000).unwrap();
    let start = [line::BEGINS, &"x".repeat(500), "\n"].concat();
    assert_eq!(files.append(&[b'x'; 100], false), Ok(false), "a step before any start");
    assert_eq!(files.append(&[b'x'; 1001], true), Ok(false));
    assert_eq!(files.append(start.as_bytes(), true), Ok(true));
    assert_eq!(files.append(&[b'x'; 600], false), Ok(false));
    assert_eq!(fs::read_to_string(&path).unwrap(), start);
    // A start that does not fit begins another file.
    assert_eq!(files.append(start.as_bytes(), true), Ok(true));
    assert_eq!(fs::read_to_string(dir.path().join("recording.jsonl.1")).unwrap(), start);
    assert_eq!(fs::read_to_string(&path).unwrap(), start);
}

#[tokio::test]
async fn steps_that_were_left_out_are_told_and_it_goes_on_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recording.jsonl");
    let (sender, receiver) = sync_channel(2);
    let wanted = Arc::new(AtomicBool::new(true));
    let (_end, ended) = oneshot::channel();
    let mut recording =
        Recording { steps: Some(sender), wanted: Arc::clone(&wanted), ended, step: 0, lost: 0 };
    let mut now = clock::now();
    let mut agent = agent(now);
    let mut step = |recording: &mut Recording| {
        now = now + Duration::from_millis(100);
        let begun = recording.begin(&agent, now, &Event::Changed);
        let effects = agent.step(now, Event::Changed);
        recording.end(begun, &effects);
    };
    // Nobody reads: two wait, three are left out.
    for _ in 0..5 {
        step(&mut recording);
    }
    let settings = Settings { file: file.clone(), max_size: 1 << 20 };
    let thread = std::thread::spawn(move || write(&settings, &receiver, &wanted));
    let deadline = clock::now() + Duration::from_secs(5);
    while fs::read(&file).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count()) < 3
    {
        assert!(clock::now() < deadline, "nothing is written");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    step(&mut recording);
    drop(recording);
    thread.join().unwrap().unwrap();
    let replay = replay(&[&file]);
    assert_eq!((replay.steps(), replay.lost()), (3, 3));
}

#[tokio::test]
async fn a_strange_file_is_left_alone_and_nothing_else_suffers() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("floor.json");
    for strange in ["{\"incarnation\":\"1f0c\",\"epoch\":7}", "short", "", "{\"sta"] {
        fs::write(&file, strange).unwrap();
        record(&file, 1 << 20, 3).await;
        let left = fs::read_to_string(&file).unwrap();
        assert_eq!(left == strange, !BEGINS_WELL.contains(&strange), "{strange:?}: {left:?}");
    }
    fs::write(dir.path().join("r.1"), "precious").unwrap();
    record(&dir.path().join("r"), 40_000, 2_000).await;
    assert_eq!(fs::read_to_string(dir.path().join("r.1")).unwrap(), "precious");
    record(dir.path(), 1 << 20, 3).await;
    record(&dir.path().join("no/such/directory"), 1 << 20, 3).await;
    record(Path::new("/dev/full"), 1 << 20, 3).await;
}

/// What may have been cut off while a start was written.
const BEGINS_WELL: [&str; 2] = ["", "{\"sta"];
