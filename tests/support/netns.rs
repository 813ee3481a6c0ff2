//! Machines of a test: network namespaces on one bridge, between which packets can be dropped, each
//! direction of each link for itself. Nothing of the machine's own network is touched. Needs root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PREFIX: &str = "harmony-";

/// Packets of others are dropped as they come in: by sender, all or three of ten.
const RULES: &str = "table inet cut {
    set from { type ipv4_addr; }
    set lossy { type ipv4_addr; }
    chain input {
        type filter hook input priority 0;
        ip saddr @from drop
        ip saddr @lossy numgen random mod 100 < 30 drop
    }
}
";

/// A namespace with an address.
pub(crate) struct Node {
    space: String,
    /// Its address, for documentation only (RFC 5737).
    pub(crate) address: String,
}

impl Node {
    /// The words before a command that make it run there, in the same process.
    pub(crate) fn within(&self) -> Vec<String> {
        vec![
            "nsenter".to_owned(),
            format!("--net={}", path(&self.space).display()),
            "--".to_owned(),
        ]
    }

    /// Does something in a thread there.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = path(&self.space);
        let work = move || {
            enter(&path);
            work()
        };
        std::thread::spawn(work).join().unwrap()
    }

    /// Every process on it that has not ended.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let Ok(here) = fs::metadata(path(&self.space)) else { return Vec::new() };
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let pids = entries.filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let there = fs::metadata(entry.path().join("ns/net")).ok()?;
            ((there.dev(), there.ino()) == (here.dev(), here.ino())).then_some(pid)
        });
        pids.collect()
    }

    fn run(&self, words: &[&str]) -> Result<(), String> {
        let within = self.within();
        run(within.iter().map(String::as_str).chain(words.iter().copied()), "")
    }
}

/// The machines, and the links between them.
pub(crate) struct Network {
    hub: String,
    /// The machines.
    pub(crate) nodes: Vec<Node>,
    /// How many hold a direction cut: sender and receiver.
    cuts: BTreeMap<(usize, usize), u32>,
    /// How many hold a machine's link lossy.
    lossy: BTreeMap<usize, u32>,
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in &self.nodes {
            remove(&node.space);
        }
        remove(&self.hub);
    }
}

impl Network {
    /// One machine for each last byte of an address.
    pub(crate) fn start(bytes: &[u8]) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let hub = format!("{name}-hub");
        // Whatever was made is removed when the rest cannot be.
        let mut network =
            Self { hub: hub.clone(), nodes: vec![], cuts: BTreeMap::new(), lossy: BTreeMap::new() };
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} addr add 192.0.2.254/24 dev bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        ip(&format!("-n {hub} link set lo up"))?;
        for byte in bytes {
            let node = Node { space: format!("{name}-{byte}"), address: format!("192.0.2.{byte}") };
            let space = node.space.clone();
            ip(&format!("netns add {space}"))?;
            network.nodes.push(node);
            ip(&format!("link add v{byte} netns {hub} type veth peer name eth0 netns {space}"))?;
            ip(&format!("-n {hub} link set v{byte} master bridge up"))?;
            ip(&format!("-n {space} addr add 192.0.2.{byte}/24 dev eth0"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            network.rules(network.nodes.len() - 1, RULES)?;
        }
        Ok(network)
    }

    /// Moves this thread, and those it starts from now on, to a place that reaches every machine.
    pub(crate) fn enter_hub(&self) {
        enter(&path(&self.hub));
    }

    /// Drops what `from` sends to `to`, until as many mend it as have cut it.
    pub(crate) fn cut(&mut self, from: usize, to: usize) -> Result<(), String> {
        *self.cuts.entry((from, to)).or_default() += 1;
        self.apply(to)
    }

    /// Takes one cut back.
    pub(crate) fn mend(&mut self, from: usize, to: usize) -> Result<(), String> {
        if let Some(count) = self.cuts.get_mut(&(from, to)) {
            *count = count.saturating_sub(1);
        }
        self.apply(to)
    }

    /// Loses three of ten packets of a machine in each direction; `false` takes one of these back.
    pub(crate) fn set_lossy(&mut self, node: usize, lossy: bool) -> Result<(), String> {
        let count = self.lossy.entry(node).or_default();
        *count = if lossy { *count + 1 } else { count.saturating_sub(1) };
        (0..self.nodes.len()).try_for_each(|node| self.apply(node))
    }

    /// Lets a machine's packets wait: by a delay where the kernel has it (netem), else in the queue
    /// of a link that is too narrow.
    pub(crate) fn slow(&self, node: usize) -> Result<&'static str, String> {
        let node = &self.nodes[node];
        let tc = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            node.run(&[&["tc", "qdisc", "add", "dev", "eth0", "root"], &words[..]].concat())
        };
        if tc("netem delay 40ms 30ms").is_ok() {
            return Ok("netem");
        }
        tc("tbf rate 400kbit burst 4kb latency 120ms").map(|()| "tbf")
    }

    /// Takes it back.
    pub(crate) fn hurry(&self, node: usize) -> Result<(), String> {
        self.nodes[node].run(&["tc", "qdisc", "del", "dev", "eth0", "root"])
    }

    fn apply(&self, to: usize) -> Result<(), String> {
        let held = |count: u32| count > 0;
        let from: Vec<usize> = self
            .cuts
            .iter()
            .filter(|((_, receiver), count)| *receiver == to && held(**count))
            .map(|((sender, _), _)| *sender)
            .collect();
        let all = || (0..self.nodes.len()).filter(|node| *node != to);
        let of = |node: &usize| self.lossy.get(node).is_some_and(|count| held(*count));
        let lossy: Vec<usize> = if of(&to) { all().collect() } else { all().filter(of).collect() };
        let set = |name: &str, nodes: &[usize]| {
            let addresses: Vec<&str> =
                nodes.iter().map(|node| self.nodes[*node].address.as_str()).collect();
            let add = format!("add element inet cut {name} {{ {} }}\n", addresses.join(", "));
            let add = if nodes.is_empty() { String::new() } else { add };
            format!("flush set inet cut {name}\n{add}")
        };
        self.rules(to, &format!("{}{}", set("from", &from), set("lossy", &lossy)))
    }

    fn rules(&self, node: usize, rules: &str) -> Result<(), String> {
        let within = self.nodes[node].within();
        run(within.iter().map(String::as_str).chain(["nft", "-f", "-"]), rules)
    }
}

/// Moves this thread to a namespace.
fn enter(space: &std::path::Path) {
    let file = File::open(space).unwrap();
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
}

fn path(space: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(space)
}

fn ip(words: &str) -> Result<(), String> {
    run(std::iter::once("ip").chain(words.split(' ')), "")
}

/// Runs a command with this as its input.
fn run<'a>(words: impl Iterator<Item = &'a str>, input: &str) -> Result<(), String> {
    let words: Vec<&str> = words.collect();
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", words.join(" "));
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| failed(&why))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|why| failed(&why))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    output.status.success().then_some(()).ok_or_else(|| failed(&said))
}

/// Removes a namespace and whoever is still in it.
fn remove(space: &str) {
    let pids = Command::new("ip").args(["netns", "pids", space]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let me = rustix::process::getpid();
    for pid in pids.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != me) {
            // It may have ended meanwhile.
            let _ended = kill_process(pid, Signal::KILL);
        }
    }
    // One that was never made cannot be removed.
    let _ = ip(&format!("netns del {space}"));
}

/// Removes what runs of ours left that ended without cleaning up.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}
