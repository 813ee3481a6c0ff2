//! What tests of whole agents wait for and assert again and again.

use std::process::Output;
use std::time::Duration;
use tokio::time::Instant;

use rusqlite::Connection;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::cluster::{Member, PATIENCE, Place, until};

/// Several times the lease duration and margin of the profile: who wanted to promote would have.
pub(crate) const LONG: Duration = Duration::from_secs(3);

/// Waits until one of the two leads and the other follows, the one that leads first.
pub(crate) fn until_healed<'a>(a: &'a Member, b: &'a Member) -> (&'a Member, &'a Member) {
    let leads = |status: &Value| status["state"] == "primary_healthy" && status["writable"] == true;
    let (primary, standby) = until("the cluster heals", || match (a.status(), b.status()) {
        (said, _) if leads(&said) => Ok((a, b)),
        (_, said) if leads(&said) => Ok((b, a)),
        (one, other) => Err(format!("{one:#}\n{other:#}\n{}\n{}", a.log(), b.log())),
    });
    primary.until_leads();
    standby.until_follows();
    (primary, standby)
}

/// For a good while nobody accepts writes.
pub(crate) fn assert_nobody_writes(members: &[&Member]) {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        for member in members {
            assert!(
                !member.is_writable(),
                "{} is writable\n{}",
                member.dir.display(),
                member.log()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn until_fenced(member: &Member) {
    until("the primary fences", || {
        (!member.is_writable()).then_some(()).ok_or_else(|| member.log())
    });
}

pub(crate) fn assert_sound(members: &mut [&mut Member]) {
    for member in members {
        assert!(member.runs(), "the agent ended\n{}", member.log());
        let log = member.log();
        assert!(!log.contains("panicked") && !log.contains("service broke"), "{log}");
    }
}

pub(crate) fn count(member: &Member) -> u32 {
    member.sql("select count(*) from t").unwrap().parse().unwrap()
}

pub(crate) fn assert_fails(ended: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(code), "{text}");
    for words in words {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// All of a member is gone at once: agent, watchdog, PostgreSQL.
pub(crate) fn power_off(member: &mut Member) {
    let server = member.postmaster();
    member.kill();
    for pid in member.watchdogs().into_iter().chain([server]) {
        // Without its agent a watchdog may have been quicker.
        let _ended = kill_process(pid, Signal::KILL);
    }
}

/// A record as it stands in the store.
pub(crate) fn record(place: &Place, key: &str) -> Value {
    let hand = Connection::open(place.store()).unwrap();
    hand.busy_timeout(Duration::from_secs(10)).unwrap();
    let newest = "SELECT value FROM revisions WHERE key = ?1 ORDER BY revision DESC";
    let value: Vec<u8> = hand.query_row(newest, [key], |row| row.get(0)).unwrap();
    serde_json::from_slice::<Value>(&value).unwrap()[key].take()
}

/// As [`until`], for what may be over soon: looks all the time.
pub(crate) fn catch(what: &str, mut seen: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !seen() {
        assert!(Instant::now() < end, "{what}: not seen");
        std::thread::sleep(Duration::from_millis(1));
    }
}
