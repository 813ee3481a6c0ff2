//! `harmony-agent watchdog`: started by the agent, not by people.

use super::exit::{Code, Failure};

/// Arguments of `watchdog`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {}

/// Guards an instance until its agent says that there is nothing to guard.
///
/// # Errors
/// It could not be set up.
pub fn watchdog(_arguments: Arguments) -> Result<(), Failure> {
    Err(Failure::new(Code::Internal, "watchdog is not part of this build"))
}
