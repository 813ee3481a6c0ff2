//! The primary's site is gone, and comes back.

use std::time::Duration;

use super::site::Two;

#[test]
fn a_site_that_dies_is_taken_over_from_and_comes_back_fenced() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.node_dies();
    clients.until_acknowledges(1);
    two.b.member.until_leads();
    let replica = two.b.cluster()["spec"]["replica"].clone();
    assert_eq!(replica["primary"], "pg-b", "{replica}");
    assert_eq!(replica.get("promotionToken"), None, "there was nobody to give one: {replica}");

    two.a.node_comes_back();
    two.a.member.until_alarm("rejoin_failed");
    two.a.assert_silent(Duration::from_secs(2));
    let said = two.a.member.status().to_string();
    assert!(said.contains("rebuild a site"), "{said}");
    assert_eq!(two.a.cluster()["spec"]["replica"]["primary"], "pg-a", "it was demoted");
    clients.assert_one_after_the_other(&[0, 1]);
    two.assert_sound();
}
