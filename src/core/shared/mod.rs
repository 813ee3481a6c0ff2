//! What both workflows share: who we are, what was seen, operations under way, and the effects of
//! this step. A file per concern.

mod database;
mod describe;
mod heartbeat;
mod hook;
mod journal;
mod lease;
mod members;
mod name;
mod order;
mod promise;
mod reading;
mod settings;
mod synchronous;
mod token;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{
    Action, ActionOutcome, Alarm, Effect, Floor, Guard, Observation, ShutdownMode, WatchdogStatus,
};
use super::hook::HookOutcome;
use super::ids::{BootId, Epoch, InstanceId, MemberId, OpId, Revision};
use super::journal::Aside;
use super::lease::{Held, LeaseAnswer, PendingLease};
use super::policy::{Policy, WatchdogMode};
use super::records::{Address, Header, Position};
use super::time::Instant;
use super::token::Token;
use super::view::View;
use journal::Journal;
use name::Name;
pub(super) use order::Verdict;
use promise::Promises;
use synchronous::Synchronous;

/// Who this agent is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The member it speaks for.
    pub member: MemberId,
    /// This start of it.
    pub boot: BootId,
    /// Its state directory.
    pub instance: InstanceId,
    /// Where others reach the member.
    pub address: Address,
}

/// A database action under way; there is at most one, besides a fence that overtakes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) op: OpId,
    pub(super) action: Action,
}

/// A write of our own heartbeat or of `cluster_state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Publishing {
    op: Option<OpId>,
    sent: Option<Instant>,
}

/// Our own heartbeats as a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct OwnHeartbeat {
    publishing: Publishing,
    seq: u64,
    revision: Option<Revision>,
    due: Instant,
    /// When the latest applied one was sent.
    applied: Option<Instant>,
    failures: u32,
    /// The one on its way is the store clock's witness: it is read back at once.
    witness: bool,
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Shared {
    pub(super) id: Identity,
    /// What we count by.
    pub(super) policy: Policy,
    #[serde(default)]
    set: Option<settings::Set>,
    pub(super) now: Instant,
    pub(super) view: View,
    pub(super) floor: Option<Floor>,
    pub(super) database: Option<Observation>,
    pub(super) watchdog: WatchdogStatus,
    pub(super) running: Option<Running>,
    /// Cancelled actions that have not answered yet: until then nothing but a fence may start.
    cancelled: BTreeSet<OpId>,
    /// The database's position as last seen; published while a fresh look is awaited.
    position: Position,
    pub(super) pending: Option<PendingLease>,
    pub(super) cooling_until: Option<Instant>,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) effects: Vec<Effect>,
    /// Completions that nobody waited for any more.
    pub(super) stale_completions: u64,
    alarms: BTreeSet<Alarm>,
    pub(super) guarded: Option<(Instant, Epoch)>,
    /// The latest deadline that the watchdog had when it was last told to let go: a word of it that
    /// says so still is from before.
    let_go: Option<Instant>,
    /// The deadline the watchdog was last heard to hold: it bounds a database whose watchdog is gone.
    pub(super) last_deadline: Option<Instant>,
    /// A stopped standby could not be started to follow its upstream.
    #[serde(default)]
    pub(super) follow_failed: bool,
    /// Hand-overs to the preferred member that it did not take, one after the other.
    #[serde(default)]
    pub(super) failbacks_missed: u32,
    /// The store rejected our latest write for a cause that an operator has to mend.
    writes_rejected: bool,
    /// Since when the watchdog has been told to guard.
    guard_since: Option<Instant>,
    epoch_of_tasks: Epoch,
    next_op: u64,
    next_write: u64,
    read: Option<OpId>,
    read_due: Instant,
    reread: bool,
    /// A write of ours was refused: only reads begun after this operation count.
    outdated: Option<OpId>,
    /// The newest operation when a write of ours last raised the floor.
    raised_at: Option<OpId>,
    name: Name,
    promises: Promises,
    remembering: Option<(OpId, Floor)>,
    remembered: Option<Floor>,
    remember_due: Instant,
    heartbeat: OwnHeartbeat,
    cluster_write: Publishing,
    #[serde(default)]
    synchronous: Synchronous,
    /// What the lease we took over was released to us with, until it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Token>,
    /// The hook that is waited for.
    #[serde(default)]
    hook: Option<OpId>,
    #[serde(default)]
    journal: Aside<Journal>,
}

/// The agent was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Shutdown {
    pub(super) mode: ShutdownMode,
    pub(super) by: Instant,
}

/// What a read or completion means to the workflows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Time passed or something was seen: look at everything again.
    Look,
    /// The database's postmaster ended.
    Died,
    /// A write to the lease was answered.
    Lease(LeaseAnswer),
    /// The action under way ended.
    Acted(Action, ActionOutcome),
    /// The hook that was waited for ended.
    Hook(HookOutcome),
}

/// So many times at most the wait for a failback doubles.
const FAILBACK_DOUBLINGS: u32 = 10;

/// Time between two writes of the floor when only the lease's revision moved: a crash forgets at
/// most this much of a rollback's evidence, while running agents forget none.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(30);

impl Shared {
    pub(super) fn new(id: Identity, policy: Policy, floor: Option<Floor>, now: Instant) -> Self {
        let promises = Promises::after_start(floor.as_ref(), policy.safety_margin, now);
        Self {
            id,
            policy,
            set: None,
            now,
            view: View::default(),
            floor: floor.clone(),
            database: None,
            watchdog: WatchdogStatus::Down,
            running: None,
            cancelled: BTreeSet::new(),
            position: Position::default(),
            pending: None,
            cooling_until: None,
            shutdown: None,
            effects: Vec::new(),
            stale_completions: 0,
            alarms: BTreeSet::new(),
            guarded: None,
            let_go: None,
            last_deadline: None,
            follow_failed: false,
            failbacks_missed: 0,
            writes_rejected: false,
            guard_since: None,
            epoch_of_tasks: Epoch(0),
            next_op: 0,
            next_write: 0,
            read: None,
            read_due: now,
            reread: false,
            outdated: None,
            raised_at: None,
            name: Name::default(),
            promises,
            remembering: None,
            remembered: floor,
            remember_due: now,
            heartbeat: OwnHeartbeat { due: now, ..OwnHeartbeat::default() },
            cluster_write: Publishing::default(),
            synchronous: Synchronous::default(),
            token: None,
            hook: None,
            journal: Aside::default(),
        }
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    // ---- alarms and the watchdog

    pub(super) fn raise(&mut self, alarm: Alarm) {
        if self.alarms.insert(alarm) {
            self.effects.push(Effect::Alarm(alarm));
        }
    }

    pub(super) fn clear(&mut self, alarm: Alarm) {
        self.alarms.remove(&alarm);
    }

    pub(super) fn set_alarm(&mut self, alarm: Alarm, on: bool) {
        if on {
            self.raise(alarm);
        } else {
            self.clear(alarm);
        }
    }

    /// What was wrong with a primary says nothing once it is none.
    pub(super) fn clear_primary_alarms(&mut self) {
        for alarm in [
            Alarm::DatabaseHung,
            Alarm::DatabaseDiskFull,
            Alarm::ConnectionsExhausted,
            Alarm::DatabaseDenied,
            Alarm::NoCandidate,
            Alarm::HeldByPromises,
            Alarm::NoSynchronousStandby,
        ] {
            self.clear(alarm);
        }
    }

    pub(super) fn alarms(&self) -> &BTreeSet<Alarm> {
        &self.alarms
    }

    /// Moves the watchdog's deadline to what `held` proves.
    pub(super) fn guard(&mut self, held: &Held) {
        let until = self.policy.guard_at(held.until_by(self.policy.lease_duration, &self.policy));
        let backwards =
            self.guarded.is_some_and(|(told, epoch)| epoch == held.epoch && told > until);
        if self.guarded != Some((until, held.epoch)) && !backwards {
            self.guarded = Some((until, held.epoch));
            self.guard_since.get_or_insert(self.now);
            self.effects.push(Effect::Guard(Guard::Until(until, held.epoch)));
        }
    }

    /// The instance is proven down or is no primary.
    pub(super) fn unguard(&mut self) {
        let told = self.guarded.take().map(|(until, _)| until);
        let held = match self.watchdog {
            WatchdogStatus::Armed(until) => Some(until),
            WatchdogStatus::Down | WatchdogStatus::Idle => None,
        };
        self.let_go = self.let_go.max(told).max(held);
        self.watchdog = self.heard(self.watchdog);
        self.last_deadline = None;
        self.guard_since = None;
        self.effects.push(Effect::Guard(Guard::Released));
    }

    /// What the watchdog's word is worth: a deadline it was told to give up guards nothing.
    pub(super) fn heard(&self, status: WatchdogStatus) -> WatchdogStatus {
        match status {
            WatchdogStatus::Armed(until) if Some(until) <= self.let_go => WatchdogStatus::Idle,
            WatchdogStatus::Armed(_) | WatchdogStatus::Down | WatchdogStatus::Idle => status,
        }
    }

    /// PostgreSQL was to be left running, half the time for that is over, and no watchdog is armed:
    /// from now on the shutdown is a hand-over.
    pub(super) fn hand_over_instead(&mut self) -> bool {
        let armed = self.is_armed_as_told();
        let (half, now) = (self.policy.shutdown_timeout / 2, self.now);
        let Some(shutdown) = self.shutdown.as_mut() else { return false };
        let late =
            shutdown.mode == ShutdownMode::LeaveRunning && !armed && now + half >= shutdown.by;
        if late {
            shutdown.mode = ShutdownMode::HandOver;
        }
        late
    }

    /// The watchdog is armed with a deadline still to come.
    pub(super) fn is_armed(&self) -> bool {
        matches!(self.watchdog, WatchdogStatus::Armed(until) if until > self.now)
    }

    /// The watchdog has confirmed the latest deadline it was told: it was alive a moment ago.
    pub(super) fn is_armed_as_told(&self) -> bool {
        let told = self.guarded.map(|(until, _)| until);
        self.is_armed() && matches!(self.watchdog, WatchdogStatus::Armed(at) if Some(at) >= told)
    }

    /// A watchdog guards the database, or is no condition: it may become writable. One that runs
    /// without being a condition is waited for, but not for longer than a store operation may take.
    pub(super) fn is_guarded(&self) -> bool {
        let armed = self.is_armed();
        let patience = self.policy.heartbeat_timeout;
        let waited = self.guard_since.is_none_or(|since| self.now >= since + patience);
        match self.policy.watchdog {
            WatchdogMode::Off => true,
            WatchdogMode::Automatic => armed || self.watchdog == WatchdogStatus::Down || waited,
            WatchdogMode::Required => armed,
        }
    }

    /// When a watchdog that is no condition is no longer waited for.
    pub(super) fn guard_wait_over(&self) -> Option<Instant> {
        let over = self.guard_since? + self.policy.heartbeat_timeout;
        (!self.is_guarded() && self.policy.watchdog == WatchdogMode::Automatic).then_some(over)
    }

    /// How long a preferred member has to be fit before the lease goes back to it. Each hand-over it did
    /// not take costs clients a wait, and doubles this one.
    pub(super) fn failback_wait(&self) -> Option<Duration> {
        let doubled = 1 << self.failbacks_missed.min(FAILBACK_DOUBLINGS);
        self.policy.failback_after.map(|wait| wait.saturating_mul(doubled))
    }

    /// The watchdog is a condition of leadership and not there.
    pub(super) fn watchdog_missing(&self) -> bool {
        self.policy.watchdog == WatchdogMode::Required && self.watchdog == WatchdogStatus::Down
    }
}

/// Name of a write in the store: what its record's header says as `operation`.
pub fn operation(boot: &BootId, number: u64) -> String {
    format!("{boot}-{number}")
}

/// Header of a write by this agent.
pub fn header(id: &Identity, incarnation: &super::ids::Incarnation, number: u64) -> Header {
    Header {
        incarnation: incarnation.clone(),
        operation: operation(&id.boot, number),
        member: id.member.clone(),
        boot: id.boot.clone(),
    }
}
