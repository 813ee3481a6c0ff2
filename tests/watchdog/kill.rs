use std::process::{Command, Stdio};
use std::time::Duration;

use harmony_agent::postmaster::now;
use rustix::process::Signal;

use super::postgres::{Postgres, lives, signal};
use super::{PATIENCE, eventually};

#[test]
fn a_busy_server_is_killed_to_the_last_backend() {
    let mut postgres = Postgres::started();
    postgres.busy(16);
    let mut instance = postgres.instance();
    assert_eq!(instance.postmaster().unwrap().unwrap().pid, postgres.pid());
    let processes = instance.remnants().unwrap();
    assert!(processes > 16);

    let began = now();
    let killed = instance.kill(PATIENCE).unwrap().killed;
    eprintln!("killed {killed} processes with proof in {:?}", now().since(began));

    assert!(usize::try_from(killed).unwrap() >= processes - 1, "{killed} of {processes}");
    assert_eq!(instance.remnants().unwrap(), 0);
    // The file is still there, and names a zombie.
    assert!(postgres.data_dir().join("postmaster.pid").exists());
    assert!(instance.postmaster().unwrap().is_none());
    assert_eq!(instance.kill(Duration::ZERO).unwrap().killed, 0);
}

#[test]
fn stopped_processes_are_killed_as_well() {
    let mut postgres = Postgres::started();
    postgres.busy(4);
    assert!(postgres.freeze().len() >= 4);
    postgres.instance().kill(PATIENCE).unwrap();
    assert!(postgres.is_dead());
}

#[test]
fn backends_that_outlive_their_postmaster_are_found_and_killed() {
    let mut postgres = Postgres::started();
    postgres.busy(4);
    let mut instance = postgres.instance();
    let children = postgres.freeze();
    signal(postgres.pid(), Signal::KILL);
    eventually("the postmaster is gone", || instance.postmaster().unwrap().is_none());

    assert_eq!(instance.remnants().unwrap(), children.len());
    let killed = instance.kill(PATIENCE).unwrap().killed;
    assert_eq!(usize::try_from(killed).unwrap(), children.len());
    assert!(children.into_iter().all(|pid| !lives(pid)));
}

#[test]
fn a_single_user_server_counts() {
    let mut postgres = Postgres::stopped();
    postgres.single_user();
    let mut instance = postgres.instance();
    assert!(instance.postmaster().unwrap().is_none());
    assert_eq!(instance.kill(PATIENCE).unwrap().killed, 1);
    assert!(postgres.is_dead());
}

#[test]
fn whoever_a_stale_file_names_survives() {
    let postgres = Postgres::stopped();
    for at_home in [false, true] {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").current_dir(if at_home { postgres.data_dir() } else { "/".into() });
        let mut sleep = sleep.spawn().unwrap();
        let file = format!("{}\n{}\n", sleep.id(), postgres.data_dir().display());
        std::fs::write(postgres.data_dir().join("postmaster.pid"), file).unwrap();

        let mut instance = postgres.instance();
        assert!(instance.postmaster().unwrap().is_none());
        assert_eq!(instance.remnants().unwrap(), 0);
        assert_eq!(instance.kill(PATIENCE).unwrap().killed, 0);
        assert!(sleep.try_wait().unwrap().is_none(), "the innocent was killed");
        sleep.kill().unwrap();
        sleep.wait().unwrap();
    }
}

#[test]
fn a_stale_file_naming_another_instance_leaves_that_alone() {
    let other = Postgres::started();
    let postgres = Postgres::stopped();
    let file = postgres.data_dir().join("postmaster.pid");
    std::fs::copy(other.data_dir().join("postmaster.pid"), &file).unwrap();
    let mut instance = postgres.instance();
    assert!(instance.postmaster().unwrap().is_none());
    // The copied file names shared memory that is in use, so there is no proof; and no kill.
    instance.kill(Duration::from_millis(100)).unwrap_err();
    assert!(other.answers());
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_shell_in_the_data_directory_survives() {
    let mut postgres = Postgres::started();
    postgres.busy(2);
    let mut shell = Command::new("sh")
        .args(["-c", "read line"])
        .stdin(Stdio::piped())
        .current_dir(postgres.data_dir())
        .spawn()
        .unwrap();
    postgres.instance().kill(PATIENCE).unwrap();
    assert!(postgres.is_dead());
    assert!(shell.try_wait().unwrap().is_none(), "the shell was killed");
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn the_processes_of_a_removed_directory_are_still_known() {
    let mut postgres = Postgres::started();
    postgres.busy(2);
    let mut instance = postgres.instance();
    let away = postgres.dir().join("away");
    std::fs::rename(postgres.data_dir(), &away).unwrap();
    let killed = instance.kill(PATIENCE).unwrap().killed;
    std::fs::rename(away, postgres.data_dir()).unwrap();
    assert!(killed > 2);
    assert!(postgres.is_dead());
}
