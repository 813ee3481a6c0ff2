//! The instance that acts is gone, and comes back.

use std::time::Duration;

use rustix::process::Signal;

use super::cluster::Field;

#[test]
fn an_instance_whose_machine_dies_is_taken_over_from_and_follows_when_it_is_back() {
    let mut field = Field::one();
    let clients = field.clients();
    clients.until_acknowledges(0);
    field.at_mut("pg-a-1").node_dies();
    let new = until_another_leads(&field);
    clients.until_acknowledges(new);
    field.at_mut("pg-a-1").node_comes_back();
    field.at("pg-a-1").member.until_follows();
    clients.assert_one_after_the_other(&[0, new]);
    field.assert_sound();
}

/// Which of the others leads.
fn until_another_leads(field: &Field) -> usize {
    crate::live::cluster::until("another one leads", || {
        let leads = |index: &usize| {
            let said = field.sites[0].instances[*index].member.status();
            said["state"] == "primary_healthy" && said["writable"] == true
        };
        [1, 2].into_iter().find(leads).ok_or_else(|| field.told())
    })
}

#[test]
fn an_agent_that_freezes_is_taken_over_from_and_its_instance_follows() {
    let mut field = Field::one();
    let clients = field.clients();
    clients.until_acknowledges(0);
    field.at("pg-a-1").member.signal(Signal::STOP);
    let new = until_another_leads(&field);
    clients.until_acknowledges(new);
    field.at("pg-a-1").assert_silent(Duration::from_secs(2));
    field.at("pg-a-1").member.signal(Signal::CONT);
    field.at("pg-a-1").member.until_follows();
    clients.assert_one_after_the_other(&[0, new]);
    field.assert_sound();
}
