//! What every mix of faults beside several instances has to end in.

use std::fs;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

use super::super::manifest::manifest;
use super::super::sites::site::wait;
use super::cluster::{Field, Site, founding};
use crate::live::cluster::{has_alarm, until};

/// The longest it may take until one leads and all others follow.
const LIMIT: Duration = Duration::from_secs(90);

/// For so long an agent says that its instance has to be built anew before it is: CloudNativePG may still be
/// rewinding it.
const SURE: Duration = Duration::from_secs(5);

/// The agent beside this one says that it is the primary.
pub(super) fn leads(field: &Field, site: usize, index: usize) -> bool {
    let said = field.sites[site].instances[index].member.status();
    said["state"] == "primary_healthy" && said["writable"] == true
}

/// Waits until one leads and all others follow. Who says for a while that it has to be built anew stays down, and
/// is; how many were.
pub(super) fn settle(field: &mut Field) -> u32 {
    let end = Instant::now() + LIMIT;
    let mut rebuilt = 0;
    let mut broken: Option<(String, Instant)> = None;
    loop {
        let all: Vec<_> = field.sites.iter().flat_map(|site| &site.instances).collect();
        let said: Vec<_> = all.iter().map(|it| (it.pod.name.clone(), it.member.status())).collect();
        let lead: Vec<&String> = said
            .iter()
            .filter(|(_, said)| said["state"] == "primary_healthy" && said["writable"] == true)
            .map(|(name, _)| name)
            .collect();
        assert!(lead.len() < 2, "two lead: {lead:?}\n{}\n{}", field.told(), field.logs());
        if let [leader] = lead[..] {
            let follow = said.iter().filter(|(_, said)| {
                said["state"] == "replica_watching" && said["database"]["streaming"] == true
            });
            if follow.count() == said.len() - 1 {
                return rebuilt;
            }
            let is_broken = |said: &Value| {
                said["database"]["streaming"] != true && has_alarm(said, "rejoin_failed")
            };
            let now = said.iter().find(|(_, said)| is_broken(said));
            broken = match (now, broken.take()) {
                (Some((name, _)), Some((before, since))) if *name == before => {
                    Some((before, since))
                }
                (Some((name, _)), _) => Some((name.clone(), Instant::now())),
                (None, _) => None,
            };
            if let Some((name, _)) = broken.take_if(|(_, since)| since.elapsed() >= SURE) {
                let instance = field.at(&name);
                assert!(!instance.member.is_writable(), "{}", instance.member.log());
                println!("{name} is built anew");
                let leader = leader.clone();
                rebuild(field, &name, &leader);
                rebuilt += 1;
            }
        }
        assert!(
            Instant::now() < end,
            "it does not settle\n{said:#?}\n{}\n{}",
            field.told(),
            field.logs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Makes an instance anew; with it all of its site, when that one acts there and another site leads.
fn rebuild(field: &mut Field, name: &str, leader: &str) {
    let ports = field.ports();
    let of = |member: &str| field.homes()[member];
    let (own, primary) = (of(name), of(leader));
    let site = field.sites.iter_mut().find(|site| site.name == own).unwrap();
    let acts = site.cluster()["status"]["currentPrimary"] == name;
    if own == primary || !acts {
        site.double.world().operator.set_off(true);
        site.erase(name);
        site.double.world().operator.set_off(false);
        let instance = site.instances.iter_mut().find(|it| it.pod.name == name);
        instance.unwrap().member.start();
        return;
    }
    println!("and {own} with it");
    let names: Vec<String> = site.instances.iter().map(|it| it.pod.name.clone()).collect();
    wait(site.double.remove(own)).unwrap();
    names.iter().for_each(|name| site.erase(name));
    let object = founding(manifest(own, primary, ports), names.len());
    wait(site.double.create(object)).unwrap();
    for index in 0..names.len() {
        site.until_gated(index);
        site.instances[index].member.start();
    }
}

impl Site {
    /// Nothing is left of an instance: neither pod nor data, nor what its agent knew.
    fn erase(&mut self, name: &str) {
        let instance = self.instances.iter_mut().find(|it| it.pod.name == name).unwrap();
        instance.member.kill();
        for pid in instance.member.watchdogs() {
            let _ended = kill_process(pid, Signal::KILL);
        }
        // There may be none.
        let _deleted = wait(self.double.delete_pod(name));
        until("the pod is gone", || {
            let gone = self.double.pod_object(name).is_null() && !instance.pod.state().container;
            gone.then_some(()).ok_or_else(|| self.double.told())
        });
        fs::remove_dir_all(instance.member.data_dir()).unwrap();
        for entry in fs::read_dir(instance.member.dir.join("state")).unwrap() {
            // Files, and the watchdog's socket.
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}
