//! The command line: what it takes, and one file per family of commands.

pub mod config;
pub mod demo;
pub mod exit;
pub mod explain;
pub mod history;
pub mod member;
pub mod order;
mod output;
pub mod pause;
pub mod replay;
pub mod run;
pub mod status;
pub mod watchdog;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{DEFAULT_FILE, FILE_VARIABLE, Loaded, Sources, load};
use exit::{Code, Failure};

/// High-availability failover agent for PostgreSQL.
#[derive(Debug, Parser)]
#[command(
    name = "harmony-agent",
    version,
    arg_required_else_help = true,
    propagate_version = false
)]
pub struct Arguments {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Settings on the command line; they win over the environment and the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Settings {
    /// Configuration file [default: /etc/harmony-agent/harmony-agent.toml, when it exists]
    #[arg(long, global = true, env = FILE_VARIABLE, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster_id: Option<String>,
    /// Name of this member
    #[arg(long, global = true, value_name = "NAME")]
    pub member: Option<String>,
    /// Directory for what no restart may forget
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// Starting point of the timings: fast, standard or wan
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// PostgreSQL's data directory
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Address and port of the HTTP listener
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    pub http_listen: Option<String>,
    /// How logs look: auto, text or json
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What is logged: error, warn, info, debug, trace or a filter
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Any key of the configuration, as in timing.lease_duration=1s; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
}

impl Settings {
    /// The file, this process's environment and these flags.
    pub fn sources(&self) -> Sources {
        let named = [
            ("cluster_id", &self.cluster_id),
            ("member", &self.member),
            ("state_dir", &self.state_dir),
            ("profile", &self.profile),
            ("database.local.data_dir", &self.data_dir),
            ("http.listen", &self.http_listen),
            ("log.format", &self.log_format),
            ("log.level", &self.log_level),
        ];
        let named = named
            .into_iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| (key.to_owned(), value.clone())));
        let default = || Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into());
        Sources {
            file: self.config.clone().or_else(default),
            flags: named.chain(self.set.iter().cloned()).collect(),
            ..Sources::from_environment()
        }
    }

    /// The checked configuration; warnings are printed.
    ///
    /// # Errors
    /// The file cannot be read (66), or something in the configuration is wrong (78).
    pub fn load(&self) -> Result<Loaded, Failure> {
        let loaded = self.read()?;
        for warning in &loaded.warnings {
            output::complain(&format!("warning: {warning}"));
        }
        Ok(loaded)
    }

    /// The same, without a word about what should be looked at.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn read(&self) -> Result<Loaded, Failure> {
        Ok(load(&self.sources())?)
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "expected KEY=VALUE, as in timing.lease_duration=1s".to_owned())?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent
    Run(run::Arguments),
    /// Show the cluster as an agent sees it
    Status(status::Arguments),
    /// Say why the cluster is as it is, and what would happen if its primary died now
    Explain(explain::Arguments),
    /// Tell the latest changes of primary, and why each happened
    History(history::Arguments),
    /// Make another member the primary, losing nothing
    Switchover(order::Switchover),
    /// Make the member of the highest priority the primary again
    Failback(order::Failback),
    /// Make a member the primary although there is none, or transitions are paused
    Failover(order::Failover),
    /// Stop automatic transitions
    Pause(pause::Arguments),
    /// Let automatic transitions happen again
    Resume,
    /// Show the members; drain one, or take one out
    #[command(subcommand)]
    Member(member::Command),
    /// Run a cluster of real members on this machine, and let something happen to it
    Demo(demo::Arguments),
    /// Ask the core again what a recording says it was asked, and show the first difference
    Replay(replay::Arguments),
    /// Check, explain and write configurations
    #[command(subcommand)]
    Config(config::Command),
    /// Print the version
    Version,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Guard a PostgreSQL instance for an agent
    #[command(hide = true)]
    Watchdog(watchdog::Arguments),
}

/// Parses `arguments`, does what they say and says how it went.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return say(&error),
    };
    match dispatch(parsed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&format!("harmony-agent: {failure}"));
            failure.into()
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let settings = arguments.settings;
    match arguments.command {
        Command::Run(arguments) => run::run(arguments, &settings),
        Command::Status(arguments) => status::status(&arguments, &settings),
        Command::Explain(arguments) => explain::explain(&arguments, &settings),
        Command::History(arguments) => history::history(&arguments, &settings),
        Command::Switchover(arguments) => order::switchover(arguments, &settings),
        Command::Failback(arguments) => order::failback(&arguments, &settings),
        Command::Failover(arguments) => order::failover(arguments, &settings),
        Command::Pause(arguments) => pause::pause(&arguments, &settings),
        Command::Resume => pause::resume(&settings),
        Command::Member(command) => member::member(command, &settings),
        Command::Demo(arguments) => demo::demo(&arguments, &settings),
        Command::Replay(arguments) => replay::replay(&arguments),
        Command::Config(command) => config::config(&command, &settings),
        Command::Version => output::print(&version()),
        Command::Completions { shell } => completions(shell),
        Command::Watchdog(arguments) => watchdog::watchdog(arguments),
    }
}

/// Help and version are answers; everything else clap says is a mistake on the command line.
fn say(error: &clap::Error) -> ExitCode {
    // A closed terminal is no reason to fail differently.
    drop(error.print());
    if error.use_stderr() { (Code::Usage as u8).into() } else { ExitCode::SUCCESS }
}

/// For commands that wait for a store or an agent.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Internal, error))
}

fn version() -> String {
    format!("harmony-agent {}", env!("CARGO_PKG_VERSION"))
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "harmony-agent", &mut text);
    output::print(String::from_utf8_lossy(&text).trim_end())
}
