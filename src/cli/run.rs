//! `harmony-agent run`: the agent itself.

use super::Settings;
use super::exit::{Code, Failure};
use crate::runtime::start::{self, Inputs, RunError};
use crate::runtime::state_dir::StateDirError;
use crate::telemetry;

/// Arguments of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// The configuration is wrong (66, 78), or the agent could not do its work.
pub fn run(_arguments: Arguments, settings: &Settings) -> Result<(), Failure> {
    let loaded = settings.load()?;
    let (config, effective) = (loaded.config, loaded.effective);
    let telemetry = telemetry::init(config.log_format, &config.log_level)
        .map_err(|error| Failure::new(Code::Config, error.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!(warning = warning.to_string(), "configuration");
    }
    let again = settings.clone();
    let reload = move || again.read().map_err(|error| error.to_string());
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Code::Internal, format!("this program's path: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Internal, format!("runtime: {error}")))?;
    let inputs = Inputs { config, effective, reload: Box::new(reload), telemetry, program };
    let outcome = runtime.block_on(start::run(inputs));
    // Blocking work that is stuck must not hold the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    outcome.map_err(|error| Failure::new(code(&error), error.to_string()))
}

fn code(error: &RunError) -> Code {
    match error {
        RunError::StateDir(StateDirError::Locked { .. }) | RunError::Overdue => Code::Temporary,
        RunError::StateDir(StateDirError::Damaged { .. }) => Code::Data,
        RunError::StateDir(StateDirError::Io { .. }) => Code::CannotCreate,
        RunError::Database(_) | RunError::NameTaken(_) => Code::Config,
        RunError::Listen { .. } => Code::Unavailable,
        RunError::Signals(_) | RunError::Name(_) => Code::Internal,
    }
}
