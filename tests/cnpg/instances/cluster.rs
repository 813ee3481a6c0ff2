//! Clusters of several instances, each with an agent beside it: alone, or two sites of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::double::api::access::rules;
use super::super::double::cluster::HEALTHY;
use super::super::double::service::Service;
use super::super::double::{Double, Options};
use super::super::manifest::{NAMES, manifest};
use super::super::sites::site::{AGENT, ROLE, TOKEN, wait};
use super::instance::Instance;
use crate::live::client::Pinned;
use crate::live::cluster::{Member, PATIENCE, Place, until};
use crate::live::orders::ask;

/// What instances may do besides.
pub(super) const MORE: &str =
    include_str!("../../../deploy/kubernetes/components/instances/role.yaml");

/// For so long it has to stay as it is to be at rest: twice as long as the operator lets a Cluster alone.
const STEADY: Duration = Duration::from_secs(1);

/// Nobody fails over but the agents.
const NEVER: u32 = 1_000_000;

/// A Cluster in a Kubernetes cluster of its own, and with it a site.
pub(super) struct Site {
    pub(super) name: &'static str,
    pub(super) instances: Vec<Instance>,
    pub(super) double: Double,
    /// Where others find whoever acts.
    service: Service,
}

/// All there is of a test.
pub(super) struct Field {
    pub(super) sites: Vec<Site>,
    /// Goes last.
    place: Place,
}

impl Field {
    /// Three instances in one site: pg-a-1 acts, the others follow and could take over.
    pub(super) fn one() -> Self {
        Self::one_with(|_| ())
    }

    /// The same with settings of the agents of one's own.
    pub(super) fn one_with(adjust: impl Fn(&mut Value)) -> Self {
        let mut field = Self::new(1, 3);
        field.sites[0].instances.iter_mut().for_each(|it| adjust(&mut it.member.settings));
        let mut object = manifest("pg-a", "pg-a", [0, 0]);
        let spec = object["spec"].as_object_mut().unwrap();
        // It knows no other site.
        for other in ["replica", "externalClusters"] {
            spec.remove(other);
        }
        field.founded(vec![object])
    }

    /// Two sites of two: pg-a-1 acts, pg-b-1 stands for its site.
    pub(super) fn two() -> Self {
        let field = Self::new(2, 2);
        let ports = field.ports();
        let objects = NAMES.map(|name| manifest(name, NAMES[0], ports));
        field.founded(objects.into())
    }

    fn new(sites: usize, instances: u32) -> Self {
        let place = Place::new();
        place.give_away(&place.path().join("store"));
        let sites = NAMES[..sites].iter().map(|name| Site::new(&place, name, instances)).collect();
        Self { sites, place }
    }

    fn founded(mut self, objects: Vec<Value>) -> Self {
        for (site, object) in self.sites.iter_mut().zip(objects) {
            let object = founding(object, site.instances.len());
            wait(site.double.create(object)).unwrap();
            for index in 0..site.instances.len() {
                site.until_gated(index);
                let member = &mut site.instances[index].member;
                member.start();
                if (site.name, index) == (NAMES[0], 0) {
                    member.until_leads();
                    member.sql("create table t (n int)").unwrap();
                } else {
                    member.until_follows();
                }
            }
        }
        // Of another site only the one that stands for it.
        let may = |it: &&Instance| it.member.settings["failover"]["priority"] != 0;
        let beside = self.sites[0].instances[1..].iter().filter(may).count();
        let others = beside + self.sites.len() - 1;
        self.sites[0].instances[0].member.until("all could take over that should", |status| {
            status["line"].as_array().is_some_and(|line| line.len() == others)
        });
        self
    }

    /// Where others find whoever acts in the first site, and in the last one.
    pub(super) fn ports(&self) -> [u16; 2] {
        [&self.sites[0], &self.sites[self.sites.len() - 1]].map(|site| site.service.port)
    }

    /// The site of each member.
    pub(super) fn homes(&self) -> BTreeMap<String, &'static str> {
        let all = self.sites.iter();
        let homes = all.flat_map(|site| site.instances.iter().map(|it| (&it.pod.name, site.name)));
        homes.map(|(name, site)| (name.clone(), site)).collect()
    }

    /// The SQLite store.
    pub(super) fn store(&self) -> PathBuf {
        self.place.store()
    }

    /// An instance by its name.
    pub(super) fn at(&self, name: &str) -> &Instance {
        let found = self.sites.iter().flat_map(|site| &site.instances);
        found.into_iter().find(|instance| instance.pod.name == name).unwrap()
    }

    /// The same, to be changed.
    pub(super) fn at_mut(&mut self, name: &str) -> &mut Instance {
        let found = self.sites.iter_mut().flat_map(|site| &mut site.instances);
        found.into_iter().find(|instance| instance.pod.name == name).unwrap()
    }

    /// A client pinned to each PostgreSQL, by site and then by instance.
    pub(super) fn clients(&self) -> Pinned {
        let instances = self.sites.iter().flat_map(|site| &site.instances);
        let members: Vec<&Member> = instances.map(|instance| &instance.member).collect();
        Pinned::start(&members)
    }

    /// Keeps everybody from writing to the store, until it is dropped.
    pub(super) fn locked_store(&self) -> Connection {
        let store = Connection::open(self.place.store()).unwrap();
        store.busy_timeout(PATIENCE).unwrap();
        store.execute_batch("begin exclusive").unwrap();
        store
    }

    /// No agent of these broke.
    pub(super) fn assert_sound(&mut self) {
        let instances = self.sites.iter_mut().flat_map(|site| &mut site.instances);
        let mut members: Vec<&mut Member> = instances.map(|it| &mut it.member).collect();
        crate::live::checks::assert_sound(&mut members);
    }

    /// Waits until `leader` leads, all others follow, and CloudNativePG has nothing left to do: after the promotion
    /// of a site it restarts PostgreSQL once more.
    pub(super) fn until_rests(&self, leader: &str) {
        self.until_rests_without(leader, "");
    }

    /// The same while the machine of one is `away`.
    pub(super) fn until_rests_without(&self, leader: &str, away: &str) {
        let mut since = Instant::now();
        until(&format!("{leader} leads, and all is at rest"), || {
            let unrest = self.sites.iter().find_map(|site| site.unrest(leader, away));
            if unrest.is_some() {
                since = Instant::now();
            }
            match unrest {
                None if since.elapsed() >= STEADY => Ok(()),
                None => Err("not for long".to_owned()),
                Some(unrest) => Err(format!("{unrest}\n{}", self.logs())),
            }
        });
    }

    /// Has the command line beside an instance do something, which has to work.
    pub(super) fn done(&self, beside: &str, arguments: &[&str]) {
        let output = ask(&self.at(beside).member, arguments);
        let [out, complaint] =
            [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        assert!(output.status.success(), "{arguments:?}: {out}\n{complaint}\n{}", self.logs());
    }

    /// What the agents have to say, for messages of tests.
    pub(super) fn logs(&self) -> String {
        let instances = self.sites.iter().flat_map(|site| &site.instances);
        instances.map(|it| format!("{}\n{}", it.pod.name, it.member.log())).collect()
    }

    /// What the double has to say, for messages of tests.
    pub(super) fn told(&self) -> String {
        self.sites.iter().map(|site| site.double.told()).collect()
    }
}

impl Site {
    fn new(place: &Place, name: &'static str, instances: u32) -> Self {
        let kubernetes = place.path().join(format!("kubernetes-{name}"));
        fs::create_dir(&kubernetes).unwrap();
        let double = Double::start(&Options { dir: Some(kubernetes), ..Options::default() });
        let named = |role: &str| rules(&role.replace("[pg]", &format!("[{name}]"))).unwrap();
        double.server().set_account(AGENT, TOKEN, [named(ROLE), named(MORE)].concat());
        let instances =
            (1..=instances).map(|number| Instance::new(place, &double, name, number)).collect();
        let service = double.service(name);
        Self { name, instances, double, service }
    }

    /// Waits until there are data, and only the agent is missing.
    pub(super) fn until_gated(&self, index: usize) {
        until("the pod waits for its sidecar", || {
            let state = self.instances[index].pod.state().clone();
            let gated = state.waiting.contains("startup probe");
            gated.then_some(()).ok_or_else(|| format!("{state:#?}\n{}", self.double.told()))
        });
    }

    /// What is not as it should be while `leader` leads.
    fn unrest(&self, leader: &str, away: &str) -> Option<String> {
        let cluster = self.cluster();
        let status = &cluster["status"];
        let is_there = |instance: &&Instance| instance.pod.name != away;
        let there = self.instances.iter().filter(is_there);
        // Whose machine is away is missed.
        let is_healthy = status["phase"] == HEALTHY || there.clone().count() < self.instances.len();
        if !is_healthy || status["readyInstances"] != there.clone().count() {
            return Some(format!("{cluster:#}\n{}", self.double.told()));
        }
        there.into_iter().find_map(|instance| {
            let said = instance.member.status();
            let is_right = match instance.pod.name == leader {
                true => said["state"] == "primary_healthy" && said["writable"] == true,
                false => {
                    said["state"] == "replica_watching" && said["database"]["streaming"] == true
                }
            };
            (!is_right).then(|| format!("{said:#}\n{}", instance.member.log()))
        })
    }

    /// The Cluster.
    pub(super) fn cluster(&self) -> Value {
        self.double.get(self.name)
    }

    /// Waits until CloudNativePG has this instance act.
    pub(super) fn until_acts(&self, name: &str) {
        until(&format!("{name} acts"), || {
            let cluster = self.cluster();
            let acts = cluster["status"]["currentPrimary"] == name;
            let logs = || self.instances.iter().map(|it| it.member.log()).collect::<String>();
            acts.then_some(())
                .ok_or_else(|| format!("{cluster:#}\n{}\n{}", self.double.told(), logs()))
        });
    }
}

/// The manifest with so many instances, none of which CloudNativePG fails over to by itself.
pub(super) fn founding(mut manifest: Value, instances: usize) -> Value {
    manifest["spec"]["instances"] = instances.into();
    manifest["spec"]["failoverDelay"] = NEVER.into();
    manifest
}

/// The settings of an agent beside an instance.
pub(super) fn settings(site: &str, instance: &str) -> Value {
    json!({
        "cluster_id": "instances",
        "member": instance,
        "site": site,
        "profile": "fast",
        // Up to four PostgreSQL, agents and watchdogs share a machine.
        "timing": {"lease_duration": "3s"},
        "database": {"kind": "cnpg", "cnpg": {
            "cluster": site,
            "instance": instance,
            "namespace": "site",
            "host": "127.0.0.1",
        }},
        "watchdog": {"mode": "automatic"},
        "log": {"format": "json", "level": "info"},
    })
}
