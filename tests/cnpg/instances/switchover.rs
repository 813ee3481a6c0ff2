//! A planned change between instances of a Cluster.

use super::cluster::Field;
use crate::live::checks::count;

#[test]
fn an_instance_hands_over_to_another_one_and_gets_it_back() {
    let mut field = Field::one();
    let clients = field.clients();
    clients.until_acknowledges(0);
    field.done("pg-a-1", &["switchover", "--to", "pg-a-2", "--yes"]);
    clients.until_acknowledges(1);
    field.at("pg-a-2").member.until_leads();
    for follower in ["pg-a-1", "pg-a-3"] {
        field.at(follower).member.until_follows();
    }
    field.sites[0].until_acts("pg-a-2");
    // Until CloudNativePG has it follow the new one, it is waited for, and not asked for again and again.
    let log = field.at("pg-a-3").member.log();
    assert!(log.matches("action begins").count() < 10, "{log}");
    field.at("pg-a-2").member.until("both are attached", |status| {
        status["database"]["standbys"].as_array().is_some_and(|it| it.len() == 2)
    });
    field.done("pg-a-3", &["switchover", "--to", "pg-a-1", "--yes"]);
    clients.until_acknowledges(0);
    for follower in ["pg-a-2", "pg-a-3"] {
        field.at(follower).member.until_follows();
    }
    let acknowledged: usize = (0..3).map(|member| clients.count(member)).sum();
    clients.assert_one_after_the_other(&[0, 1, 0]);
    assert!(count(&field.at("pg-a-1").member) as usize >= acknowledged, "{acknowledged}");
    field.assert_sound();
}
