//! However an agent goes away, and whatever was changed before: members acknowledge commits one after
//! the other, never two at once. Clients pinned to each member are the witnesses.

use std::fs::File;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::checks::{assert_sound, count};
use super::client::Pinned;
use super::cluster::{Member, Place, until};

/// Waits until the lease was renewed twice: whatever was changed before is published by now.
fn until_renewed(member: &Member) {
    let revision = |member: &Member| member.status()["lease"]["revision"].as_u64();
    let before = revision(member).unwrap();
    let mut last = before;
    let mut renewals = 0;
    until("the lease is renewed", || {
        let now = revision(member).unwrap_or(last);
        renewals += u32::from(now > last);
        last = now;
        (renewals >= 2).then_some(()).ok_or_else(|| format!("{before} to {now}"))
    });
}

/// The primary's agent is frozen, and its member is taken over from and comes back.
fn freeze_and_thaw(a: &mut Member, b: &mut Member) {
    let clients = Pinned::start(&[a, b]);
    clients.until_acknowledges(0);
    a.signal(Signal::STOP);
    clients.until_acknowledges(1);
    a.signal(Signal::CONT);
    a.until_follows();
    clients.assert_one_after_the_other(&[0, 1]);
    assert!(count(b) > 0);
    assert_sound(&mut [a, b]);
}

fn with_lease(member: &mut Member, duration: &str) {
    member.settings["timing"]["lease_duration"] = json!(duration);
}

#[test]
fn a_lease_shortened_by_a_signal_makes_no_second_writer() {
    let place = Place::new();
    let (mut a, mut b) =
        place.pair_with(|settings| settings["timing"] = json!({"lease_duration": "3s"}));
    for member in [&mut a, &mut b] {
        with_lease(member, "1s");
        member.reload();
        member.until_says("timing.lease_duration");
    }
    until_renewed(&a);
    freeze_and_thaw(&mut a, &mut b);
}

#[test]
fn a_lease_shortened_by_a_restart_makes_no_second_writer() {
    let place = Place::new();
    let (mut a, mut b) =
        place.pair_with(|settings| settings["timing"] = json!({"lease_duration": "3s"}));
    let epoch = a.status()["epoch"].as_u64().unwrap();
    with_lease(&mut a, "1s");
    a.kill();
    a.start();
    a.until("it goes on with a new epoch", |status| {
        status["state"] == "primary_healthy" && status["epoch"] == epoch + 1
    });
    freeze_and_thaw(&mut a, &mut b);
}

/// PostgreSQL is to be left running, but nothing would end it after the lease: it is handed over.
fn left_unguarded(guard: impl FnOnce(&Member) -> Option<File>) {
    let place = Place::new();
    let (mut a, mut b) = place.pair_with(|settings| {
        settings["shutdown"] = json!({"on_sigterm": "leave_running"});
        settings["timing"] =
            json!({"hand_over_timeout": "500ms", "stop_timeout": "1s", "shutdown_timeout": "3s"});
    });
    let clients = Pinned::start(&[&a, &b]);
    clients.until_acknowledges(0);
    let _held = guard(&a);
    a.until("the watchdog is missed", |status| status["watchdog"] == "down");
    assert!(a.stop().success(), "{}", a.log());
    clients.until_acknowledges(1);
    clients.assert_one_after_the_other(&[0, 1]);
    assert!(!a.is_writable(), "left running without a guard\n{}", a.log());
    assert!(b.log().contains("lease_released"), "the lease was waited out\n{}", b.log());
    assert_sound(&mut [&mut b]);
}

#[test]
fn nothing_is_left_running_when_the_watchdog_is_gone() {
    left_unguarded(|member| {
        let file = File::open(member.dir.join("state").join("watchdog.lock")).unwrap();
        // Whoever holds the lock keeps new watchdogs out; the agent starts one after the other.
        until("the lock is ours", || {
            for pid in member.watchdogs() {
                // It may have ended meanwhile.
                let _ended = kill_process(pid, Signal::KILL);
            }
            flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| e.to_string())
        });
        Some(file)
    });
}

#[test]
fn nothing_is_left_running_when_the_watchdog_is_frozen() {
    left_unguarded(|member| {
        for pid in member.watchdogs() {
            kill_process(pid, Signal::STOP).unwrap();
        }
        None
    });
}
