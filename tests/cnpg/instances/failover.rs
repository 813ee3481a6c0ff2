//! The instance that acts is gone, and comes back.

use std::time::Duration;

use rustix::process::Signal;

use super::cluster::Three;

#[test]
fn an_instance_whose_machine_dies_is_taken_over_from_and_follows_when_it_is_back() {
    let mut three = Three::start();
    let clients = three.clients();
    clients.until_acknowledges(0);
    three.node_dies(0);
    let new = until_another_leads(&three);
    clients.until_acknowledges(new);
    three.node_comes_back(0);
    three.instances[0].member.until_follows();
    clients.assert_one_after_the_other(&[0, new]);
    three.assert_sound();
}

/// Which of the others leads.
fn until_another_leads(three: &Three) -> usize {
    crate::live::cluster::until("another one leads", || {
        let leads = |index: &usize| {
            let said = three.instances[*index].member.status();
            said["state"] == "primary_healthy" && said["writable"] == true
        };
        [1, 2].into_iter().find(leads).ok_or_else(|| three.double.told())
    })
}

#[test]
fn an_agent_that_freezes_is_taken_over_from_and_its_instance_follows() {
    let mut three = Three::start();
    let clients = three.clients();
    clients.until_acknowledges(0);
    three.instances[0].member.signal(Signal::STOP);
    let new = until_another_leads(&three);
    clients.until_acknowledges(new);
    three.assert_silent(0, Duration::from_secs(2));
    three.instances[0].member.signal(Signal::CONT);
    three.instances[0].member.until_follows();
    clients.assert_one_after_the_other(&[0, new]);
    three.assert_sound();
}
