//! What would stand against a change of roles, found out before anybody tries one: a promotion of a standby, or a
//! demotion of a primary. While it lasts until somebody mends it, a standby is not eligible, and says why. What may
//! have passed when its promotion comes stands against nothing but what can wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::cluster::Cluster;
use super::part::Data;
use super::role;
use super::trouble::Trouble;

/// How often a change is rehearsed.
const REHEARSE: Duration = Duration::from_secs(15);

/// The same after it failed at what may pass.
const AGAIN: Duration = Duration::from_secs(5);

/// So many in a row have to fail at that before it counts: whoever is started anew is silent for a moment.
pub(super) const DOUBTED: u32 = 3;

/// What the API server has against it.
#[derive(Debug, Default)]
pub(super) struct Hindrance {
    /// Of the last time the Cluster was read.
    read: Mutex<Option<String>>,
    /// Of the last time a change of it was rehearsed.
    change: Mutex<Option<String>>,
    /// How many rehearsals in a row have failed at what may pass, and what the last of them failed at.
    passing: Mutex<(u32, String)>,
}

impl Hindrance {
    /// The Cluster was read, or not.
    pub(super) fn heard(&self, read: &Result<Cluster, Trouble>) {
        heard(&self.read, read.as_ref().err());
    }

    /// A change was rehearsed.
    pub(super) fn rehearsed(&self, change: &Result<(), Trouble>) {
        heard(&self.change, change.as_ref().err());
        match change {
            Err(trouble) if Lasts::of(trouble) == Lasts::AWhile => self.missed(trouble),
            Err(trouble) if Lasts::of(trouble) == Lasts::AMoment => {}
            Ok(()) | Err(_) => *lock(&self.passing) = (0, String::new()),
        }
    }

    /// A rehearsal came to nothing.
    fn missed(&self, trouble: &Trouble) {
        let mut passing = lock(&self.passing);
        *passing = (passing.0.saturating_add(1), trouble.to_string());
    }

    /// What changes have been failing at for a while, and may not any more in another one.
    pub(super) fn doubt(&self) -> Option<String> {
        let passing = lock(&self.passing);
        (passing.0 >= DOUBTED).then(|| passing.1.clone())
    }
}

/// Tries every now and then whether a standby could be promoted, or a primary demoted, if it had to be.
#[derive(Debug, Default)]
pub(super) struct Rehearsal {
    /// None: at once.
    next: Option<Instant>,
}

impl Rehearsal {
    /// Tries it when it is time.
    ///
    /// # Errors
    /// What the change would end with, in words; it is tried again with the next look, or soon when that may pass.
    pub(super) async fn look(
        &mut self,
        shared: &Shared,
        cluster: &Cluster,
        data: Data,
    ) -> Result<(), String> {
        if self.is_due(data) {
            let tried = match data {
                Data::Running => shared.rehearse_demotion(cluster).await,
                Data::RunningStandby | Data::Standby | Data::Primary | Data::None => {
                    shared.rehearse(cluster).await
                }
            };
            self.next = match tried.as_ref().map_err(Lasts::of) {
                Ok(()) => Some(Instant::now() + REHEARSE),
                Err(Lasts::AWhile) => Some(Instant::now() + AGAIN),
                Err(Lasts::AMoment | Lasts::UntilMended) => None,
            };
            if let Some(why) = tried.err().as_ref().and_then(lasting) {
                return Err(why);
            }
        }
        shared.hindrance.doubt().map_or(Ok(()), Err)
    }

    /// The Cluster could not even be read: what was due came to nothing.
    pub(super) fn prevented(&mut self, shared: &Shared, data: Data, trouble: &Trouble) {
        if self.is_due(data) && Lasts::of(trouble) == Lasts::AWhile {
            self.next = Some(Instant::now() + AGAIN);
            shared.hindrance.missed(trouble);
        }
    }

    fn is_due(&self, data: Data) -> bool {
        let has_role = match data {
            Data::Running | Data::RunningStandby | Data::Standby => true,
            Data::None | Data::Primary => false,
        };
        has_role && self.next.is_none_or(|next| Instant::now() >= next)
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

/// How long a trouble is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    /// Until somebody mends it: no next try changes it.
    UntilMended,
    /// Nobody knows: the next try may be fine.
    AWhile,
    /// Until the Cluster is read again: somebody else has changed it.
    AMoment,
}

impl Lasts {
    fn of(trouble: &Trouble) -> Self {
        match trouble {
            Trouble::Absent(_)
            | Trouble::Denied { .. }
            | Trouble::Malformed(_)
            | Trouble::Invalid(_) => Self::UntilMended,
            Trouble::Busy(_) | Trouble::Webhook(_) | Trouble::Failed(_) | Trouble::Silent(_) => {
                Self::AWhile
            }
            Trouble::Conflict | Trouble::Gone => Self::AMoment,
        }
    }
}

fn lasting(trouble: &Trouble) -> Option<String> {
    (Lasts::of(trouble) == Lasts::UntilMended).then(|| trouble.to_string())
}

/// What was known is known until somebody says otherwise: silence and overload do not.
fn heard(known: &Mutex<Option<String>>, trouble: Option<&Trouble>) {
    let why = trouble.map(lasting);
    if !matches!(why, Some(None)) {
        *lock(known) = why.flatten();
    }
}

fn lock<T>(said: &Mutex<T>) -> MutexGuard<'_, T> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
