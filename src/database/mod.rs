//! What a member is made of: one trait, an adapter per kind of database.
//!
//! An adapter does what it is told and says what it saw. Which action is right, and in what order,
//! is decided in [`crate::core`].

mod acting;
pub mod cnpg;
pub mod local;
mod server;

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use server::SetupError;

use crate::core::event::{Action, ActionOutcome, Observation};

/// How far an action is that may take long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does now, for people.
    pub step: String,
    /// Bytes done of it, where that is known.
    pub done: Option<u64>,
    /// Bytes it is about, where that is known.
    pub total: Option<u64>,
}

/// The database of one member.
pub trait Database: Send + Sync + fmt::Debug {
    /// Looks at the instance: processes, files, and a question by SQL. Ends within `timeout` and
    /// never fails: what could not be seen is said in the observation's condition.
    fn observe(&self, timeout: Duration) -> BoxFuture<'_, Observation>;

    /// Resolves when the process that was running ends; pending while none runs. Call it again for
    /// the next one.
    fn died(&self) -> BoxFuture<'_, ()>;

    /// How far the action under way is, when it is one that may take long; watched.
    fn progress(&self) -> watch::Receiver<Option<Progress>>;

    /// Why whoever else starts this database must not start it now, if so; for a startup probe. A
    /// database that only the agent starts is never held back.
    fn held_back(&self) -> Option<String> {
        None
    }

    /// Does `action`. Ends soon after `cancel` fires: with what became of it, or `Unknown`.
    /// Whoever calls bounds it in time by cancelling. Actions are safe to repeat; two never run at
    /// once (the executor sees to that), except a fence, which may be started while another action
    /// is being cancelled and must win over it.
    fn act<'a>(
        &'a self,
        action: &'a Action,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, ActionOutcome>;
}
