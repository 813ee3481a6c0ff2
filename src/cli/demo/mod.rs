//! `harmony-agent demo`: the product on one machine.
//!
//! ```text
//!  demo ──┬─ agent a ── watchdog, PostgreSQL a ─┐      real processes, each member in a directory
//!         ├─ agent b ── watchdog, PostgreSQL b ─┼─ store     of its own
//!         ├─ clients: one follows the primary, one is pinned to each member
//!         └─ fault, measurement, report
//! ```
//!
//! Whatever happens to the demo, short of SIGKILL, `cleanup::Home` ends what was started.
//! What is measured comes from the clients; the agents' word is taken only for the phases.

mod bench;
mod check;
mod cleanup;
mod client;
mod cluster;
mod facts;
mod fault;
mod hand;
mod ledger;
mod member;
mod phases;
mod report;
mod said;
mod usage;
mod view;

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Settings;
use super::exit::{Code, Failure};
use super::output;
use crate::config::{self, Config, Sources};
use crate::store::nats;
use bench::Bench;
use check::check;
use cleanup::Home;
use cluster::{Cluster, REJOIN};
use facts::Broken;
pub use fault::Fault;
use member::{Common, PREFERRED};
use report::{Report, Summary};
use view::Board;

/// What the help of `demo` ends with.
const HELP: &str = "\
The demo chooses for each member, and refuses with exit code 64: --cluster-id, --member, --data-dir, \
--state-dir, --http-listen and --log-format, the same keys with --set, and a few more that tell members \
apart. --config is not read: every member gets a file of its own. The default of --profile is fast here.";

/// Arguments of `demo`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// How many members
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub members: u8,
    /// The store: sqlite, or nats://host:port[,nats://host:port…]
    #[arg(long, value_name = "STORE", default_value = "sqlite")]
    pub store: StoreChoice,
    /// What happens to the primary
    #[arg(long, value_name = "FAULT", value_enum, default_value_t)]
    pub fault: Fault,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// How to print the report
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub report: Format,
    /// Leave everything running, print where as one line of JSON, and wait to be interrupted
    #[arg(long)]
    pub keep: bool,
    /// Directory to work in; everybody must be able to pass through [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The agent's program, to try another build [default: this one]
    #[arg(long, value_name = "FILE", hide = true)]
    pub program: Option<PathBuf>,
}

/// How to print a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// Where the members meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// A file in the demo's directory.
    Sqlite,
    /// Servers that run already.
    Nats(Vec<String>),
}

impl FromStr for StoreChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "sqlite" {
            return Ok(Self::Sqlite);
        }
        let servers = text.split(',').map(str::trim).map(|server| {
            // Further servers may be given without the scheme, as NATS itself allows.
            if server.contains("://") { server.to_owned() } else { format!("nats://{server}") }
        });
        let servers: Vec<String> = servers.collect();
        let is_nats = |server: &String| {
            ["nats://", "tls://"]
                .iter()
                .any(|scheme| server.strip_prefix(scheme).is_some_and(|r| !r.is_empty()))
        };
        if text.contains("://") && servers.iter().all(is_nats) {
            return Ok(Self::Nats(servers));
        }
        Err("expected sqlite or nats://host:port[,nats://host:port…]".to_owned())
    }
}

impl StoreChoice {
    fn backend(&self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Nats(_) => "nats",
        }
    }
}

/// Runs a cluster on this machine, does `arguments.fault` to it, and measures how it takes it.
///
/// # Errors
/// The demo could not be set up, or what it showed was wrong.
pub fn demo(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    check(arguments, settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Internal, error))?;
    runtime.block_on(async {
        // Before there is anything to clean up.
        let mut interrupts = Interrupts::new()
            .map_err(|error| Failure::new(Code::Internal, format!("signals cannot be caught: {error}")))?;
        let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
        for path in cleanup::left_over(&parent) {
            tell_left_over(&path);
        }
        let home = Home::make(&parent)?;
        let common = common(arguments, settings, &home)?;
        let progress = Progress::default();
        let outcome = tokio::select! {
            biased;
            name = interrupts.next() => match progress.kept.get() {
                true => Ok(()),
                false => Err(Failure::new(Code::Temporary, format!("{name}: stopped, and cleaned up"))),
            },
            outcome = show(arguments, &common, &progress) => outcome,
        };
        if let Some(config) = progress.config.get() {
            remove_bucket(&home, config).await;
        }
        outcome
    })
}

fn tell_left_over(path: &Path) {
    let pids: Vec<String> = cleanup::processes(path).iter().map(ToString::to_string).collect();
    let (path, pids) = (path.display(), pids.join(" "));
    if pids.is_empty() {
        output::complain(&format!(
            "a demo that was killed left {path}; remove it with: rm -r {path}"
        ));
    } else {
        let text = format!(
            "a demo that was killed left {path} and processes that still work there; \
             end them with: kill -9 {pids}; rm -r {path}"
        );
        output::complain(&text);
    }
}

fn common(arguments: &Arguments, settings: &Settings, home: &Home) -> Result<Common, Failure> {
    let program = match &arguments.program {
        Some(program) => std::path::absolute(program),
        None => std::env::current_exe(),
    };
    let program = program.map_err(|error| {
        Failure::new(Code::Internal, format!("the agent's program is not known: {error}"))
    })?;
    let mut set = settings.set.clone();
    if let Some(level) = &settings.log_level {
        set.push(("log.level".to_owned(), level.clone()));
    }
    Ok(Common {
        program,
        home: home.path().to_path_buf(),
        // Its own bucket on servers that others may use, too.
        cluster_id: format!("demo-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]),
        store: arguments.store.clone(),
        profile: settings.profile.clone().unwrap_or_else(|| "fast".to_owned()),
        preferred: (arguments.fault == Fault::Failback).then_some(PREFERRED),
        set,
    })
}

/// Signals that end the demo.
struct Interrupts([(&'static str, Signal); 3]);

impl Interrupts {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            ("interrupted", signal(SignalKind::interrupt())?),
            ("terminated", signal(SignalKind::terminate())?),
            ("hung up", signal(SignalKind::hangup())?),
        ]))
    }

    async fn next(&mut self) -> &'static str {
        let [(a, first), (b, second), (c, third)] = &mut self.0;
        tokio::select! {
            _ = first.recv() => a,
            _ = second.recv() => b,
            _ = third.recv() => c,
        }
    }
}

/// How far it came, for whoever interrupts it.
#[derive(Default)]
struct Progress {
    /// Set before the first agent starts.
    config: OnceCell<Config>,
    /// The cluster is the user's to play with.
    kept: Cell<bool>,
}

async fn show(arguments: &Arguments, common: &Common, progress: &Progress) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| {
        let code = if error.is::<Broken>() { Code::Internal } else { Code::Unavailable };
        Failure::new(code, format!("{error:#}"))
    };
    let board = Board::new();
    let mut cluster = Cluster::make(arguments.members, common, &board).map_err(failed)?;
    let config = read_config(&cluster, common)?;
    let config = progress.config.get_or_init(|| config);
    let watched: Vec<_> =
        cluster.members.iter().map(|m| (m.name.clone(), m.http.clone())).collect();
    let text = format!("starting {} members in {}", watched.len(), common.home.display());
    board.say(text);
    let measured = tokio::select! {
        measured = measure(arguments, common, &mut cluster, config) => measured.map_err(failed)?,
        () = board.draw(&watched) => None,
    };
    if let Some(report) = &measured {
        output::print(&match arguments.report {
            Format::Text => report.text(),
            Format::Json => line(report)?,
        })?;
    }
    if arguments.keep {
        keep(&mut cluster, common, &progress.kept).await?;
    }
    let returned = measured.map_or(0, |report| report.summary.alternations);
    if returned > 0 {
        let text = format!(
            "acknowledgements went back {returned} times to a member that had lost the right to write: \
             two primaries"
        );
        return Err(Failure::new(Code::Internal, text));
    }
    Ok(())
}

/// The configuration of the first member: all agree on what is used here.
fn read_config(cluster: &Cluster, common: &Common) -> Result<Config, Failure> {
    let file = cluster.members.first().map(member::Member::config);
    let flags = common.set.clone();
    let loaded = config::load(&Sources { file, flags, ..Sources::default() })?;
    for warning in &loaded.warnings {
        output::complain(&format!("warning: {warning}"));
    }
    Ok(loaded.config)
}

/// Starts the cluster and does the runs; none, when it is only to be kept.
async fn measure(
    arguments: &Arguments,
    common: &Common,
    cluster: &mut Cluster,
    config: &Config,
) -> anyhow::Result<Option<Report>> {
    cluster.start().await?;
    let board = cluster.board.clone();
    board.say("every member follows");
    if arguments.keep && arguments.fault == Fault::None {
        return Ok(None);
    }
    let members = cluster.members.len();
    let mut bench = Bench::new(cluster, arguments.fault, config);
    let mut runs = Vec::new();
    for number in 1..=arguments.runs {
        board.say(format!("run {number} of {}", arguments.runs));
        let run = bench.run(number.into()).await;
        runs.push(run.with_context(|| format!("run {number} of {}", arguments.fault.name()))?);
    }
    let (rss, cpu) = bench.usage();
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(Some(Report {
        fault: arguments.fault.name().to_owned(),
        store: common.store.backend(),
        database: "local",
        members,
        profile: common.profile.clone(),
        lease_ms: ms(config.policy.lease_duration),
        margin_ms: ms(config.policy.safety_margin),
        summary: Summary::of(&runs, rss, cpu),
        runs,
    }))
}

/// Prints where everything is, and waits to be interrupted.
async fn keep(cluster: &mut Cluster, common: &Common, kept: &Cell<bool>) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| Failure::new(Code::Unavailable, format!("{error:#}"));
    let primary = cluster.all_follow(REJOIN).await.map_err(failed)?;
    let description = cluster.kept(primary, &common.store, &common.home).map_err(failed)?;
    output::print(&line(&description)?)?;
    kept.set(true);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Whoever plays with the cluster may kill agents; their numbers are not to stay in use.
        for member in &mut cluster.members {
            if let Some(status) = member.ended() {
                let how = member::describe(status);
                output::complain(&format!("the agent of {} ended with {how}", member.name));
            }
        }
    }
}

fn line(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(Code::Internal, error))
}

/// Removes the demo's bucket from servers that go on without it, once no agent can make it again.
/// Connects as the first member does.
async fn remove_bucket(home: &Home, config: &Config) {
    let config::Store::Nats(settings) = &config.store else { return };
    cleanup::kill_all(home.path());
    let limit = Duration::from_secs(5);
    let remove = nats::remove(&config.cluster_id, &config.member, settings, limit);
    let removed = tokio::time::timeout(limit * 2, remove).await;
    if let Err(error) = removed.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
        let (cluster, servers) = (&config.cluster_id, settings.servers.join(","));
        let text = format!(
            "bucket harmony_{cluster} is left on {servers}: {error}; remove it with: \
             nats kv del harmony_{cluster}"
        );
        output::complain(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_told_apart() {
        assert_eq!("sqlite".parse(), Ok(StoreChoice::Sqlite));
        let nats = |servers: &[&str]| {
            Ok(StoreChoice::Nats(servers.iter().map(|server| (*server).to_owned()).collect()))
        };
        assert_eq!("nats://h:1".parse(), nats(&["nats://h:1"]));
        assert_eq!("nats://h:1,h:2".parse(), nats(&["nats://h:1", "nats://h:2"]));
        for wrong in ["", "nats", "nats://", "http://h:1", "h:1", "nats://h:1,http://h"] {
            assert!(wrong.parse::<StoreChoice>().is_err(), "{wrong}");
        }
    }
}
