//! Does the faults of a plan to the world, and takes each back when its time is over.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use rustix::process::{Pid, Signal};

use super::plan::{Fault, Kind, Which, Who};
use super::world::{Held, World};

/// A new watchdog is there and armed after this, unless the agent says otherwise.
const REGUARD: Duration = Duration::from_secs(3);

/// What takes a fault back.
enum Undo {
    Thaw(Held),
    StartServers(Vec<usize>),
    Mend(Vec<(usize, usize)>),
    Tight(usize),
    Hurry(usize),
    Free(usize),
    Feed(usize, Spinners),
    SetClock(usize),
    /// Nothing but time: what was killed is started again by whoever supervises it.
    Nothing,
}

/// Processes that do nothing, busily.
struct Spinners(Vec<Child>);

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}

impl Spinners {
    fn start() -> Self {
        let one = || {
            Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().ok()
        };
        Self((0..4).filter_map(|_| one()).collect())
    }
}

/// Faults that stand.
pub(super) struct Injector {
    standing: Vec<(Instant, Fault, usize, Undo)>,
}

/// What became of a fault.
pub(super) enum Done {
    /// It was done to a member or server, in words.
    Injected(String),
    /// It was not possible, or is excluded (docs/proof.md), for this reason.
    Skipped(String),
}

impl Injector {
    pub(super) fn new() -> Self {
        Self { standing: Vec::new() }
    }

    /// Does it. `primary` is the member that acknowledged the last commit.
    pub(super) fn inject(&mut self, world: &mut World, fault: &Fault, primary: usize) -> Done {
        let member = match fault.who {
            Who::Primary => primary,
            Who::Other(n) => (primary + n) % world.slots.len(),
        };
        let server = match fault.which {
            // The others need not have all that the leader has acknowledged: its data is the store's.
            _ if fault.kind == Kind::LoseServerData => match world.leader() {
                Some(leader) => (leader + 1) % 3,
                None => return Done::Skipped("the store has no leader".to_owned()),
            },
            Which::Number(n) => n,
            Which::Leader => world.leader().unwrap_or(0),
        };
        if let Some(why) = self.excluded(world, fault.kind, member) {
            return Done::Skipped(why);
        }
        let done = if is_of_network(fault.kind) {
            network(world, fault.kind, member, server)
        } else if is_of_store(fault.kind) {
            store(world, fault.kind, server)
        } else {
            processes(world, fault, member, server)
        };
        match done {
            Ok(undo) => {
                self.standing.push((Instant::now() + fault.lasting, *fault, member, undo));
                Done::Injected(format!("member {member}, server {server}"))
            }
            Err(why) => Done::Skipped(why),
        }
    }

    /// Takes back what has lasted long enough.
    pub(super) fn expire(&mut self, world: &mut World) -> Result<(), String> {
        let now = Instant::now();
        let (over, standing) = self.standing.drain(..).partition(|(until, ..)| *until <= now);
        self.standing = standing;
        undo(world, over)
    }

    /// Takes everything back.
    pub(super) fn heal(&mut self, world: &mut World) -> Result<(), String> {
        undo(world, std::mem::take(&mut self.standing))?;
        let now = Instant::now();
        for slot in &mut world.slots {
            slot.down_until = slot.down_until.map(|_| now);
        }
        Ok(())
    }

    /// The protocol promises nothing when neither agent nor watchdog can act: that is not injected.
    fn excluded(&self, world: &World, kind: Kind, member: usize) -> Option<String> {
        let agent = [Kind::KillAgent, Kind::FreezeAgent, Kind::Starve];
        let slot = &world.slots[member];
        let now = Instant::now();
        if kind == Kind::KillWatchdog {
            let troubled = slot.down_until.is_some()
                || self.standing.iter().any(|(_, f, m, _)| *m == member && agent.contains(&f.kind));
            return troubled.then(|| "its agent could not start another watchdog".to_owned());
        }
        let unguarded = slot.unguarded_until.is_some_and(|until| until > now)
            || slot.unguarded_until.is_some() && world.watch.seen()[member]["watchdog"] == "down";
        (agent.contains(&kind) && unguarded).then(|| "its watchdog is missing".to_owned())
    }
}

fn is_of_network(kind: Kind) -> bool {
    let name = format!("{kind:?}");
    name.starts_with("Cut") || matches!(kind, Kind::Lossy | Kind::Slow)
}

fn is_of_store(kind: Kind) -> bool {
    use Kind::{FreezeServer, FreezeServers, KillServer, KillServers, LoseServerData, WipeStore};
    matches!(
        kind,
        KillServer | KillServers | FreezeServer | FreezeServers | LoseServerData | WipeStore
    )
}

fn undo(world: &mut World, faults: Vec<(Instant, Fault, usize, Undo)>) -> Result<(), String> {
    for (_, _, _, undo) in faults {
        match undo {
            Undo::Thaw(held) => held.signal(Signal::CONT),
            Undo::StartServers(servers) => {
                servers.into_iter().for_each(|server| world.servers.servers[server].respawn());
            }
            Undo::Mend(cuts) => {
                cuts.iter().try_for_each(|(from, to)| world.network.mend(*from, *to))?;
            }
            Undo::Tight(node) => world.network.set_lossy(node, false)?,
            Undo::Hurry(node) => world.network.hurry(node)?,
            Undo::Free(member) => world.slots[member].disk.free(),
            Undo::Feed(member, spinners) => {
                drop(spinners);
                schedule(world, member, "--other")?;
            }
            Undo::SetClock(member) => set_clock(world, member, "+0")?,
            Undo::Nothing => {}
        }
    }
    Ok(())
}

/// Sets the policy by which the kernel gives an agent the processor.
fn schedule(world: &World, member: usize, policy: &str) -> Result<(), String> {
    let Some(agent) = world.slots[member].member.agent_pid() else { return Ok(()) };
    let pid = agent.as_raw_nonzero().to_string();
    let status = Command::new("chrt").args([policy, "-a", "-p", "0", &pid]).status();
    // An agent that has ended meanwhile is started again with the usual one.
    status.map(|_| ()).map_err(|why| format!("chrt: {why}"))
}

fn set_clock(world: &World, member: usize, offset: &str) -> Result<(), String> {
    let file = world.slots[member].clock.as_ref().ok_or("this agent's clock is not false")?;
    let new = file.with_extension("new");
    fs::write(&new, format!("{offset}\n")).map_err(|why| why.to_string())?;
    fs::rename(new, file).map_err(|why| why.to_string())
}

fn processes(
    world: &mut World,
    fault: &Fault,
    member: usize,
    server: usize,
) -> Result<Undo, String> {
    let later = Instant::now() + fault.lasting;
    let slot = &mut world.slots[member];
    let agent = slot.member.agent_pid();
    let gone = |what: &str| format!("there is no {what}");
    let kill = |held: Held, what: &str| {
        held.signal(Signal::KILL);
        if held.is_empty() { Err(gone(what)) } else { Ok(Undo::Nothing) }
    };
    match fault.kind {
        Kind::KillAgent => {
            slot.down_until = Some(later);
            kill(Held::new(agent), "agent")
        }
        Kind::Terminate => {
            let held = Held::new(agent);
            held.signal(Signal::TERM);
            slot.down_until = Some(later);
            if held.is_empty() { Err(gone("agent")) } else { Ok(Undo::Nothing) }
        }
        Kind::KillWatchdog => {
            slot.unguarded_until = Some(Instant::now() + REGUARD);
            kill(Held::new(slot.member.watchdogs()), "watchdog")
        }
        Kind::KillPostmaster => kill(Held::new(slot.postmaster()), "postmaster"),
        Kind::KillBackend => {
            let of_client =
                |(pid, name): &(Pid, String)| (name.contains("postgres postgres")).then_some(*pid);
            kill(Held::new(slot.children().iter().filter_map(of_client).take(1)), "backend")
        }
        Kind::KillReceiver => {
            let receiver =
                |(pid, name): &(Pid, String)| name.contains("walreceiver").then_some(*pid);
            kill(Held::new(slot.children().iter().filter_map(receiver)), "WAL receiver")
        }
        Kind::KillMember | Kind::KillMemberAndServer => {
            slot.down_until = Some(later);
            Ok(kill_member(world, fault.kind, member, server))
        }
        Kind::FreezeAgent => freeze(Held::new(agent), "agent"),
        Kind::FreezePostmaster => freeze(Held::new(slot.postmaster()), "postmaster"),
        Kind::FreezePostgres => {
            let children = slot.children().into_iter().map(|(pid, _)| pid);
            freeze(Held::new(slot.postmaster().into_iter().chain(children)), "postmaster")
        }
        Kind::FillDisk => {
            if slot.disk.is_full() {
                return Err("it is full".to_owned());
            }
            slot.disk.fill();
            Ok(Undo::Free(member))
        }
        Kind::Starve => {
            schedule(world, member, "--idle")?;
            Ok(Undo::Feed(member, Spinners::start()))
        }
        Kind::ClockAhead => set_clock(world, member, "+3600").map(|()| Undo::SetClock(member)),
        Kind::ClockBehind => set_clock(world, member, "-3600").map(|()| Undo::SetClock(member)),
        other => Err(format!("{other} is not about a member's processes")),
    }
}

fn freeze(held: Held, what: &str) -> Result<Undo, String> {
    held.signal(Signal::STOP);
    if held.is_empty() { Err(format!("there is no {what}")) } else { Ok(Undo::Thaw(held)) }
}

/// Ends whatever runs on the member's machine, and what that has started meanwhile: a database that
/// outlived agent and watchdog would be guarded by nobody. Everything is looked up before the first is
/// killed, which is quicker than finding it.
fn kill_member(world: &mut World, kind: Kind, member: usize, server: usize) -> Undo {
    let machine = &world.network.nodes[member];
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let found = machine.processes();
        if found.is_empty() || Instant::now() > end {
            break;
        }
        Held::new(found).signal(Signal::KILL);
    }
    if kind == Kind::KillMemberAndServer {
        world.servers.servers[server].kill();
        return Undo::StartServers(vec![server]);
    }
    Undo::Nothing
}

fn store(world: &mut World, kind: Kind, server: usize) -> Result<Undo, String> {
    let servers = &mut world.servers.servers;
    let next = (server + 1) % servers.len();
    match kind {
        Kind::KillServer => {
            servers[server].kill();
            Ok(Undo::StartServers(vec![server]))
        }
        Kind::KillServers => {
            servers[server].kill();
            servers[next].kill();
            Ok(Undo::StartServers(vec![server, next]))
        }
        Kind::FreezeServer => freeze(Held::new(servers[server].pid()), "server"),
        Kind::FreezeServers => freeze(
            Held::new([servers[server].pid(), servers[next].pid()].into_iter().flatten()),
            "server",
        ),
        Kind::LoseServerData => {
            servers[server].kill();
            fs::remove_dir_all(servers[server].data()).map_err(|why| why.to_string())?;
            Ok(Undo::StartServers(vec![server]))
        }
        Kind::WipeStore => {
            // Without an answer it may have been done, or be done later: that is settled afterwards.
            let _unknown = world.wipe_store();
            Ok(Undo::Nothing)
        }
        other => Err(format!("{other} is not about servers")),
    }
}

fn network(world: &mut World, kind: Kind, member: usize, server: usize) -> Result<Undo, String> {
    let members = world.slots.len();
    let server = 3 + server;
    let (servers, peer) = (3..6, (member + 1) % members);
    let both = |one: usize, other: usize| [(one, other), (other, one)];
    let others = |node: usize| (0..6).filter(move |other| *other != node);
    let cuts: Vec<(usize, usize)> = match kind {
        Kind::CutMemberToServer => vec![(member, server)],
        Kind::CutServerToMember => vec![(server, member)],
        Kind::CutMemberFromStore => servers.flat_map(|server| both(member, server)).collect(),
        Kind::CutMemberToStore => servers.map(|server| (member, server)).collect(),
        Kind::CutStoreToMember => servers.map(|server| (server, member)).collect(),
        Kind::CutMemberToMember => vec![(member, peer)],
        Kind::CutMemberOff => others(member).flat_map(|other| both(member, other)).collect(),
        Kind::CutServerToServer => vec![(server, 3 + (server - 3 + 1) % 3)],
        Kind::CutServerOff => others(server).flat_map(|other| both(server, other)).collect(),
        Kind::Lossy => {
            world.network.set_lossy(member, true)?;
            return Ok(Undo::Tight(member));
        }
        Kind::Slow => return world.network.slow(member).map(|_| Undo::Hurry(member)),
        other => return Err(format!("{other} is not about the network")),
    };
    cuts.iter().try_for_each(|(from, to)| world.network.cut(*from, *to))?;
    Ok(Undo::Mend(cuts))
}
