//! One round: a cluster comes up, faults come and go, everything is mended, and then it has to be in
//! order again. What clients were told is judged at the end.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::clients::Clients;
use super::history::{self, Commit};
use super::inject::{Done, Injector};
use super::plan::{Kind, Plan};
use super::restore;
use super::view;
use super::world::World;

/// The bound of the protocol for `fast` is a minute (docs/proof.md, `converges`), most of it for starting
/// a database; this much, because the machine may be busy with other things.
const CONVERGED: Duration = Duration::from_secs(150);

/// What a round came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) seed: u64,
    pub(super) synchronous: bool,
    /// What must not be, in sentences.
    pub(super) violations: Vec<String>,
    /// Of these, commits of two members at once.
    pub(super) alternations: usize,
    pub(super) injected: Vec<Kind>,
    pub(super) skipped: usize,
    pub(super) commits: usize,
    /// Acknowledged, and gone.
    pub(super) lost: usize,
    /// From the last of an old primary to the first of a new one.
    pub(super) failovers: Vec<Duration>,
    /// Without an acknowledgement.
    pub(super) pauses: Vec<Duration>,
    /// How long clients wrote.
    pub(super) watched: Duration,
    pub(super) converged: Option<Duration>,
    pub(super) promotions: usize,
    /// Agents that ended unasked.
    pub(super) exits: usize,
    /// What happened, for people.
    pub(super) story: String,
}

/// Runs the round of a plan; what cannot even be run is a violation, too.
pub(super) fn run(plan: &Plan, watchdog: bool) -> Outcome {
    let (plan, seed) = (plan.clone(), plan.seed);
    let mut outcome =
        Outcome { seed: plan.seed, synchronous: plan.synchronous, ..Outcome::default() };
    // A thread of its own: it moves to the round's network, and may panic in a helper.
    let round = std::thread::spawn(move || {
        let ended = play(&plan, watchdog, &mut outcome);
        if let Err(why) = ended {
            outcome.violations.push(why);
        }
        outcome
    });
    round.join().unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().cloned();
        let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
        let why = format!("the round broke: {}", why.unwrap_or_default());
        Outcome { seed, violations: vec![why], ..Outcome::default() }
    })
}

fn play(plan: &Plan, watchdog: bool, outcome: &mut Outcome) -> Result<(), String> {
    let mut world = World::start(plan, watchdog)?;
    let patience = Duration::from_secs(if plan.synchronous { 10 } else { 3 });
    let clients = Clients::start(&world.doors(), patience);
    let begin = Instant::now();
    let played = faults(plan, &mut world, &clients, outcome).and_then(|()| {
        if outcome.injected.contains(&Kind::WipeStore) {
            restore::surely_wiped(&world)?;
            restore::not_obeyed(&mut world)?;
            restore::by_the_runbook(&mut world, &mut outcome.story)?;
        }
        let converged = world.converge(CONVERGED)?;
        outcome.converged = Some(converged);
        writeln!(outcome.story, "converged {converged:?} after all was mended").unwrap();
        written(&mut world, &clients)
    });
    let commits = clients.stop();
    outcome.watched = begin.elapsed();
    if let Err(why) = played {
        outcome.violations.push(why);
    } else if let Err(why) = survivors(plan, &world, &commits, outcome) {
        outcome.violations.push(why);
    }
    judge(&world, &commits, outcome);
    // A round that is no seed's is a test's, which tells itself what was wrong.
    if !outcome.violations.is_empty() && plan.seed > 0 {
        keep(plan, &world, &commits, outcome);
    }
    Ok(())
}

/// Lets the plan's faults come and go, and mends everything at its end.
fn faults(
    plan: &Plan,
    world: &mut World,
    clients: &Clients,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let mut injector = Injector::new();
    let begin = Instant::now();
    let mut next = plan.faults.iter();
    let mut fault = next.next();
    while begin.elapsed() < plan.lasting {
        if let Some(due) = fault.filter(|fault| fault.at <= begin.elapsed()) {
            let primary = clients.last().map_or(0, |commit| commit.member);
            let at = begin.elapsed().as_secs_f64();
            let done = match injector.inject(world, due, primary) {
                Done::Injected(to) => {
                    outcome.injected.push(due.kind);
                    format!("{} to {to}", due.kind)
                }
                Done::Skipped(why) => {
                    outcome.skipped += 1;
                    format!("{} not done: {why}", due.kind)
                }
            };
            let boottime = harmony_agent::runtime::clock::now();
            writeln!(outcome.story, "{at:.3} {done} (boottime {boottime:?})").unwrap();
            fault = next.next();
        }
        injector.expire(world)?;
        world.supervise();
        std::thread::sleep(Duration::from_millis(10));
    }
    injector.heal(world)
}

/// Clients write again.
fn written(world: &mut World, clients: &Clients) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        world.supervise();
        if clients.last().is_some_and(|commit| commit.sent > begin) {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(30) {
            return Err("the cluster has converged, and no client can write".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every member has the same rows; what is missing there is lost.
fn survivors(
    plan: &Plan,
    world: &World,
    commits: &[Commit],
    outcome: &mut Outcome,
) -> Result<(), String> {
    let seen = world.watch.seen();
    let primary = seen.iter().position(|said| said["is_primary"] == true).ok_or("no primary")?;
    let all = "select client || ' ' || number from soak";
    let rows = world.slots[primary].member.sql(all)?;
    let mut survived = BTreeSet::new();
    for row in rows.lines() {
        let mut words = row.split(' ').map(str::parse::<u64>);
        let (Some(Ok(client)), Some(Ok(number))) = (words.next(), words.next()) else {
            return Err(format!("{all}: {row:?}"));
        };
        survived.insert((usize::try_from(client).unwrap_or(usize::MAX), number));
    }
    let lost = history::lost(commits, &survived);
    outcome.lost = lost.len();
    for commit in lost.iter().take(200) {
        writeln!(outcome.story, "lost: {commit:?}").unwrap();
    }
    if plan.synchronous && !lost.is_empty() {
        let (first, count) = (&lost[0], lost.len());
        outcome.violations.push(format!("{count} synchronous commits are lost, first {first:?}"));
    }
    same_rows(world, primary)
}

fn same_rows(world: &World, primary: usize) -> Result<(), String> {
    let sum = "select count(*) || ' ' || md5(string_agg(client || ' ' || number, ',' \
               order by client, number)) from soak";
    let of_primary = world.slots[primary].member.sql(sum)?;
    let end = Instant::now() + Duration::from_secs(20);
    for slot in &world.slots {
        loop {
            let found = slot.member.sql(sum);
            if found.as_ref() == Ok(&of_primary) {
                break;
            }
            if Instant::now() > end {
                let name = slot.member.dir.display();
                return Err(format!("{name} has {found:?}, the primary {of_primary}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// What clients were told, and what the agents logged.
fn judge(world: &World, commits: &[Commit], outcome: &mut Outcome) {
    let names = ["a", "b", "c"];
    let logs: Vec<(String, String)> = names
        .iter()
        .zip(&world.slots)
        .map(|(name, slot)| ((*name).to_owned(), slot.log()))
        .collect();
    let alternations = history::alternations(commits);
    outcome.alternations = alternations.len();
    outcome.violations.extend(alternations.into_iter().take(20));
    outcome.violations.extend(view::epochs(&logs, world.restored));
    for (name, log) in &logs {
        let broken =
            log.lines().filter(|line| line.contains("panicked") || line.contains("service broke"));
        outcome.violations.extend(broken.map(|line| format!("{name}: {line}")));
    }
    outcome.promotions = view::promotions(&logs);
    outcome.exits = world.exits.len();
    outcome.commits = commits.len();
    outcome.failovers = history::failovers(commits);
    outcome.pauses = history::pauses(commits);
    for reign in history::reigns(commits) {
        writeln!(outcome.story, "{reign:?}").unwrap();
    }
    for exit in &world.exits {
        writeln!(outcome.story, "ended by itself: {exit}").unwrap();
    }
    writeln!(outcome.story, "{}", view::summary(&world.watch.seen())).unwrap();
}

/// Directory for what is kept of rounds, and for the table.
pub(super) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak")
}

/// Copies the logs of a round in which something was wrong.
fn keep(plan: &Plan, world: &World, commits: &[Commit], outcome: &Outcome) {
    let to = directory().join(plan.seed.to_string());
    let write = |name: &str, text: String| {
        // What cannot be kept must not hide what was found.
        if let Err(why) = fs::create_dir_all(&to).and_then(|()| fs::write(to.join(name), text)) {
            println!("{}: {why}", to.join(name).display());
        }
    };
    let wrong = outcome.violations.join("\n");
    write("story.txt", format!("{plan}\n{wrong}\n\n{}", outcome.story));
    let lines = commits.iter().map(|commit| format!("{commit:?}\n"));
    write("commits.txt", lines.collect());
    for (number, slot) in world.slots.iter().enumerate() {
        let log = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        write(&format!("agent-{number}.log"), slot.log());
        write(&format!("watchdog-{number}.log"), log(slot.state_dir().join("watchdog.log")));
        write(&format!("floor-{number}.json"), log(slot.state_dir().join("floor.json")));
        for dir in
            [slot.member.data_dir().join("log"), slot.member.data_dir().with_extension("harmony")]
        {
            for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.contains("log") && entry.path().is_file() {
                    write(&format!("postgres-{number}-{name}"), log(entry.path()));
                }
            }
        }
    }
    for (number, server) in world.servers.servers.iter().enumerate() {
        write(&format!("server-{number}.log"), server.log());
    }
}
