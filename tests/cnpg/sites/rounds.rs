//! Rounds of faults of every part, drawn from a seed.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::super::double::api::faults::{Answer, Fault, Network};
use super::kills::{leads, thaw};
use super::settle::{Dice, settle};
use super::site::{AGENT, Site, Two};
use super::switchover::begin;
use crate::live::checks::count;

/// What may happen to a site; most of it ends with the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    AgentKilled,
    AgentFrozen,
    NodeDies,
    ManagerCutOff,
    ServerRefuses,
    ServerSilent,
    ServerFails,
    Conflicts,
    WebhookDown,
    OperatorOff,
    FenceLifted,
    FenceOfAPerson,
    PodDeleted,
    Switchover,
}

const ALL: [Trouble; 14] = [
    Trouble::AgentKilled,
    Trouble::AgentFrozen,
    Trouble::NodeDies,
    Trouble::ManagerCutOff,
    Trouble::ServerRefuses,
    Trouble::ServerSilent,
    Trouble::ServerFails,
    Trouble::Conflicts,
    Trouble::WebhookDown,
    Trouble::OperatorOff,
    Trouble::FenceLifted,
    Trouble::FenceOfAPerson,
    Trouble::PodDeleted,
    Trouble::Switchover,
];

impl Trouble {
    fn begins(self, site: &mut Site, other: &str) {
        let server = site.double.server();
        match self {
            Self::AgentKilled => site.member.kill(),
            Self::AgentFrozen => site.member.signal(Signal::STOP),
            Self::NodeDies => site.node_dies(),
            Self::ManagerCutOff => site.pod.link.set_cut(true),
            Self::ServerRefuses => server.set_network(Network::Refused),
            Self::ServerSilent => server.set_network(Network::Silent),
            Self::ServerFails => server.set_faults(vec![
                Fault::always(Answer::Server(503)).on("patch", "clusters").of(AGENT),
            ]),
            Self::Conflicts => server.set_faults(vec![Fault::times(Answer::Conflict, 20)]),
            Self::WebhookDown => server.set_webhook_down(true),
            Self::OperatorOff => site.double.world().operator.set_off(true),
            Self::FenceLifted => site.set_fence(None),
            Self::FenceOfAPerson => site.set_fence(Some("[\"*\"]")),
            Self::PodDeleted => {
                // There may be none.
                let _deleted = super::site::wait(site.double.delete_pod(&site.pod.name));
            }
            Self::Switchover => {
                let mut order = begin(site, other);
                std::thread::spawn(move || order.wait());
            }
        }
    }

    fn ends(self, site: &mut Site) {
        let server = site.double.server();
        match self {
            Self::AgentKilled => site.member.start(),
            Self::AgentFrozen => thaw(site),
            Self::NodeDies => site.node_comes_back(),
            Self::ManagerCutOff => site.pod.link.set_cut(false),
            Self::ServerRefuses | Self::ServerSilent => server.set_network(Network::Up),
            Self::ServerFails | Self::Conflicts => server.set_faults(Vec::new()),
            Self::WebhookDown => server.set_webhook_down(false),
            Self::OperatorOff => site.double.world().operator.set_off(false),
            Self::FenceOfAPerson => {
                // Whatever is ours by now stays.
                let ours = &site.cluster()["metadata"]["annotations"]["harmony-agent.io/fence"];
                if ours.is_null() {
                    site.set_fence(None);
                } else {
                    let mark = json!({ "member": site.name }).to_string();
                    let body = json!({ "harmony-agent.io/fence": mark });
                    site.patch(json!({ "metadata": { "annotations": body } }));
                }
            }
            Self::FenceLifted | Self::PodDeleted | Self::Switchover => {}
        }
    }
}

fn rounds(number: u32, mut dice: Dice) {
    let mut two = Two::start();
    let clients = two.clients();
    let mut rebuilt = 0;
    for round in 0..number {
        let troubles: Vec<(Trouble, bool, u64)> = (0..=dice.below(2))
            .map(|_| {
                let trouble = ALL[usize::try_from(dice.below(ALL.len() as u64)).unwrap()];
                (trouble, dice.below(3) > 0, dice.below(1500))
            })
            .collect();
        println!("round {round}: (what, at the primary, and then so many ms) {troubles:?}");
        let (primary, standby) = if leads(&two.a) { (0, 1) } else { (1, 0) };
        let at = |here: bool| if here { primary } else { standby };
        let mut begun: Vec<(Trouble, usize)> = Vec::new();
        for (trouble, here, time) in troubles {
            let index = at(here);
            // An agent that is gone, or stopped, can not be once more.
            let agent = |it: Trouble| {
                matches!(it, Trouble::AgentKilled | Trouble::AgentFrozen | Trouble::NodeDies)
            };
            if !begun.iter().any(|(other, site)| {
                *site == index && (*other == trouble || agent(*other) && agent(trouble))
            }) {
                let (site, other) = both(&mut two, index);
                trouble.begins(site, other);
                begun.push((trouble, index));
            }
            std::thread::sleep(Duration::from_millis(time));
        }
        std::thread::sleep(Duration::from_millis(dice.below(2500)));
        for (trouble, index) in begun {
            trouble.ends(both(&mut two, index).0);
        }
        rebuilt += settle(&mut two);
    }
    let primary = if leads(&two.a) { &two.a } else { &two.b };
    assert!(count(&primary.member) > 0);
    println!("{rebuilt} times a site was built anew");
    clients.assert_never_at_once();
    two.assert_sound();
}

fn both(two: &mut Two, index: usize) -> (&mut Site, &'static str) {
    if index == 0 { (&mut two.a, two.b.name) } else { (&mut two.b, two.a.name) }
}

#[test]
fn faults_from_a_seed_leave_one_primary() {
    rounds(2, Dice::of_environment());
}

#[test]
#[ignore = "long: as many rounds as CNPG_ROUNDS says, from CNPG_SEED"]
fn many_faults_from_a_seed_leave_one_primary() {
    let number = std::env::var("CNPG_ROUNDS").ok().and_then(|text| text.parse().ok());
    rounds(number.unwrap_or(20), Dice::of_environment());
}
