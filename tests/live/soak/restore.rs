//! The store is gone for good: nobody obeys another one, until an operator goes by
//! docs/runbooks/store-not-obeyed.md.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use rustix::process::Signal;

use super::view;
use super::world::World;

/// The runbook's limits: `shutdown_timeout` of an agent, twice; a start of the database.
const STOPPED: Duration = Duration::from_secs(40);
const STARTED: Duration = Duration::from_secs(40);

fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() > end {
            return Err(format!("{what}: not in {limit:?}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn promotions(world: &World) -> usize {
    let logs: Vec<_> = world.slots.iter().map(|slot| (String::new(), slot.member.log())).collect();
    view::promotions(&logs)
}

/// Every agent says that the store is not to be trusted, and nobody promotes.
pub(super) fn not_obeyed(world: &mut World) -> Result<(), String> {
    let raised = |said: &serde_json::Value| {
        let alarms = said["alarms"].as_array().cloned().unwrap_or_default();
        alarms.iter().any(|alarm| *alarm == "store_rejects" || *alarm == "store_not_obeyed")
    };
    wait("every agent refuses the new store", Duration::from_secs(60), || {
        world.supervise();
        world.watch.seen().iter().all(raised)
    })
    .map_err(|why| format!("{why}: {}", view::summary(&world.watch.seen())))?;
    let before = promotions(world);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        world.supervise();
        std::thread::sleep(Duration::from_millis(50));
    }
    match promotions(world) - before {
        0 => Ok(()),
        n => Err(format!("{n} promotions by a store that was made anew")),
    }
}

/// The runbook, step by step.
pub(super) fn by_the_runbook(world: &mut World, story: &mut String) -> Result<(), String> {
    // 1. Stop all agents; no PostgreSQL runs.
    for slot in &world.slots {
        if slot.member.agent_pid().is_some() {
            slot.member.signal(Signal::TERM);
        }
    }
    let slots = &mut world.slots;
    wait("all agents end", STOPPED, || {
        slots.iter_mut().fold(true, |all, slot| {
            slot.member.ended();
            slot.member.agent_pid().is_none() && all
        })
    })?;
    wait("all databases end", STOPPED, || world.slots.iter().all(|s| s.postmaster().is_none()))?;
    // 2. The highest timeline, and among those the furthest.
    let ends = world.slots.iter().map(|slot| end_of_log(&slot.member));
    let ends = ends.collect::<Result<Vec<_>, String>>()?;
    let best = (0..ends.len()).max_by_key(|number| &ends[*number]).ok_or("no members")?;
    writeln!(story, "ends of the logs: {ends:?}; member {best} is the next primary").unwrap();
    // 3. and 4. A new store, and nobody's memory of the old one.
    surely_wiped(world)?;
    for slot in &world.slots {
        let floor = slot.state_dir().join("floor.json");
        fs::rename(&floor, floor.with_extension("old")).map_err(|why| why.to_string())?;
    }
    world.restored = Some(boottime());
    // 5. The chosen one.
    let member = &mut world.slots[best].member;
    if member.data_dir().join("standby.signal").exists() {
        promote_by_hand(member)?;
    }
    member.start();
    wait("the chosen member leads", STARTED, || {
        let said = &world.watch.seen()[best];
        said["state"] == "primary_healthy" && said["writable"] == true
    })?;
    // 6. The others, one after the other.
    for number in (0..world.slots.len()).filter(|number| *number != best) {
        world.slots[number].member.start();
    }
    for slot in &mut world.slots {
        slot.down_until = None;
    }
    Ok(())
}

/// The bucket is gone, whatever became of the first try.
pub(super) fn surely_wiped(world: &World) -> Result<(), String> {
    let end = Instant::now() + STARTED;
    loop {
        match world.wipe_store() {
            Ok(()) => return Ok(()),
            Err(why) if why.contains("not found") => return Ok(()),
            Err(why) if Instant::now() > end => {
                return Err(format!("the bucket cannot be deleted: {why}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn boottime() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    f64::from(nanoseconds) / 1e9 + f64::from(u32::try_from(time.tv_sec).unwrap_or(0))
}

/// Timeline and position, comparable; the lowest of a copy that was not finished.
fn end_of_log(member: &crate::live::cluster::Member) -> Result<(u64, u64, u64), String> {
    let data = member.data_dir();
    if !data.join("global/pg_control").exists() {
        return Ok((0, 0, 0));
    }
    let output = member.tool("pg_controldata").arg("-D").arg(&data).env("LC_ALL", "C").output();
    let text = String::from_utf8_lossy(&output.map_err(|why| why.to_string())?.stdout).into_owned();
    let field = |name: &str| -> Result<String, String> {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim());
        value.map(str::to_owned).ok_or_else(|| format!("{}: no {name} in\n{text}", data.display()))
    };
    let position = |name: &str| -> Result<(u64, u64), String> {
        let value = field(name)?;
        let parse = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let parsed = value.split_once('/').and_then(|(a, b)| Some((parse(a)?, parse(b)?)));
        parsed.ok_or_else(|| format!("{name}: {value}"))
    };
    let ending = "Min recovery ending loc's timeline";
    let timeline = |name: &str| field(name).map(|digits| digits.parse::<u64>().unwrap_or(0));
    let checkpoint =
        (timeline("Latest checkpoint's TimeLineID")?, position("Latest checkpoint location")?);
    let recovered = (timeline(ending)?, position("Minimum recovery ending location")?);
    let (timeline, (high, low)) = match data.join("standby.signal").exists() {
        true => recovered.max(checkpoint),
        false => checkpoint,
    };
    Ok((timeline, high, low))
}

fn promote_by_hand(member: &crate::live::cluster::Member) -> Result<(), String> {
    let data = member.data_dir();
    let log = data.with_extension("by-hand.log");
    for words in [&["start", "-w", "-l"][..], &["promote", "-w"][..]] {
        let mut command = member.tool("pg_ctl");
        command.arg("-D").arg(&data).args(words);
        if words.contains(&"-l") {
            command.arg(&log);
        }
        let mut command = within(member, &command);
        let status = command.status().map_err(|why| why.to_string())?;
        if !status.success() {
            return Err(format!("pg_ctl {words:?}: {status}"));
        }
    }
    Ok(())
}

/// The same command on the member's own machine, as PostgreSQL's user.
fn within(
    member: &crate::live::cluster::Member,
    command: &std::process::Command,
) -> std::process::Command {
    let mut inside = std::process::Command::new(&member.within[0]);
    inside.args(&member.within[1..]);
    if let Some((uid, gid)) = member.account {
        inside.args(["setpriv", "--clear-groups"]);
        inside.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
    }
    inside.arg(command.get_program()).args(command.get_args()).current_dir("/");
    inside.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    inside
}
