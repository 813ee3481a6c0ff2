//! A pause while the store is away: it stands, whatever else has to be found anew.

use super::checks::{LONG, assert_sound, power_off, until_fenced};
use super::cluster::{Member, Place};
use super::orders::done;
use super::promises::lock;

const REASON: &str = "work on the store";

fn assert_paused(members: &[&Member]) {
    for member in members {
        member.until("it is paused", |status| status["paused"]["reason"] == REASON);
    }
}

#[test]
fn a_pause_outlives_an_outage_of_the_store() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let epoch = a.status()["epoch"].as_u64().unwrap();
    done(&b, &["pause", "--reason", REASON]);
    assert_paused(&[&a, &b]);

    // Nobody promised anything here: without the store the primary is fenced.
    let hand = lock(&place);
    until_fenced(&a);
    std::thread::sleep(LONG);
    assert_paused(&[&a, &b]);
    for member in [&a, &b] {
        assert!(!member.is_writable(), "{}", member.log());
    }
    drop(hand);

    // Its own lease it takes again; the other one wanted to take nothing over all that time.
    let status = a.until_leads();
    assert_eq!(status["lease"]["holder"], "a", "{status:#}");
    assert!(status["epoch"].as_u64().unwrap() >= epoch, "{status:#}");
    assert!(!b.log().contains("replica_promoting"), "{}", b.log());
    assert_paused(&[&a, &b]);
    for member in [&a, &b] {
        let told = done(member, &["status"]);
        assert!(told.contains("PAUSED until `harmony-agent resume`: work on the store"), "{told}");
    }
    b.until_follows();

    power_off(&mut a);
    std::thread::sleep(LONG);
    assert!(!b.is_writable(), "{}", b.log());
    assert_paused(&[&b]);
    done(&b, &["resume"]);
    b.until_leads();
    a.start();
    a.until_follows();
    assert!(!done(&a, &["status"]).contains("PAUSED"));
    assert_sound(&mut [&mut a, &mut b]);
}
