//! `harmony-agent demo`: a failover on this machine.

use super::exit::{Code, Failure};

/// Arguments of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {}

/// Shows a failover on this machine.
///
/// # Errors
/// The demo could not be set up, or what it showed was wrong.
pub fn demo(_arguments: Arguments) -> Result<(), Failure> {
    Err(Failure::new(Code::Internal, "demo is not part of this build"))
}
