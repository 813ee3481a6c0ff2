//! Agents killed and started again anywhere in a switchover: it ends with one primary, whoever that is, and
//! a site that is stuck says so.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::settle::{Dice, settle};
use super::site::{Site, Two};
use super::switchover::begin;

/// Points at which somebody is killed.
const POINTS: u32 = 4;

#[test]
fn an_agent_killed_anywhere_in_a_switchover_leaves_one_primary() {
    let mut dice = Dice::of_environment();
    let mut two = Two::start();
    let (clients, witness) = (two.clients(), two.witness());
    for point in 0..POINTS {
        let (old, new) = if leads(&two.a) { (&two.a, &two.b) } else { (&two.b, &two.a) };
        let mut order = begin(old, new.name);
        let (wait, who, away) = (dice.below(2500), dice.below(3), dice.below(600));
        println!("point {point}: after {wait} ms {who} is killed for {away} ms");
        std::thread::sleep(Duration::from_millis(wait));
        for (index, site) in [&mut two.a, &mut two.b].into_iter().enumerate() {
            if who == 2 || who == index as u64 {
                site.member.kill();
            }
        }
        std::thread::sleep(Duration::from_millis(away));
        for (index, site) in [&mut two.a, &mut two.b].into_iter().enumerate() {
            if who == 2 || who == index as u64 {
                site.member.start();
            }
        }
        settle(&mut two);
        let _ended = order.kill();
        let _ended = order.wait();
    }
    witness.judge(&two, &clients);
    clients.assert_never_at_once();
    two.assert_sound();
}

/// Its agent says that it is the primary.
pub(super) fn leads(site: &Site) -> bool {
    is_primary(&site.member.status())
}

fn is_primary(said: &Value) -> bool {
    said["state"] == "primary_healthy" && said["writable"] == true
}

/// A frozen agent that is thawed.
pub(super) fn thaw(site: &Site) {
    site.member.signal(Signal::CONT);
}
