//! What would stand against making this member the primary, found out before anybody tries: while it is so, the
//! member is not eligible, and says why.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::cluster::Cluster;
use super::part::Data;
use super::role;
use super::trouble::Trouble;

/// How often a standby rehearses a promotion.
const REHEARSE: Duration = Duration::from_secs(15);

/// What the API server has against it.
#[derive(Debug, Default)]
pub(super) struct Hindrance {
    /// Of the last time the Cluster was read.
    read: Mutex<Option<String>>,
    /// Of the last time a change of it was rehearsed.
    change: Mutex<Option<String>>,
}

impl Hindrance {
    /// The Cluster was read, or not.
    pub(super) fn heard(&self, read: &Result<Cluster, Trouble>) {
        heard(&self.read, read.as_ref().err());
    }

    /// A change was rehearsed.
    pub(super) fn rehearsed(&self, change: &Result<(), Trouble>) {
        heard(&self.change, change.as_ref().err());
    }
}

/// Tries every now and then whether a standby could be promoted if it had to.
#[derive(Debug, Default)]
pub(super) struct Rehearsal {
    /// None: at once.
    next: Option<Instant>,
}

impl Rehearsal {
    /// Tries it when it is time.
    ///
    /// # Errors
    /// What a promotion would end with, in words; it is tried again with the next look.
    pub(super) async fn look(
        &mut self,
        shared: &Shared,
        cluster: &Cluster,
        data: Data,
    ) -> Result<(), String> {
        if !data.is_standby() || self.next.is_some_and(|next| Instant::now() < next) {
            return Ok(());
        }
        self.next = None;
        match shared.rehearse(cluster).await.err().as_ref().and_then(lasting) {
            Some(why) => Err(why),
            None => {
                self.next = Some(Instant::now() + REHEARSE);
                Ok(())
            }
        }
    }
}

/// What would stand against a promotion now, as far as it is known. Silence is none: it may be over by then.
pub(super) fn of(shared: &Shared) -> Option<String> {
    let api = &shared.hindrance;
    let heard = lock(&api.read).clone().or_else(|| lock(&api.change).clone());
    let read = || {
        let read = shared.last_read()?;
        Some(role::may_change(&read.cluster, &shared.us).err()?.text().to_owned())
    };
    heard.or_else(read)
}

/// What no next try changes: it is there until somebody mends it.
fn lasting(trouble: &Trouble) -> Option<String> {
    match trouble {
        Trouble::Absent(_)
        | Trouble::Denied { .. }
        | Trouble::Malformed(_)
        | Trouble::Invalid(_) => Some(trouble.to_string()),
        Trouble::Conflict
        | Trouble::Busy(_)
        | Trouble::Gone
        | Trouble::Webhook(_)
        | Trouble::Failed(_)
        | Trouble::Silent(_) => None,
    }
}

/// What was known is known until somebody says otherwise: silence and overload do not.
fn heard(known: &Mutex<Option<String>>, trouble: Option<&Trouble>) {
    let why = trouble.map(lasting);
    if !matches!(why, Some(None)) {
        *lock(known) = why.flatten();
    }
}

fn lock(said: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
