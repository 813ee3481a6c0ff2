//! Our part in keeping PostgreSQL down: what we want of it, what its data is, and its port.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::bar;
use super::cluster::Cluster;
use super::us::Us;
use crate::database::server::Server;
use crate::database::server::files::{Files, look_at_files};
use crate::postmaster::port::{Hold, Listening};

/// What we want of PostgreSQL here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Not said yet: what would come up as a primary is held back.
    Held,
    /// Down, until it is a standby's data.
    Fenced,
    /// The same without the annotation: it is one of several instances.
    Shut,
    /// Up, as the standby that it is, though CloudNativePG would promote it: it is barred as soon as it runs.
    Standby,
    /// Not said, but it was seen to run as a primary: it is not held back, and nothing of it is changed.
    Free,
    /// Up, as the primary.
    Open,
}

/// What there is of PostgreSQL here, by processes and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// No data.
    None,
    /// Processes of it live, and nothing marks it as a standby's.
    Running,
    /// Processes of it live, marked as a standby's.
    RunningStandby,
    /// Down, marked as a standby's.
    Standby,
    /// Down, and nothing marks it as a standby's; also when it could not be looked at.
    Primary,
}

impl Data {
    /// PostgreSQL recovers with it, for as long as nobody promotes it.
    pub(super) fn is_standby(self) -> bool {
        match self {
            Self::Standby | Self::RunningStandby => true,
            Self::None | Self::Running | Self::Primary => false,
        }
    }

    /// The same, without what lives of it.
    fn when_down(self) -> Self {
        match self {
            Self::Running => Self::Primary,
            Self::RunningStandby => Self::Standby,
            Self::None | Self::Standby | Self::Primary => self,
        }
    }
}

/// What would come up if it were started now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comes {
    /// It is up, or there is nothing.
    Nothing,
    /// A standby.
    Standby,
    /// A primary, or a standby that is promoted at once.
    Primary,
    /// A standby's data, and nobody knows what the Cluster says.
    Unknown,
}

/// Our part.
#[derive(Debug)]
pub(super) struct Part {
    server: Arc<Server>,
    us: Us,
    want: watch::Sender<Want>,
    /// How many fences there have been; changed while `want` is.
    fences: AtomicU64,
    /// Where the server last listened.
    listening: Mutex<Option<Listening>>,
    hold: Mutex<Option<Hold>>,
    /// It was a standby when it was last looked at, or what it became since was not asked for.
    was_standby: AtomicBool,
    /// Why the bar could not be put or lifted.
    bar_trouble: Mutex<String>,
}

/// Between two fences: what an action began in, and may open in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// Whether the port is kept from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// By us, or by the watchdog after it fired.
    Held,
    /// Not; why.
    Open(String),
}

impl Part {
    pub(super) fn new(server: Arc<Server>, us: Us) -> Self {
        Self {
            server,
            us,
            want: watch::Sender::new(Want::Held),
            fences: AtomicU64::new(0),
            listening: Mutex::new(None),
            hold: Mutex::new(None),
            was_standby: AtomicBool::new(false),
            bar_trouble: Mutex::default(),
        }
    }

    pub(super) fn want(&self) -> Want {
        *self.want.borrow()
    }

    pub(super) fn wants(&self, want: Want) {
        self.want.send_replace(want);
    }

    /// From now on it is to stay down, whatever began before to open it.
    pub(super) fn fence(&self, want: Want) {
        self.want.send_modify(|now| {
            self.fences.fetch_add(1, Ordering::Relaxed);
            *now = want;
        });
    }

    /// What begins now may open it, for as long as nobody fences.
    pub(super) fn turn(&self) -> Turn {
        Turn(self.fences.load(Ordering::Relaxed))
    }

    /// Nobody has fenced since.
    pub(super) fn is_still(&self, turn: Turn) -> bool {
        self.turn() == turn
    }

    /// It is to come up as the standby that it is, whatever its Cluster wants. Not when somebody has fenced since
    /// `turn`.
    pub(super) fn stand_by(&self, turn: Turn) {
        self.want.send_if_modified(|now| {
            let is_meant = self.is_still(turn) && matches!(*now, Want::Held | Want::Shut);
            if is_meant {
                *now = Want::Standby;
            }
            is_meant
        });
    }

    /// Changes what we want, unless somebody wants something else meanwhile.
    pub(super) fn wants_instead(&self, of: Want, want: Want) {
        self.want.send_if_modified(|now| {
            let is_meant = *now == of;
            if is_meant {
                *now = want;
            }
            is_meant
        });
    }

    /// What is here. Reads files, and may block.
    pub(super) fn data(&self) -> Data {
        let files = look_at_files(&self.server);
        match (files, self.has_standby_signal()) {
            (Files::Absent, _) => Data::None,
            (Files::Running { .. } | Files::Remnants(_), true) => Data::RunningStandby,
            (Files::Running { .. } | Files::Remnants(_), false) => Data::Running,
            (Files::Stopped { .. } | Files::Unusable(_) | Files::Unclear(_), true) => Data::Standby,
            (Files::Stopped { .. } | Files::Unusable(_) | Files::Unclear(_), false) => {
                Data::Primary
            }
        }
    }

    /// A standby of ours has become a primary, or is about to, and we did not ask for it. Reads files, and may
    /// block.
    pub(super) fn is_promoted_unasked(&self) -> bool {
        self.is_stray() && self.data() == Data::Running
    }

    /// What runs as a primary here was a standby, and is not to be open.
    pub(super) fn is_stray(&self) -> bool {
        self.was_standby.load(Ordering::Relaxed)
            && matches!(self.want(), Want::Held | Want::Fenced | Want::Shut | Want::Standby)
    }

    /// Has it stay down until it is a standby again, unless it is to be open by now; whether it has to stay down.
    pub(super) fn shut(&self) -> bool {
        let shut = if self.us.instance.is_none() { Want::Fenced } else { Want::Shut };
        self.want.send_if_modified(|now| {
            let changes = *now != Want::Open && *now != shut;
            if changes {
                *now = shut;
            }
            changes
        });
        self.want() != Want::Open
    }

    /// The mark that has PostgreSQL come up as a standby.
    pub(super) fn has_standby_signal(&self) -> bool {
        self.server.place.data_dir().join("standby.signal").exists()
    }

    /// Notes where the server listens, while its file says so: after a shutdown it is gone.
    pub(super) fn learn(&self) {
        let instance = self.server.instance.try_lock();
        let said = instance.ok().and_then(|instance| instance.listening().ok().flatten());
        if said.is_some() {
            *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = said;
        }
    }

    /// Holds the port, or gives it back, as it has to be now; says what is here. Reads files, and may
    /// block.
    pub(super) fn keep(&self, cluster: Option<&Cluster>) -> Data {
        let data = self.data();
        let mut hold = self.lock();
        // What is to be open becomes a primary by our own wish, and is stopped as one.
        let is_open = self.want() == Want::Open;
        let is_ours = data.is_standby() && !is_open;
        if is_ours || is_open || data == Data::Primary {
            self.was_standby.store(is_ours, Ordering::Relaxed);
        }
        if data.is_standby() {
            // It was a primary once, and what has to be said of it is open again.
            self.wants_instead(Want::Free, Want::Held);
        }
        if data == Data::Primary {
            // What was to come up as a standby is none any more.
            self.wants_instead(Want::Standby, Want::Held);
        }
        // While we hold its port nothing runs: what lives starts in vain, and ends.
        let there = if hold.is_some() { data.when_down() } else { data };
        match there {
            Data::Running => {
                self.learn();
                if !self.is_stray() {
                    self.wants_instead(Want::Held, Want::Free);
                }
            }
            Data::RunningStandby => {
                self.learn();
                self.wants_instead(Want::Standby, Want::Held);
            }
            Data::None | Data::Standby | Data::Primary => {}
        }
        let comes = comes_up(there, cluster, &self.us);
        let stays = |cluster: &Cluster| stays_standby(cluster, &self.us);
        let became_standby = cluster.is_some_and(stays) && data.is_standby();
        if became_standby {
            self.wants_instead(Want::Fenced, Want::Held);
            self.wants_instead(Want::Shut, Want::Held);
        }
        // What is wanted now, not before the look: whoever wants it open gives the port back after that.
        if is_to_be_held(self.want(), comes) {
            self.take(&mut hold);
        } else {
            self.drop(&mut hold);
        }
        match self.want() {
            Want::Open => self.bar(false),
            Want::Held | Want::Fenced | Want::Shut | Want::Standby | Want::Free => {
                if data == Data::RunningStandby {
                    self.bar(true);
                }
            }
        }
        data
    }

    /// Holds the port of a server that is down.
    pub(super) fn hold(&self) -> Port {
        self.take(&mut self.lock())
    }

    /// It is to be the primary: it gets its port, and may be promoted. Not when somebody has fenced since `turn`;
    /// whether it is.
    pub(super) fn open(&self, turn: Turn) -> bool {
        let mut opens = false;
        self.want.send_if_modified(|now| {
            opens = self.is_still(turn);
            if opens {
                *now = Want::Open;
            }
            opens
        });
        // A look that began before that is over then, and so may be a fence.
        let mut hold = self.lock();
        if self.want() == Want::Open {
            self.was_standby.store(false, Ordering::Relaxed);
            self.drop(&mut hold);
            self.bar(false);
        }
        opens
    }

    /// Lets PostgreSQL have its port.
    #[cfg(test)]
    pub(super) fn give_back(&self) {
        self.drop(&mut self.lock());
    }

    /// Puts the bar, or lifts it; says why it cannot, once.
    fn bar(&self, put: bool) {
        let data_dir = self.server.place.data_dir();
        let done = if put { bar::put(data_dir) } else { bar::lift(data_dir) };
        let trouble = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
        if matches!(done, Ok(true)) {
            tracing::debug!(put, "the bar on promotions");
        }
        let mut said = self.bar_trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != trouble && !trouble.is_empty() {
            tracing::warn!(put, trouble, "the bar on promotions cannot be changed");
        }
        *said = trouble;
    }

    /// CloudNativePG cannot promote it.
    pub(super) fn is_barred(&self) -> bool {
        bar::is_put(self.server.place.data_dir())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Hold>> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, hold: &mut Option<Hold>) -> Port {
        if hold.is_some() {
            return Port::Held;
        }
        let port = self.server.place.at.port;
        let known = *self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let listening = known.unwrap_or_else(|| Listening::everywhere(port));
        match listening.hold() {
            Ok(held) => {
                tracing::info!(port, "holding the port of PostgreSQL");
                *hold = Some(held);
                Port::Held
            }
            Err(_) if listening.is_held_elsewhere() => Port::Held,
            Err(error) => Port::Open(format!("port {port} cannot be held: {error}")),
        }
    }

    fn drop(&self, hold: &mut Option<Hold>) {
        if hold.take().is_some() {
            tracing::info!(port = self.server.place.at.port, "gave the port of PostgreSQL back");
        }
    }

    /// We hold it ourselves.
    pub(super) fn holds(&self) -> bool {
        self.lock().is_some()
    }
}

/// What would come up, with the Cluster as last read.
pub(super) fn comes_up(data: Data, cluster: Option<&Cluster>, us: &Us) -> Comes {
    match (data, cluster) {
        (Data::None | Data::Running | Data::RunningStandby, _) => Comes::Nothing,
        (Data::Primary, _) => Comes::Primary,
        (Data::Standby, None) => Comes::Unknown,
        (Data::Standby, Some(cluster)) if stays_standby(cluster, us) => Comes::Standby,
        (Data::Standby, Some(_)) => Comes::Primary,
    }
}

/// A standby that comes up here is not promoted by CloudNativePG.
pub(super) fn stays_standby(cluster: &Cluster, us: &Us) -> bool {
    cluster.is_replica() || us.is_passed_over(cluster)
}

/// Nobody may start it: what would come up may write, and we have not said that it may. An annotation that
/// is in place changes nothing: the instance manager may be about to start it, and read of it later.
pub(super) fn is_to_be_held(want: Want, comes: Comes) -> bool {
    match (want, comes) {
        (Want::Open | Want::Free | Want::Standby, _) | (_, Comes::Nothing | Comes::Standby) => {
            false
        }
        (Want::Held | Want::Fenced | Want::Shut, Comes::Primary | Comes::Unknown) => true,
    }
}
