//! The cluster of a round: members and servers of the store, each on a machine of its own, and the
//! stand-in for the supervisor that starts agents again.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use super::clients::Door;
use super::leftovers;
use super::plan::Plan;
use super::view;
use crate::live::cluster::{Member, Place};
use crate::support::disk::Disk;
use crate::support::nats;
use crate::support::netns::Network;

/// As systemd's `RestartSec` in docs/operations.md.
const RESTART: Duration = Duration::from_millis(100);
/// Longer than agents' views are old.
const STEADY: Duration = Duration::from_millis(700);
const CLUSTER: &str = "soak";
/// The bucket's stream.
pub(super) const STREAM: &str = "KV_harmony_soak";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A member, and what was done to it.
pub(super) struct Slot {
    pub(super) member: Member,
    pub(super) disk: Disk,
    state: Disk,
    /// The agent is not started before.
    pub(super) down_until: Option<Instant>,
    /// Until then the watchdog that was killed may be missing.
    pub(super) unguarded_until: Option<Instant>,
    /// File that says how far the agent's wall clock is off.
    pub(super) clock: Option<PathBuf>,
}

/// What agents say about themselves, looked at all the time.
pub(super) struct Watch {
    end: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Value>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// The cluster. Everything in it is gone when it is dropped.
pub(super) struct World {
    pub(super) slots: Vec<Slot>,
    pub(super) servers: nats::Cluster,
    pub(super) network: Network,
    pub(super) watch: Watch,
    /// Ends of agents that nobody asked for.
    pub(super) exits: Vec<String>,
    /// Boot time at which an operator began with a new store, if one did.
    pub(super) restored: Option<f64>,
    place: Place,
}

impl Drop for World {
    fn drop(&mut self) {
        self.watch.end.store(true, Ordering::Relaxed);
        for thread in self.watch.threads.drain(..) {
            // A round that is being left has more to say.
            let _ended = thread.join();
        }
        for slot in &mut self.slots {
            slot.member.kill();
        }
        // What is mounted there is unmounted after this, and the directory is removed last.
        self.place.end();
        self.slots.clear();
    }
}

impl World {
    /// Starts a cluster; its first member leads, all others follow.
    pub(super) fn start(plan: &Plan, watchdog: bool) -> Result<Self, String> {
        let bytes: Vec<u8> = (1..=3).chain(11..=13).collect();
        let network = Network::start(&bytes)?;
        network.enter_hub();
        let servers = nats::Cluster::start_on(&network, &[3, 4, 5]);
        let place = leftovers::place();
        let mut slots = Vec::new();
        for number in 0..plan.members {
            slots.push(slot(&place, plan, number, &network, &servers, watchdog)?);
        }
        let watch = Watch::start(&slots);
        let mut world =
            Self { slots, servers, network, watch, exits: Vec::new(), restored: None, place };
        world.found(plan)?;
        Ok(world)
    }

    fn found(&mut self, plan: &Plan) -> Result<(), String> {
        let first = &mut self.slots[0].member;
        first.start();
        first.until_leads();
        let hba = first.data_dir().join("pg_hba.conf");
        let rules = fs::read_to_string(&hba).map_err(|why| why.to_string())?;
        let trusted = "local all postgres trust\nhost all postgres 192.0.2.0/24 trust\n";
        fs::write(&hba, format!("{trusted}{rules}")).map_err(|why| why.to_string())?;
        let mut statements = vec![
            "create table soak (client int, number bigint, primary key (client, number))",
            "select pg_reload_conf()",
        ];
        // Whoever may take over has confirmed every commit. It is copied with the data.
        let all = match plan.members {
            2 => "alter system set synchronous_standby_names = 'ANY 1 (a, b)'",
            _ => "alter system set synchronous_standby_names = 'ANY 2 (a, b, c)'",
        };
        if plan.synchronous {
            statements.insert(1, all);
        }
        for sql in statements {
            first.sql(sql)?;
        }
        for slot in &mut self.slots[1..] {
            slot.member.start();
        }
        self.converge(Duration::from_secs(90)).map(|_| ())
    }

    /// How each client reaches each member.
    pub(super) fn doors(&self) -> Vec<Door> {
        let door = |(number, slot): (usize, &Slot)| Door {
            socket_dir: slot.member.dir.join("socket"),
            address: self.network.nodes[number].address.clone(),
        };
        self.slots.iter().enumerate().map(door).collect()
    }

    /// Starts the agents again that have ended, when their time has come.
    pub(super) fn supervise(&mut self) {
        let now = Instant::now();
        for slot in &mut self.slots {
            if let Some(status) = slot.member.ended()
                && slot.down_until.is_none()
            {
                slot.down_until = Some(now + RESTART);
                self.exits.push(format!("{}: {status}", slot.member.dir.display()));
            }
            if slot.down_until.is_some_and(|until| until <= now)
                && slot.member.agent_pid().is_none()
            {
                slot.down_until = None;
                slot.member.start();
            }
        }
    }

    /// Waits until one leads and all others follow it, as all agents say; how long it took.
    pub(super) fn converge(&mut self, limit: Duration) -> Result<Duration, String> {
        let begin = Instant::now();
        // Not a moment, and not what agents said before: it has to stay so for a while.
        let mut since: Option<Duration> = None;
        loop {
            self.supervise();
            let found = view::converged(&self.watch.seen(), self.slots.len());
            since = found.is_ok().then(|| since.unwrap_or(begin.elapsed()));
            match (since, found) {
                (Some(at), _) if begin.elapsed() > at + STEADY => return Ok(at),
                (_, Err(why)) if begin.elapsed() > limit => {
                    return Err(format!("not converged in {limit:?}: {why}"));
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Deletes the bucket.
    pub(super) fn wipe_store(&self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let wiping = nats::delete_stream(self.servers.urls(), STREAM);
        let limit = Duration::from_secs(10);
        let wiping = async { tokio::time::timeout(limit, wiping).await };
        runtime.map_err(|why| why.to_string())?.block_on(wiping).map_err(|why| why.to_string())?
    }

    /// Number of the server that leads the bucket, when somebody can say.
    pub(super) fn leader(&self) -> Option<usize> {
        let asking = nats::leader_of(self.servers.urls(), STREAM);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let limit = Duration::from_millis(700);
        let name = runtime.block_on(async { tokio::time::timeout(limit, asking).await.ok()? })?;
        name.strip_prefix('s')?.parse().ok()
    }
}

fn slot(
    place: &Place,
    plan: &Plan,
    number: usize,
    network: &Network,
    servers: &nats::Cluster,
    watchdog: bool,
) -> Result<Slot, String> {
    let name = ["a", "b", "c"][number];
    let node = &network.nodes[number];
    let mut member = place.member(name);
    let disk = member.dir.join("disk");
    fs::create_dir(&disk).map_err(|why| why.to_string())?;
    let secret = member.dir.join("peers.secret");
    fs::write(&secret, SECRET).map_err(|why| why.to_string())?;
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&secret, owner_only).map_err(|why| why.to_string())?;
    place.give_away(&member.dir);
    let (disk, state) = (Disk::mount(&disk, "512m"), Disk::mount(&member.dir.join("state"), "32m"));

    let http = format!("{}:8008", node.address);
    member.port = 5432;
    member.http = http.parse().map_err(|why| format!("{http}: {why}"))?;
    member.within = node.within();
    let settings = &mut member.settings;
    settings["cluster_id"] = json!(CLUSTER);
    settings["store"] =
        json!({"backend": "nats", "nats": {"servers": servers.urls(), "replicas": 3}});
    settings["http"] = json!({"listen": http, "advertise": http});
    settings["peers"] = json!({"secret_file": secret});
    settings["watchdog"] = json!({"mode": if watchdog { "required" } else { "off" }});
    if plan.calm {
        settings["timing"] = json!({"lease_duration": "3s", "heartbeat_timeout": "500ms"});
    }
    let reaction = if plan.fail_over { "fail_over" } else { "alert" };
    settings["failover"] = json!({"on_hung": reaction, "on_disk_full": reaction});
    let local = &mut settings["database"]["local"];
    local["data_dir"] = json!(disk.path().join("data"));
    local["port"] = json!(5432);
    local["listen"] = json!(node.address);
    local["host"] = json!(node.address);
    local["wal_keep"] = json!("64MiB");
    local["hung_after"] = json!("3s");
    local["write_probe_interval"] = json!("1s");
    let more = [("max_connections", "60"), ("max_wal_size", "64MB"), ("min_wal_size", "32MB")];
    for (name, value) in more {
        local["parameters"][name] = json!(value);
    }
    let clock = (plan.clock == Some(number)).then(|| member.dir.join("clock"));
    if let Some(clock) = &clock {
        fs::write(clock, "+0\n").map_err(|why| why.to_string())?;
        member.env = false_clock(clock)?;
    }
    Ok(Slot { member, disk, state, down_until: None, unguarded_until: None, clock })
}

/// Environment of an agent whose wall clock, and no other clock, is off by what this file says.
fn false_clock(file: &std::path::Path) -> Result<Vec<(String, String)>, String> {
    let places = fs::read_dir("/usr/lib").map_err(|why| why.to_string())?;
    let library = places
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists())
        .ok_or(
            "no libfaketimeMT.so.1 below /usr/lib: run ./tests/run live, or install libfaketime",
        )?;
    let set = |name: &str, value: String| (name.to_owned(), value);
    Ok(vec![
        set("LD_PRELOAD", library.display().to_string()),
        set("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        set("FAKETIME_CACHE_DURATION", "1".to_owned()),
        set("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        set("DONT_FAKE_MONOTONIC", "1".to_owned()),
        set("FAKETIME_DONT_RESET", "1".to_owned()),
        set("FAKETIME_ONLY_CMDS", "harmony-agent".to_owned()),
    ])
}

impl Slot {
    /// The postmaster's process, while it is there.
    pub(super) fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.member.data_dir().join("postmaster.pid")).ok()?;
        let pid: i32 = text.lines().next()?.trim().parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = String::from_utf8_lossy(&line).contains(self.member.dir.to_str()?);
        Pid::from_raw(pid).filter(|_| ours)
    }

    /// The postmaster's children, each with what it calls itself.
    pub(super) fn children(&self) -> Vec<(Pid, String)> {
        let Some(pid) = self.postmaster() else { return Vec::new() };
        let list = format!("/proc/{pid}/task/{pid}/children", pid = pid.as_raw_nonzero());
        let text = fs::read_to_string(list).unwrap_or_default();
        let child = |word: &str| {
            let line = fs::read(format!("/proc/{word}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
            Some((Pid::from_raw(word.parse().ok()?)?, line))
        };
        text.split_whitespace().filter_map(child).collect()
    }

    /// Everything the agent and its watchdog have logged.
    pub(super) fn log(&self) -> String {
        self.member.log()
    }

    /// The state directory is on a file system of its own, so that nothing else fills it.
    pub(super) fn state_dir(&self) -> &std::path::Path {
        self.state.path()
    }
}

/// Processes, held so that a signal reaches them and never a successor with the same number.
pub(super) struct Held(Vec<std::os::fd::OwnedFd>);

impl Held {
    pub(super) fn new(pids: impl IntoIterator<Item = Pid>) -> Self {
        let open = |pid| pidfd_open(pid, PidfdFlags::empty()).ok();
        Self(pids.into_iter().filter_map(open).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who has ended gets no signal any more.
    pub(super) fn signal(&self, signal: Signal) {
        for fd in &self.0 {
            let _ended = pidfd_send_signal(fd, signal);
        }
    }
}

impl Watch {
    fn start(slots: &[Slot]) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(vec![Value::Null; slots.len()]));
        let watch = |(number, slot): (usize, &Slot)| {
            let (end, seen, http) = (Arc::clone(&end), Arc::clone(&seen), slot.member.http);
            std::thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let said = view::ask(http).unwrap_or(Value::Null);
                    seen.lock().unwrap_or_else(PoisonError::into_inner)[number] = said;
                    std::thread::sleep(Duration::from_millis(200));
                }
            })
        };
        let threads = slots.iter().enumerate().map(watch).collect();
        Self { end, seen, threads }
    }

    /// The latest `/status` of each member; null without an answer.
    pub(super) fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
