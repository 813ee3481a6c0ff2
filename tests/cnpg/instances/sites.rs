//! Two sites of two instances: only the one that acts in a site speaks for it.

use std::time::Duration;

use super::super::double::cluster::{Cluster, FENCE};
use super::cluster::Field;
use super::operator::promote;
use crate::live::checks::{assert_fails, count};
use crate::live::cluster::until;
use crate::live::orders::ask;

/// In the order of the clients.
const ALL: [&str; 4] = ["pg-a-1", "pg-a-2", "pg-b-1", "pg-b-2"];

#[test]
fn a_site_hands_over_to_the_one_that_stands_for_the_other_and_gets_it_back() {
    let mut field = Field::two();
    let clients = field.clients();
    clients.until_acknowledges(0);
    let refused = ask(&field.at("pg-a-1").member, &["switchover", "--to", "pg-b-2", "--yes"]);
    assert_fails(&refused, 75, &["pg-b-1 stands for its site"]);
    field.done("pg-a-1", &["switchover", "--to", "pg-b-1", "--yes"]);
    field.until_rests("pg-b-1");
    clients.until_acknowledges(2);
    assert_eq!(field.sites[0].cluster()["spec"]["replica"]["primary"], "pg-b");
    field.at("pg-b-1").member.until("pg-a-1 could take over", |status| {
        status["line"].as_array().is_some_and(|line| line.contains(&"pg-a-1".into()))
    });
    field.done("pg-b-2", &["switchover", "--to", "pg-a-1", "--yes"]);
    field.until_rests("pg-a-1");
    clients.until_acknowledges(0);
    let acknowledged: usize = (0..ALL.len()).map(|member| clients.count(member)).sum();
    println!("{}", field.logs());
    clients.assert_one_after_the_other(&[0, 2, 0]);
    assert!(count(&field.at("pg-a-1").member) as usize >= acknowledged, "{acknowledged}");
    field.assert_sound();
}

#[test]
fn within_the_acting_site_another_instance_takes_over_and_the_other_site_follows_it() {
    let mut field = Field::two();
    let clients = field.clients();
    clients.until_acknowledges(0);
    field.done("pg-b-1", &["switchover", "--to", "pg-a-2", "--yes"]);
    clients.until_acknowledges(1);
    field.sites[0].until_acts("pg-a-2");
    for follower in ["pg-a-1", "pg-b-1", "pg-b-2"] {
        field.at(follower).member.until_follows();
    }
    let before = count(&field.at("pg-a-2").member);
    until("what was written since is at the other site", || {
        let there = field.at("pg-b-2").member.sql("select count(*) from t").unwrap_or_default();
        (there.parse::<u32>().unwrap_or(0) >= before).then_some(()).ok_or(there)
    });
    assert_eq!(field.sites[1].cluster()["status"]["currentPrimary"], "pg-b-1");
    clients.assert_one_after_the_other(&[0, 1]);
    field.assert_sound();
}

#[test]
fn when_who_stands_for_a_site_is_gone_another_one_does_and_takes_over_when_the_acting_site_dies() {
    let mut field = Field::two();
    let clients = field.clients();
    clients.until_acknowledges(0);
    field.at_mut("pg-b-1").node_dies();
    field.sites[1].until_acts("pg-b-2");
    field.at("pg-a-1").member.until("pg-b-2 could take over", |status| {
        status["line"].as_array().is_some_and(|line| line.contains(&"pg-b-2".into()))
    });
    field.at_mut("pg-b-1").node_comes_back();
    field.at("pg-b-1").member.until_follows();
    for gone in ["pg-a-1", "pg-a-2"] {
        field.at_mut(gone).node_dies();
    }
    clients.until_acknowledges(3);
    field.at("pg-b-1").member.until_follows();
    // What was the primary is back, and is no primary.
    for back in ["pg-a-1", "pg-a-2"] {
        field.at_mut(back).node_comes_back();
    }
    for silent in ["pg-a-1", "pg-a-2"] {
        field.at(silent).assert_silent(Duration::from_secs(2));
    }
    clients.assert_one_after_the_other(&[0, 3]);
    field.assert_sound();
}

#[test]
fn who_stands_for_a_site_now_takes_over_from_who_did_when_the_acting_site_dies() {
    let mut field = Field::two();
    let clients = field.clients();
    clients.until_acknowledges(0);
    field.done("pg-a-1", &["switchover", "--to", "pg-b-1", "--yes"]);
    clients.until_acknowledges(2);
    field.at("pg-a-1").member.until_follows();
    promote(&field.sites[0], "pg-a-2");
    field.sites[0].until_acts("pg-a-2");
    field.at("pg-b-1").member.until("pg-a-2 could take over", |status| {
        status["line"].as_array().is_some_and(|line| line.contains(&"pg-a-2".into()))
    });
    for gone in ["pg-b-1", "pg-b-2"] {
        field.at_mut(gone).node_dies();
    }
    clients.until_acknowledges(1);
    field.at("pg-a-1").member.until_follows();
    for back in ["pg-b-1", "pg-b-2"] {
        field.at_mut(back).node_comes_back();
    }
    field.at("pg-b-1").assert_silent(Duration::from_secs(2));
    clients.assert_one_after_the_other(&[0, 2, 1]);
    field.assert_sound();
}

#[test]
fn a_former_primary_that_comes_back_to_a_site_that_gave_the_lead_away_disturbs_nobody() {
    let mut field = Field::two();
    let clients = field.clients();
    clients.until_acknowledges(0);
    field.at_mut("pg-a-1").node_dies();
    clients.until_acknowledges(1);
    field.at("pg-b-1").member.until_follows();
    field.at("pg-a-2").member.until("pg-b-1 could take over", |status| {
        status["line"].as_array().is_some_and(|line| line.contains(&"pg-b-1".into()))
    });
    field.done("pg-a-2", &["switchover", "--to", "pg-b-1", "--yes"]);
    clients.until_acknowledges(2);
    field.at("pg-a-2").member.until_follows();
    // CloudNativePG restarts what it promoted once more, and then nobody is streamed to for a moment.
    field.until_rests_without("pg-b-1", "pg-a-1");
    // As long as it streams, it is the same process that does.
    let stream = "select pid from pg_stat_wal_receiver where status = 'streaming'";
    let before = field.at("pg-a-2").member.sql(stream).unwrap();
    assert!(!before.is_empty(), "{}", field.logs());
    let versions = field.sites[0].double.changes("pg-a").len();
    field.at_mut("pg-a-1").node_comes_back();
    field.at("pg-a-1").member.until_follows();
    field.until_rests("pg-b-1");
    let changes = field.sites[0].double.changes("pg-a").split_off(versions);
    let fenced = changes.iter().find(|it| Cluster(&it.object).annotation(FENCE).is_some());
    assert!(fenced.is_none(), "{fenced:#?}\n{}", field.logs());
    let after = field.at("pg-a-2").member.sql(stream).unwrap();
    assert_eq!(after, before, "its stream was broken\n{}", field.logs());
    clients.assert_one_after_the_other(&[0, 1, 2]);
    field.assert_sound();
}
