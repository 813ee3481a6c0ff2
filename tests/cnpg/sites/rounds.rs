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
    AgentCutOff,
    AgentUnheard,
    StoreLocked,
    NodeDies,
    ManagerCutOff,
    ManagerSlow,
    ManagerHangs,
    ManagerRestarted,
    ServerRefuses,
    ServerSilent,
    ServerFails,
    Conflicts,
    WebhookDown,
    OperatorOff,
    OperatorBlind,
    OperatorSlow,
    FenceLifted,
    FenceOfAPerson,
    PodDeleted,
    Switchover,
}

const ALL: [Trouble; 22] = [
    Trouble::AgentKilled,
    Trouble::AgentFrozen,
    Trouble::AgentCutOff,
    Trouble::AgentUnheard,
    Trouble::StoreLocked,
    Trouble::NodeDies,
    Trouble::ManagerCutOff,
    Trouble::ManagerSlow,
    Trouble::ManagerHangs,
    Trouble::ManagerRestarted,
    Trouble::ServerRefuses,
    Trouble::ServerSilent,
    Trouble::ServerFails,
    Trouble::Conflicts,
    Trouble::WebhookDown,
    Trouble::OperatorOff,
    Trouble::OperatorBlind,
    Trouble::OperatorSlow,
    Trouble::FenceLifted,
    Trouble::FenceOfAPerson,
    Trouble::PodDeleted,
    Trouble::Switchover,
];

/// So far behind is the cache of who is slow.
const LATE: Duration = Duration::from_millis(1500);

impl Trouble {
    fn begins(self, site: &mut Site, other: &str) {
        let server = site.double.server();
        match self {
            Self::AgentKilled => site.member.kill(),
            Self::AgentFrozen => site.member.signal(Signal::STOP),
            // Nothing comes back, not even of what was done.
            Self::AgentCutOff => server.set_faults(vec![Fault::always(Answer::Lost).of(AGENT)]),
            Self::AgentUnheard => {
                server.set_faults(vec![Fault::always(Answer::Server(503)).of(AGENT)]);
            }
            Self::StoreLocked => site.lock_store(),
            Self::NodeDies => site.node_dies(),
            Self::ManagerCutOff => site.pod.link.set_cut(true),
            Self::ManagerSlow => site.pod.link.set_lag(LATE),
            Self::ManagerHangs => site.pod.knobs().manager_hangs = true,
            // As when its liveness probe fails.
            Self::ManagerRestarted => site.pod.state().isolated = true,
            Self::ServerRefuses => server.set_network(Network::Refused),
            Self::ServerSilent => server.set_network(Network::Silent),
            Self::ServerFails => server.set_faults(vec![
                Fault::always(Answer::Server(503)).on("patch", "clusters").of(AGENT),
            ]),
            Self::Conflicts => server.set_faults(vec![Fault::times(Answer::Conflict, 20)]),
            Self::WebhookDown => server.set_webhook_down(true),
            Self::OperatorOff => site.double.world().operator.set_off(true),
            Self::OperatorBlind => site.double.world().operator.set_blind(true),
            Self::OperatorSlow => site.double.world().operator.link.set_lag(LATE),
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
            Self::StoreLocked => site.unlock_store(),
            Self::ManagerCutOff => site.pod.link.set_cut(false),
            Self::ManagerSlow => site.pod.link.set_lag(Duration::ZERO),
            Self::ManagerHangs => site.pod.knobs().manager_hangs = false,
            Self::ServerRefuses | Self::ServerSilent => server.set_network(Network::Up),
            Self::AgentCutOff | Self::AgentUnheard | Self::ServerFails | Self::Conflicts => {
                server.set_faults(Vec::new());
            }
            Self::WebhookDown => server.set_webhook_down(false),
            Self::OperatorOff => site.double.world().operator.set_off(false),
            Self::OperatorBlind => site.double.world().operator.set_blind(false),
            Self::OperatorSlow => site.double.world().operator.link.set_lag(Duration::ZERO),
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
            Self::ManagerRestarted | Self::FenceLifted | Self::PodDeleted | Self::Switchover => {}
        }
    }
}

fn rounds(number: u32, mut dice: Dice) {
    let mut two = Two::start();
    let (clients, witness) = (two.clients(), two.witness());
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
            // There is one store, and one list of faults of a server.
            let is_in_the_way = |(other, site): &(Trouble, usize)| {
                *site == index && (*other == trouble || agent(*other) && agent(trouble))
                    || *other == trouble && trouble == Trouble::StoreLocked
            };
            if !begun.iter().any(is_in_the_way) {
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
    witness.judge(&two, &clients);
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
