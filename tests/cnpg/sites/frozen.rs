//! The agent of the primary's site freezes: its watchdog ends PostgreSQL, and nobody reaches what the
//! instance manager starts in its place.

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use super::site::Two;
use crate::live::cluster::until;

#[test]
fn a_frozen_agent_is_taken_over_from_whatever_is_started_in_its_pod() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.member.signal(Signal::STOP);
    clients.until_acknowledges(1);
    // It is brought up again and again, and finds its port taken, unless the watchdog is quicker still.
    until("the manager ends and is started again", || {
        let state = two.a.pod.state().clone();
        let taken = two.a.pod.postgres.log().contains("Address already in use");
        (state.restarts >= 2 && taken).then_some(()).ok_or_else(|| format!("{state:#?}"))
    });
    two.a.assert_silent(Duration::from_secs(2));
    assert!(TcpStream::connect(("127.0.0.1", two.a.member.port)).is_err(), "somebody listens");
    assert_eq!(two.a.fence(), None, "only the agent could have set it");

    two.a.member.signal(Signal::CONT);
    // It was killed: what it wrote last may be nowhere else.
    two.a.member.until_alarm("rejoin_failed");
    two.a.until_cluster("it is fenced", |cluster| cluster.is_fenced("pg-a-1"));
    two.a.assert_silent(Duration::from_secs(1));
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}
