//! The agent of a former primary is away: nobody says what may start, so nothing does.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::time::Instant;

use super::cluster::Field;
use crate::live::cluster::PATIENCE;

#[test]
fn a_former_primary_stays_down_while_its_agent_is_away() {
    let mut field = Field::two();
    let clients = field.clients();
    clients.until_acknowledges(0);
    field.at_mut("pg-a-2").node_dies();
    field.at("pg-a-1").member.signal(Signal::STOP);
    clients.until_acknowledges(2);
    field.at("pg-a-1").member.signal(Signal::CONT);
    // For CloudNativePG it is the primary of its site still, and no annotation holds it.
    field.at("pg-a-1").member.until_alarm("rejoin_failed");
    assert_eq!(field.sites[0].cluster()["status"]["targetPrimary"], "pg-a-1");
    field.at_mut("pg-a-1").member.kill();
    for pid in field.at("pg-a-1").member.watchdogs() {
        // The last one goes when it has waited long enough for the next agent.
        let _ended = kill_process(pid, Signal::KILL);
    }
    let watchdog = field.at("pg-a-1").watchdog_in_a_container();
    let tried = field.at("pg-a-1").pod.state().restarts;
    let end = Instant::now() + PATIENCE;
    while field.at("pg-a-1").pod.state().restarts < tried + 2 {
        assert!(Instant::now() < end, "its manager does not try\n{}", field.logs());
        field.at("pg-a-1").assert_silent(Duration::from_millis(100));
    }
    field.at_mut("pg-a-1").member.start();
    field.at("pg-a-1").member.until_alarm("rejoin_failed");
    field.at_mut("pg-a-2").node_comes_back();
    field.at("pg-a-1").assert_silent(Duration::from_secs(1));
    clients.assert_one_after_the_other(&[0, 2]);
    field.assert_sound();
    drop(watchdog);
}
