//! Directories, mounts and processes of a round; those of a run that was killed are swept by the next.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::live::cluster::Place;
use crate::support::nats::IN_MEMORY;
use crate::support::postgres::Scene;

/// A place whose name says which process it belongs to.
pub(super) fn place() -> Place {
    for parent in ["/tmp", "/dev/shm"] {
        sweep(Path::new(parent));
    }
    Place::at(Scene::called(&format!("{IN_MEMORY}{}-", std::process::id())))
}

fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(IN_MEMORY).and_then(|rest| rest.split('-').next());
        let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&entry.path());
        }
    }
    // Whoever was killed with a false clock leaves its shared memory behind.
    for entry in fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner =
            ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|p| name.strip_prefix(p));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Somebody else may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn remove(dir: &Path) {
    let name = dir.to_string_lossy().into_owned();
    // Those that are found may start others before they end.
    for _ in 0..5 {
        for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
            let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if !cwd.starts_with(dir) && !String::from_utf8_lossy(&line).contains(&name) {
                continue;
            }
            let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ended = kill_process(pid, Signal::KILL);
            }
        }
    }
    for line in fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        if let Some(place) = line.split(' ').nth(1).filter(|place| place.starts_with(&name)) {
            // What is not mounted any more needs nothing.
            let _ = Command::new("umount").arg("-l").arg(place).status();
        }
    }
    let _ = fs::remove_dir_all(dir);
}
