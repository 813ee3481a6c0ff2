//! Rounds of faults of every part beside several instances, drawn from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::Signal;

use super::super::double::api::faults::{Answer, Fault, Network};
use super::super::sites::oracle::Witness;
use super::super::sites::settle::Dice;
use super::super::sites::site::{AGENT, wait};
use super::super::sites::switchover::begin_beside;
use super::cluster::Field;
use super::operator::promote;
use super::settle::{leads, settle};
use crate::live::checks::count;
use crate::live::cluster::until;

/// What may happen to an instance, or to its site; most of it ends with the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    AgentRestarted,
    AgentFrozen,
    AgentUnheard,
    NodeDies,
    PodDeleted,
    ManagerCutOff,
    ManagerRestarted,
    ServerRefuses,
    ServerSilent,
    OperatorOff,
    StoreLocked,
    /// By `kubectl cnpg promote`.
    Promoted,
    Switchover,
}

const ALL: [Trouble; 13] = [
    Trouble::AgentRestarted,
    Trouble::AgentFrozen,
    Trouble::AgentUnheard,
    Trouble::NodeDies,
    Trouble::PodDeleted,
    Trouble::ManagerCutOff,
    Trouble::ManagerRestarted,
    Trouble::ServerRefuses,
    Trouble::ServerSilent,
    Trouble::OperatorOff,
    Trouble::StoreLocked,
    Trouble::Promoted,
    Trouble::Switchover,
];

/// Where it happens, as places among the sites and in the site.
type Place = (usize, usize);

/// A trouble that was begun.
struct Begun {
    trouble: Trouble,
    at: Place,
    store: Option<Connection>,
}

impl Trouble {
    /// It is one of an agent, of which there is one beside an instance.
    fn is_of_agent(self) -> bool {
        matches!(self, Self::AgentRestarted | Self::AgentFrozen | Self::NodeDies)
    }

    /// It is one of the site, or of all.
    fn is_of_site(self) -> bool {
        matches!(
            self,
            Self::AgentUnheard
                | Self::ServerRefuses
                | Self::ServerSilent
                | Self::OperatorOff
                | Self::StoreLocked
        )
    }

    fn is_in_the_way_of(self, other: Self, is_same_site: bool, is_same: bool) -> bool {
        match self == other {
            true => is_same || self == Self::StoreLocked || self.is_of_site() && is_same_site,
            false => is_same && self.is_of_agent() && other.is_of_agent(),
        }
    }

    fn begins(self, field: &mut Field, (site, index): Place) -> Option<Connection> {
        if self == Self::StoreLocked {
            return Some(field.locked_store());
        }
        let site = &mut field.sites[site];
        let server = site.double.server();
        let instance = &mut site.instances[index];
        match self {
            Self::AgentRestarted => instance.member.kill(),
            Self::AgentFrozen => instance.member.signal(Signal::STOP),
            Self::AgentUnheard => {
                server.set_faults(vec![Fault::always(Answer::Server(503)).of(AGENT)]);
            }
            Self::NodeDies => instance.node_dies(),
            Self::PodDeleted => {
                // There may be none.
                let _deleted = wait(site.double.delete_pod(&instance.pod.name));
            }
            Self::ManagerCutOff => instance.pod.link.set_cut(true),
            // As when its liveness probe fails.
            Self::ManagerRestarted => instance.pod.state().isolated = true,
            Self::ServerRefuses => server.set_network(Network::Refused),
            Self::ServerSilent => server.set_network(Network::Silent),
            Self::OperatorOff => site.double.world().operator.set_off(true),
            Self::Promoted => promote(site, &site.instances[index].pod.name),
            Self::Switchover => {
                let name = instance.pod.name.clone();
                let others = field.sites.iter().flat_map(|site| &site.instances);
                let mut others = others.filter(|it| it.pod.name != name);
                let mut order = begin_beside(&others.next().unwrap().member, &name);
                std::thread::spawn(move || order.wait());
            }
            Self::StoreLocked => {}
        }
        None
    }

    fn ends(self, field: &mut Field, (site, index): Place) {
        let site = &mut field.sites[site];
        let server = site.double.server();
        let instance = &mut site.instances[index];
        match self {
            Self::AgentRestarted => instance.member.start(),
            Self::AgentFrozen => instance.member.signal(Signal::CONT),
            Self::AgentUnheard => server.set_faults(Vec::new()),
            Self::NodeDies => instance.node_comes_back(),
            Self::ManagerCutOff => instance.pod.link.set_cut(false),
            Self::ServerRefuses | Self::ServerSilent => server.set_network(Network::Up),
            Self::OperatorOff => site.double.world().operator.set_off(false),
            Self::PodDeleted
            | Self::ManagerRestarted
            | Self::StoreLocked
            | Self::Promoted
            | Self::Switchover => {}
        }
    }
}

/// Who leads; CloudNativePG may only just be restarting what it promoted.
fn leader_of(field: &Field, places: &[Place]) -> Place {
    until("one leads", || {
        let leads = places.iter().find(|(site, index)| leads(field, *site, *index));
        leads.copied().ok_or_else(|| format!("{}\n{}", field.told(), field.logs()))
    })
}

fn rounds(mut field: Field, number: u32, dice: &mut Dice) {
    let (clients, witness) = (field.clients(), Witness::start(field.store()));
    let places: Vec<Place> = (0..field.sites.len())
        .flat_map(|site| (0..field.sites[site].instances.len()).map(move |index| (site, index)))
        .collect();
    let mut rebuilt = 0;
    for round in 0..number {
        // What, whether at whoever leads, where else, and for how long nothing else happens.
        let troubles: Vec<(Trouble, bool, usize, u64)> = (0..=dice.below(3))
            .map(|_| {
                let trouble = ALL[usize::try_from(dice.below(ALL.len() as u64)).unwrap()];
                let else_at = usize::try_from(dice.below(places.len() as u64)).unwrap();
                (trouble, dice.below(2) > 0, else_at, dice.below(1500))
            })
            .collect();
        let leader = leader_of(&field, &places);
        println!(
            "round {round}: {leader:?} leads; (what, there, else at, then so many ms) {troubles:?}"
        );
        let mut begun: Vec<Begun> = Vec::new();
        for (trouble, there, else_at, time) in troubles {
            // Nobody is asked to hand over to himself.
            let is_to_lead = matches!(trouble, Trouble::Promoted | Trouble::Switchover);
            let at = if there && !is_to_lead { leader } else { places[else_at] };
            let is_in_the_way =
                |it: &Begun| it.trouble.is_in_the_way_of(trouble, it.at.0 == at.0, it.at == at);
            if !begun.iter().any(is_in_the_way) {
                let store = trouble.begins(&mut field, at);
                begun.push(Begun { trouble, at, store });
            }
            std::thread::sleep(Duration::from_millis(time));
        }
        std::thread::sleep(Duration::from_millis(dice.below(2500)));
        for Begun { trouble, at, store } in begun {
            drop(store);
            trouble.ends(&mut field, at);
        }
        rebuilt += settle(&mut field);
    }
    println!("{rebuilt} times something was built anew");
    let (site, index) = leader_of(&field, &places);
    assert!(count(&field.sites[site].instances[index].member) > 0);
    let sites: Vec<_> = field.sites.iter().map(|site| (site.name, &site.double)).collect();
    let homes: BTreeMap<String, &'static str> = field.homes();
    let members: Vec<String> = homes.keys().cloned().collect();
    if let Err(why) = witness.story(&sites, &members, homes, &clients).judge() {
        panic!("{why}\n{}\n{}", field.told(), field.logs());
    }
    clients.assert_never_at_once();
    field.assert_sound();
}

#[test]
fn faults_from_a_seed_beside_three_instances_leave_one_primary() {
    rounds(Field::one(), 2, &mut Dice::of_environment());
}

#[test]
fn faults_from_a_seed_beside_two_sites_of_two_leave_one_primary() {
    rounds(Field::two(), 2, &mut Dice::of_environment());
}

#[test]
#[ignore = "long: as many rounds as CNPG_ROUNDS says, from CNPG_SEED"]
fn many_faults_from_a_seed_beside_three_instances_leave_one_primary() {
    rounds(Field::one(), many(), &mut Dice::of_environment());
}

#[test]
#[ignore = "long: as many rounds as CNPG_ROUNDS says, from CNPG_SEED"]
fn many_faults_from_a_seed_beside_two_sites_of_two_leave_one_primary() {
    rounds(Field::two(), many(), &mut Dice::of_environment());
}

fn many() -> u32 {
    std::env::var("CNPG_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}
