//! The API server answers late, is overrun, or is restarted in the middle of a hand-over.

use std::time::Duration;

use super::super::double::api::faults::{Answer, Fault, Network};
use super::kills::leads;
use super::settle::settle;
use super::site::{AGENT, Site, Two};
use super::switchover::{begin, until_served};
use crate::live::checks::LONG;
use crate::live::cluster::until;
use crate::live::orders::done;

fn answers(site: &Site, answer: Answer) {
    site.double.server().set_faults(vec![Fault::always(answer).of(AGENT)]);
}

fn answers_well(site: &Site) {
    site.double.server().set_faults(Vec::new());
}

#[test]
fn late_answers_make_a_hand_over_late_and_no_worse() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    for site in [&two.a, &two.b] {
        answers(site, Answer::Slow(500));
    }
    done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(1);
    two.a.member.until_follows();
    two.b.until_cluster("its token was used", |cluster| cluster.token().is_empty());
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

/// Every answer comes when nobody waits for it any more.
#[test]
fn answers_that_come_too_late_are_none_and_what_runs_goes_on() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    for site in [&two.a, &two.b] {
        answers(site, Answer::Slow(3000));
        site.member.until_says("no answer of the API server");
    }
    let before = clients.count(0);
    std::thread::sleep(LONG);
    assert!(clients.count(0) > before + 50, "the writes stopped\n{}", two.a.member.log());
    assert_eq!(two.a.member.until_leads()["epoch"], 1);
    for site in [&two.a, &two.b] {
        answers_well(site);
    }
    done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    clients.until_acknowledges(1);
    two.a.member.until_follows();
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}

#[test]
fn a_server_that_is_overrun_is_no_reason_to_fail_over_and_a_failover_waits_for_it() {
    for answer in [Answer::TooMany(1), Answer::Server(410), Answer::Server(500), Answer::Conflict] {
        let mut two = Two::start();
        let clients = two.clients();
        clients.until_acknowledges(0);
        for site in [&two.a, &two.b] {
            answers(site, answer.clone());
        }
        std::thread::sleep(LONG);
        assert_eq!(two.a.member.until_leads()["epoch"], 1, "{answer:?}");
        two.b.member.until_follows();
        two.a.node_dies();
        two.b.assert_silent(LONG);
        assert_eq!(two.b.cluster()["spec"]["replica"]["primary"], "pg-a", "{answer:?}");
        answers_well(&two.b);
        clients.until_acknowledges(1);
        two.b.member.until_leads();
        clients.assert_one_after_the_other(&[0, 1]);
        two.assert_sound_b();
    }
}

/// Who leads, and who does not.
fn order_of(two: &Two) -> (&Site, &Site) {
    if leads(&two.b) { (&two.b, &two.a) } else { (&two.a, &two.b) }
}

#[test]
fn an_api_server_that_is_restarted_in_a_hand_over_leaves_one_primary() {
    let mut two = Two::start();
    let clients = two.clients();
    // Before the demotion, in it, and at the promotion.
    for (index, word) in ["\"action\":\"fence\"", "\"action\":\"demote\"", "promote_with_token"]
        .into_iter()
        .enumerate()
    {
        let (old, new) = order_of(&two);
        let here = if index < 2 { old } else { new };
        let before = here.member.log().matches(word).count();
        let mut order = begin(old, new.name);
        until(word, || {
            let log = here.member.log();
            (log.matches(word).count() > before).then_some(()).ok_or(log)
        });
        here.double.server().set_network(Network::Refused);
        std::thread::sleep(Duration::from_millis(1500));
        here.double.server().set_network(Network::Up);
        assert_eq!(settle(&mut two), 0, "nobody has to be built anew");
        let _ended = order.kill();
        let _ended = order.wait();
        let (primary, standby) = order_of(&two);
        until_served(standby, primary);
    }
    clients.assert_never_at_once();
    two.assert_sound();
}
