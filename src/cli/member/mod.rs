//! `harmony-agent member`: who belongs to the cluster, and who is to take over or to go.

mod change;
mod list;

use super::exit::Failure;
use super::output::{self, Format};
use super::{Settings, runtime};
use crate::core::ids::MemberId;
use crate::core::records::Slot;
use crate::operator::{Operator, Trouble};
#[doc(hidden)]
pub use list::{Row, page, rows};

/// What to do about members.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show all members, as the store has them
    List(List),
    /// Show one member
    Show(Show),
    /// Take a member out that is gone for good: nobody counts on it any more
    Remove(Remove),
    /// Keep a member from taking over, and if it is the primary, make another one that
    Drain(Drain),
}

/// How it is printed.
#[derive(Clone, Debug, clap::Args)]
pub struct List {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
}

impl List {
    fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// Arguments of `member show`.
#[derive(Clone, Debug, clap::Args)]
pub struct Show {
    /// The member
    #[arg(id = "name", value_name = "MEMBER")]
    pub member: MemberId,
    /// How it is printed.
    #[command(flatten)]
    pub how: List,
}

/// Arguments of `member remove`.
#[derive(Clone, Debug, clap::Args)]
pub struct Remove {
    /// The member; its agent must not run any more
    #[arg(id = "name", value_name = "MEMBER")]
    pub member: MemberId,
    /// Do not ask back
    #[arg(short, long)]
    pub yes: bool,
}

/// Arguments of `member drain`.
#[derive(Clone, Debug, clap::Args)]
pub struct Drain {
    /// The member
    #[arg(id = "name", value_name = "MEMBER")]
    pub member: MemberId,
    /// It may take over again
    #[arg(long)]
    pub off: bool,
    /// Do not ask back when it is the primary
    #[arg(short, long)]
    pub yes: bool,
}

/// Shows or changes who belongs to the cluster.
///
/// # Errors
/// It is refused (75), the store does not answer (69), or the command line is wrong (64).
pub fn member(command: Command, settings: &Settings) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let config = settings.read()?.config;
        let mut operator = Operator::open(&config).await.map_err(super::order::failure)?;
        match command {
            Command::List(how) => list::list(&operator, None, how.format(), &config).await,
            Command::Show(Show { member, how }) => {
                list::list(&operator, Some(&member), how.format(), &config).await
            }
            Command::Remove(wanted) => change::remove(&mut operator, &wanted, &config).await,
            Command::Drain(wanted) if wanted.off => {
                change::undrain(&mut operator, &wanted.member).await
            }
            Command::Drain(wanted) => change::drain(&mut operator, &wanted, &config).await,
        }
    })
}

/// What was read, when it can be decided on.
fn described<T>(slot: &Slot<T>) -> Result<&T, Failure> {
    let trouble = match slot {
        Slot::Valid { record, .. } => return Ok(record),
        Slot::Absent => Trouble::NoCluster,
        Slot::Invalid { why, .. } => Trouble::Unreadable(why.to_string()),
    };
    Err(super::order::failure(trouble))
}

/// A refusal, as the program's end.
fn refused(why: impl std::fmt::Display) -> Failure {
    super::order::failure(Trouble::Refused(output::plain(&why.to_string())))
}
