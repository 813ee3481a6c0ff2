//! `harmony-agent run`: the agent itself.

use super::Settings;
use super::exit::{Code, Failure};

/// Arguments of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// The configuration is wrong (66, 78), or the agent could not do its work.
pub fn run(_arguments: Arguments, settings: &Settings) -> Result<(), Failure> {
    settings.load()?;
    Err(Failure::new(Code::Internal, "run is not part of this build"))
}
