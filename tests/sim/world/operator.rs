//! A person, or what acts for one: reads the store, and writes an order or a pause by one compare-and-set
//! on what was read, which comes too late at times.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::time::Duration;

use harmony_agent::core::event::{StoreWrite, WriteOutcome};
use harmony_agent::core::ids::{Epoch, MemberId, Revision};
use harmony_agent::core::membership;
use harmony_agent::core::order::{Answer, Order, Pause, Wish};
use harmony_agent::core::records::{ClusterSettings, ClusterState, Header, Key, Record};
use harmony_agent::core::synchronous::SynchronousMode;
use harmony_agent::core::time::StoreTime;
use harmony_agent::core::timing::Timing;

use super::fault::{Fault, Kind};
use super::{Fact, Item, World, Written};
use crate::sim::setup::MS;

/// A write of an operator on its way.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Wanted {
    write: StoreWrite,
    header: Header,
}

/// What an operator reads: the epoch of the lease, the cluster's description and its revision.
struct Described {
    epoch: Epoch,
    cluster: ClusterState,
    revision: Revision,
}

impl World {
    /// What there is to read.
    fn described(&self) -> Option<Described> {
        let (lease, ..) = self.store.lease().filter(|_| self.store.up)?;
        let (cluster, header, revision) = self.store.cluster_slot()?;
        let epoch = lease.epoch;
        (header.incarnation == self.store.incarnation).then(|| Described {
            epoch,
            cluster: cluster.clone(),
            revision,
        })
    }

    /// Whether there is anything to write about.
    pub(crate) fn may_operate(&self, kind: Kind) -> bool {
        self.described().is_some_and(|Described { cluster, .. }| match kind {
            Kind::Withdraw => cluster.order.is_some(),
            Kind::Resume => cluster.paused.is_some(),
            _ => true,
        })
    }

    /// An operator reads, decides and writes.
    pub(crate) fn operate(&mut self, fault: Fault) {
        let Some(Described { epoch, mut cluster, revision }) = self.described() else { return };
        self.next_order += 1;
        match fault.kind {
            Kind::Pause => cluster.paused = Some(self.pause(&fault)),
            Kind::Resume => cluster.paused = None,
            Kind::Withdraw => cluster.order = None,
            Kind::ChangeSettings => {
                cluster.settings = self.other_settings(&fault);
                self.say(format_args!("operator: {}", shown(&cluster.settings)));
            }
            Kind::Drain | Kind::Remove => match self.members_changed(&fault, epoch, cluster) {
                Ok(Some(changed)) => cluster = changed,
                Ok(None) => return,
                Err(why) => return self.say(format_args!("operator: refused: {why}")),
            },
            _ => {
                let order = self.order(&fault, epoch);
                self.say(format_args!("operator: {}", describe(&order)));
                cluster.order = Some(order);
            }
        }
        let wanted = self.wanted(cluster, revision);
        let delay = self.some(1, 1_500);
        self.later(delay, Item::Operator(Box::new(wanted)));
    }

    /// What `harmony-agent member drain` and `remove` do. With an odd `detail` the member is drained no
    /// longer, or it is taken out although it runs.
    fn members_changed(
        &self,
        fault: &Fault,
        epoch: Epoch,
        cluster: ClusterState,
    ) -> Result<Option<ClusterState>, membership::Refused> {
        let snapshot = self.store.now.snapshot(&self.store.incarnation);
        let (member, policy) = (&self.machines[fault.machine].member, &self.setup.policy);
        let odd = fault.detail % 2 == 1;
        if fault.kind == Kind::Remove {
            let silent_after = membership::silent_after(&snapshot, policy);
            let silent_after = if odd { Duration::ZERO } else { silent_after };
            return membership::remove(&snapshot, cluster, member, silent_after).map(Some);
        }
        if odd {
            return membership::undrain(&snapshot, cluster, member);
        }
        let order = self.order(&Fault { detail: 0, ..*fault }, epoch);
        membership::drain(&snapshot, cluster, member, &order, policy)
    }

    fn wanted(&self, cluster: ClusterState, revision: Revision) -> Wanted {
        let header = Header {
            incarnation: self.store.incarnation.clone(),
            operation: format!("operator-{}", self.next_order),
            member: "operator".parse().unwrap(),
            boot: "operator".parse().unwrap(),
        };
        let (key, expected) = (Key::ClusterState, Some(revision));
        let record = Record::ClusterState(cluster);
        Wanted { write: StoreWrite { key, expected, record, number: self.next_order }, header }
    }

    fn pause(&self, fault: &Fault) -> Pause {
        let lasts = i64::try_from(fault.lasts).unwrap_or(0);
        let end = StoreTime(self.store.stamp(self.now).0.saturating_add(lasts));
        let until = (fault.detail % 2 == 1).then_some(end);
        Pause { reason: "work on it".to_owned(), by: "operator".to_owned(), until }
    }

    /// A 64th of the lag that the members allow, eight times of it, or theirs; a failback after a
    /// while, never, or as they say; other timings; in worlds where agents say for which standbys commits
    /// wait, another mode; another preference of one member.
    fn other_settings(&self, fault: &Fault) -> ClusterSettings {
        let lag = self.setup.policy.maximum_lag_on_failover;
        let soon = self.setup.scaled(3_000) / MS;
        let (timing, further) = (fault.detail / 9 % 4, fault.detail / 36);
        let (mode, number) = (further % 4, further / 4 % 3);
        let modes = [
            None,
            Some(SynchronousMode::Strict),
            Some(SynchronousMode::Off),
            Some(SynchronousMode::On),
        ];
        let changes = self.setup.policy.synchronous == SynchronousMode::On;
        let preferred = u8::try_from(further / 12 % 4).unwrap_or(0);
        let member = self.machines[fault.machine].member.clone();
        ClusterSettings {
            maximum_lag_on_failover: [Some(lag / 64), Some(lag * 8), None][third(fault.detail)],
            failback_after_ms: [None, Some(soon), Some(0)][third(fault.detail / 3)],
            timing: self.other_timing(timing),
            priorities: (preferred > 0).then_some((member, preferred)).into_iter().collect(),
            synchronous_mode: modes[usize::try_from(mode).unwrap_or(0)].filter(|_| changes),
            synchronous_standbys: [None, Some(1), Some(2)][third(number)].filter(|_| changes),
            ..ClusterSettings::default()
        }
    }

    /// A lease that is longer, with other parts; `None` for as the members say.
    fn other_timing(&self, which: u64) -> Option<Box<Timing>> {
        let own = Timing::of(&self.setup.policy);
        let other = match which {
            1 => Timing { lease_duration: own.lease_duration * 3 / 2, ..own },
            2 => Timing {
                heartbeat_interval: own.heartbeat_interval / 2,
                fence_timeout: own.fence_timeout * 5 / 4,
                safety_margin: own.safety_margin * 3 / 2,
                lease_duration: own.lease_duration * 8 / 5,
                takeover_step: own.takeover_step * 2,
                ..own
            },
            3 => Timing {
                heartbeat_timeout: own.heartbeat_timeout / 2,
                failure_threshold: own.failure_threshold + 1,
                clock_drift_ppm: own.clock_drift_ppm * 2,
                lease_duration: own.lease_duration * 11 / 10,
                ..own
            },
            _ => return None,
        };
        assert!(other.is_safe(), "{other:?}");
        Some(Box::new(other))
    }

    fn order(&self, fault: &Fault, epoch: Epoch) -> Order {
        let named = Some(self.machines[fault.machine].member.clone());
        let unknown: Option<MemberId> = "nobody".parse().ok();
        let (eighth, detail) = (fault.detail % 8, fault.detail / 8);
        let (wish, to) = match (fault.kind, eighth) {
            (Kind::OrderFailover, _) => {
                let wish = Wish::Failover { accept_loss: detail % 2 == 1 };
                (wish, named.filter(|_| eighth < 6))
            }
            (Kind::OrderFailback, _) => (Wish::Failback, None),
            (_, 0..5) => (Wish::Switchover, named),
            (_, 5 | 6) => (Wish::Switchover, None),
            (_, _) => (Wish::Switchover, unknown),
        };
        let later = detail / 2 % 4 == 3;
        let wait = i64::try_from(detail / 8 % self.setup.scaled(10_000)).unwrap_or(0);
        let at = StoreTime(self.store.stamp(self.now).0.saturating_add(wait));
        Order {
            id: format!("order-{}", self.next_order),
            wish,
            epoch,
            to,
            by: "operator".to_owned(),
            not_before: later.then_some(at),
            rehearsal: fault.kind == Kind::Rehearse,
        }
    }

    /// What an operator wrote arrives.
    pub(crate) fn operator_writes(&mut self, wanted: Wanted) {
        let Wanted { write, header } = wanted;
        if !self.store.up || header.incarnation != self.store.incarnation {
            self.say(format_args!("operator: the store does not take it"));
            return;
        }
        let before = self.store.revision(&write.key);
        match self.store.write(self.now, &write, &header) {
            WriteOutcome::Applied(revision) => {
                self.say(format_args!("store: the operator's write is in it"));
                let revisions = (before, revision);
                let written =
                    Written { by: None, key: write.key, expected: write.expected, revisions };
                self.fact(Fact::Written(Box::new(written)));
                self.hint();
            }
            _ => self.say(format_args!("operator: refused, cluster_state has changed meanwhile")),
        }
    }

    /// Who paused resumes, unless the pause was to end by itself.
    pub(crate) fn pause_is_over(&mut self, fault: Fault) {
        if fault.detail.is_multiple_of(2) && self.may_operate(Kind::Resume) {
            self.operate(Fault { kind: Kind::Resume, ..fault });
        }
    }

    /// Operators have gone home; nothing is left paused, and everybody may be a member.
    pub(crate) fn lift_pause(&mut self) {
        self.queue.retain(|_, item| !matches!(item, Item::Operator(_)));
        if let Some(Described { mut cluster, revision, .. }) = self.described() {
            let wanted = (None, BTreeSet::new(), BTreeMap::new(), None);
            let left = (
                cluster.paused.take(),
                take(&mut cluster.drained),
                take(&mut cluster.removed),
                // How soon all has to be well again is said by the members' own.
                cluster.settings.timing.take(),
            );
            if left == wanted {
                return;
            }
            self.next_order += 1;
            let wanted = self.wanted(cluster, revision);
            self.operator_writes(wanted);
        }
    }

    /// Tells of an answer to an order, when there is a new one.
    pub(crate) fn say_answer(&mut self, record: &Record, before: Option<&Answer>) {
        let Record::ClusterState(cluster) = record else { return };
        if let Some(answer) = cluster.answer.as_ref().filter(|answer| Some(*answer) != before) {
            let word = if answer.done { "done" } else { "not done" };
            self.say(format_args!("store: {} is {word}: {}", answer.id, answer.text));
        }
    }
}

/// Settings for people.
fn shown(settings: &ClusterSettings) -> String {
    serde_json::to_string(settings).unwrap()
}

fn third(detail: u64) -> usize {
    usize::try_from(detail % 3).unwrap_or(0)
}

/// An order for people.
fn describe(order: &Order) -> String {
    let mut words = format!("{}, {}", order.id, order.wish.name());
    if let Some(to) = &order.to {
        words.push_str(&format!(" to {to}"));
    }
    if order.wish == (Wish::Failover { accept_loss: true }) {
        words.push_str(", at any loss");
    }
    if order.rehearsal {
        words.push_str(", a rehearsal");
    }
    if order.not_before.is_some() {
        words.push_str(", later");
    }
    format!("{words}, in epoch {}", order.epoch)
}
