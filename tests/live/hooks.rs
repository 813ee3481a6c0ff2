//! The operator's programs: what a promotion waits for, and what nobody waits for.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::checks::{assert_fails, assert_sound};
use super::client::Pinned;
use super::cluster::{Member, Place, found, has_alarm, until};

/// Makes `text` the program of a hook.
fn set(member: &mut Member, hook: &str, text: &str) {
    let program = member.dir.join(hook);
    let told = member.dir.join("told");
    let tell = "$HARMONY_HOOK $HARMONY_HOOK_MEMBER $HARMONY_HOOK_EPOCH $HARMONY_HOOK_REASON";
    fs::write(&program, format!("#!/bin/sh\necho {tell} >> {told:?}\n{text}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    if member.settings.get("hooks").is_none() {
        member.settings["hooks"] = json!({});
    }
    member.settings["hooks"][hook] = json!([program]);
}

/// What a member's hooks were told, line by line.
fn told(member: &Member) -> Vec<String> {
    let told = fs::read_to_string(member.dir.join("told")).unwrap_or_default();
    told.lines().map(str::to_owned).collect()
}

/// The epoch of the lease that a primary holds.
fn epoch(primary: &Member) -> u64 {
    primary.status()["epoch"].as_u64().unwrap()
}

fn until_told(member: &Member, line: &str) {
    until(line, || {
        let told = told(member);
        if told.iter().any(|it| it == line) { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

#[test]
fn a_required_hook_that_hangs_leaves_the_promotion_to_another_member() {
    leaves_the_promotion_to_another_member("exec sleep 1000");
}

#[test]
fn a_required_hook_that_fails_leaves_the_promotion_to_another_member() {
    leaves_the_promotion_to_another_member("exit 3");
}

fn leaves_the_promotion_to_another_member(ending: &str) {
    let place = Place::new();
    let (mut a, mut b, mut c) = (place.member("a"), place.member("b"), place.member("c"));
    // The first in line.
    b.settings["failover"] = json!({"priority": 5});
    set(&mut b, "before_promote", &format!("echo not this one; {ending}"));
    set(&mut c, "before_promote", "exit 0");
    set(&mut c, "after_promote", "");
    for member in [&mut b, &mut c] {
        member.settings["hooks"]["before_promote_required"] = json!(true);
        member.settings["hooks"]["timeout"] = json!("700ms");
    }
    found(&mut a, &mut b);
    c.start();
    c.until_follows();
    a.until("both could take over", |status| {
        status["line"].as_array().is_some_and(|line| line.len() == 2)
    });
    let clients = Pinned::start(&[&a, &b, &c]);
    clients.until_acknowledges(0);
    let epoch = epoch(&a);
    let server = a.postmaster();
    a.kill();
    kill_process(server, Signal::KILL).unwrap();
    clients.until_acknowledges(2);
    clients.assert_one_after_the_other(&[0, 2]);
    let refused = format!("before_promote b {} holder_silent", epoch + 1);
    assert_eq!(told(&b), [refused], "{}", b.log());
    b.until_says("\"line\":\"not this one\"");
    b.until_says("hook_refused");
    assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());
    b.until_follows();
    assert!(has_alarm(&b.status(), "hook_failed"));
    assert_eq!(told(&c)[0], format!("before_promote c {} lease_released", epoch + 2));
    until_told(&c, &format!("after_promote c {} promoted", epoch + 2));
    assert_sound(&mut [&mut b, &mut c]);
}

#[test]
fn nobody_waits_for_a_hook_that_is_only_told() {
    let place = Place::new();
    let (mut a, mut b) = (place.member("a"), place.member("b"));
    set(&mut a, "on_demote", "exec sleep 1000");
    set(&mut a, "on_fence", "exec sleep 1000");
    set(&mut a, "on_replica", "yes flood");
    set(&mut b, "before_promote", "exit 1");
    a.settings["hooks"]["timeout"] = json!("2s");
    // Nothing here waits for a lease to end: a busy machine is not to end one.
    for member in [&mut a, &mut b] {
        member.settings["profile"] = json!("standard");
    }
    found(&mut a, &mut b);
    let clients = Pinned::start(&[&a, &b]);
    clients.until_acknowledges(0);
    let epoch = epoch(&a);
    kill_process(a.postmaster(), Signal::KILL).unwrap();
    clients.until_acknowledges(1);
    // Its hook failed, and it was promoted all the same, while the first one of a still hung.
    assert_eq!(told(&b), [format!("before_promote b {} lease_released", epoch + 1)]);
    assert_eq!(told(&a), [format!("on_demote a {epoch} database_died")], "{}", a.log());
    b.until("the failed hook is an alarm", |status| has_alarm(status, "hook_failed"));
    until_told(&a, &format!("on_fence a {epoch} fence_confirmed"));
    until("the last one is told", || {
        let told = told(&a);
        told.iter().any(|line| line.starts_with("on_replica a ")).then_some(()).ok_or(a.log())
    });
    a.until_follows();
    clients.assert_one_after_the_other(&[0, 1]);
    let hangs = |log: &str| log.matches("(hooks.timeout) and was killed").count();
    until("all are killed", || (hangs(&a.log()) == 3).then_some(()).ok_or(a.log()));
    assert!(a.log().matches("\"line\":\"flood\"").count() <= 100);
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_program_that_is_not_there_is_refused_by_name() {
    let place = Place::new();
    let mut a = place.member("a");
    a.settings["hooks"] = json!({"on_fence": ["/nonexistent/program", "argument"]});
    assert_fails(&a.run(), 78, &["hooks.on_fence", "/nonexistent/program", "No such file"]);
    a.settings["hooks"] = json!({"before_promote_required": Value::Bool(true)});
    assert_fails(&a.run(), 78, &["hooks.before_promote_required", "hooks.before_promote"]);
}
