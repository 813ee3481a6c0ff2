//! Everything as an ordinary user: the agent, its watchdog and PostgreSQL, with nobody else's help.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Signal, kill_process};

use super::checks::{assert_sound, count};
use super::client::Pinned;
use super::cluster::{Member, Place, found, until};
use crate::support::postgres::is_root;

/// The user `nobody`, who is not the superuser of any database either.
fn nobody() -> (u32, u32) {
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let line = accounts.lines().find(|line| line.starts_with("nobody:")).unwrap();
    let mut ids = line.split(':').skip(2).map(|id| id.parse().unwrap());
    (ids.next().unwrap(), ids.next().unwrap())
}

fn give(path: &Path, (uid, gid): (u32, u32)) {
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    for entry in fs::read_dir(path).into_iter().flatten() {
        give(&entry.unwrap().path(), (uid, gid));
    }
}

/// Every process of the member belongs to this user.
fn assert_all_of(place: &Place, uid: u32) {
    let processes = place.processes();
    assert!(processes.len() > 4, "{processes:?}");
    for pid in processes {
        let pid = pid.as_raw_nonzero();
        // It may have ended meanwhile.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let ids = text.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let all: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(all, [uid; 4], "process {pid}");
    }
}

fn assert_nothing_left(place: &Place) {
    until("every process has ended", || {
        let left = place.processes();
        left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
    });
}

#[test]
fn an_ordinary_user_is_enough() {
    let place = Place::new();
    let (mut a, mut b) = (place.member("a"), place.member("b"));
    let mut uid = rustix::process::geteuid().as_raw();
    if is_root() {
        let user = nobody();
        uid = user.0;
        give(place.path(), user);
        for member in [&mut a, &mut b] {
            (member.account, member.agent_as) = (Some(user), Some(user));
        }
    }
    found(&mut a, &mut b);
    assert_all_of(&place, uid);
    assert_eq!(fs::metadata(b.data_dir()).unwrap().uid(), uid);
    let clients = Pinned::start(&[&a, &b]);
    clients.until_acknowledges(0);

    // The server dies: handed over.
    kill_process(a.postmaster(), Signal::KILL).unwrap();
    clients.until_acknowledges(1);
    a.until_follows();
    b.until_leads();

    // The agent is frozen: the watchdog ends the server, without being root.
    b.signal(Signal::STOP);
    until("the watchdog fires", || {
        let log = fs::read_to_string(b.dir.join("state").join("watchdog.log")).unwrap();
        log.contains("fired").then_some(()).ok_or(log)
    });
    let acknowledged = clients.count(0);
    until("the other takes over", || {
        (clients.count(0) > acknowledged).then_some(()).ok_or_else(|| a.log())
    });
    b.signal(Signal::CONT);
    b.until_follows();
    clients.assert_one_after_the_other(&[0, 1, 0]);
    assert!(count(&a) > 0);
    assert_all_of(&place, uid);
    assert_sound(&mut [&mut a, &mut b]);

    stop_all(&place, &mut [&mut b, &mut a]);
}

fn stop_all(place: &Place, members: &mut [&mut Member]) {
    for member in members {
        assert!(member.stop().success(), "{}", member.log());
        assert!(member.sql("select 1").is_err(), "{}", member.log());
    }
    assert_nothing_left(place);
}
