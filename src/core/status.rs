//! Everything the agent can say about itself and the cluster, as plain data.

use std::time::Duration;

use super::agent::{Agent, Workflow};
use super::candidate::{self, Candidate, WhyNot};
use super::event::{Alarm, Observation, Reason, State, Transition, WatchdogStatus};
use super::ids::{Epoch, Incarnation, MemberId, Revision, Site, SystemId};
use super::order::{Answer, Order, Pause};
use super::records::{Address, ClusterSettings, Position};
use super::replica::{Takeover, takeover};
use super::shared::Shared;
use super::synchronous::{Requirement, SynchronousMode};
use super::time::{Instant, StoreTime};
use super::timing::Timing;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub member: MemberId,
    /// Where it is in its workflow.
    pub state: State,
    /// The lease as the store last showed it.
    pub lease: Option<LeaseStatus>,
    /// Our own right to write: its end. `None` without one.
    pub writable_until: Option<Instant>,
    /// How long the lease's revision has not changed, as seen here.
    pub staleness: Option<Duration>,
    /// When a read of the store last succeeded.
    pub last_read: Option<Instant>,
    /// Incarnation of the store.
    pub incarnation: Option<Incarnation>,
    /// Why the store is not obeyed, when it is not.
    pub not_obeyed: Option<String>,
    /// Records that cannot be read, and why.
    pub invalid: Vec<(String, String)>,
    /// The cluster's system identifier, once it is known.
    pub system: Option<SystemId>,
    /// The database as last seen.
    pub database: Option<Observation>,
    /// The watchdog.
    pub watchdog: WatchdogStatus,
    /// Members as far as they are known.
    pub members: Vec<MemberStatus>,
    /// Who would take over if the primary died now, best first.
    pub line: Vec<Candidate>,
    /// From the primary's last sign until the first of them may.
    pub failover_timeout: Duration,
    /// How much longer each further one waits.
    pub takeover_step: Duration,
    /// Whether this member would take over, in a sentence.
    pub takeover: String,
    /// Synchronous replication.
    pub synchronous: SynchronousStatus,
    /// The pause, while it holds.
    pub paused: Option<Pause>,
    /// How long it still holds, if it ends by itself.
    pub pause_ends: Option<Duration>,
    /// The change that a person asked for, while it is open.
    pub order: Option<Order>,
    /// How long it is until its time has come, if one was named.
    pub order_due: Option<Duration>,
    /// What became of the latest one.
    pub answer: Option<Answer>,
    /// What a person set for all members.
    pub settings: ClusterSettings,
    /// The timings it counts by.
    pub timing: Timing,
    /// Alarms that stand.
    pub alarms: Vec<Alarm>,
    /// The last transition and when.
    pub last_transition: Option<(Transition, Instant)>,
    /// Completions that came too late to matter.
    pub stale_completions: u64,
}

/// Synchronous replication, as far as this member knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynchronousStatus {
    /// This member's setting; the primary's is the one that counts.
    pub mode: SynchronousMode,
    /// Members that have every acknowledged commit, by the lease; empty: commits wait for nobody.
    pub set: Vec<MemberId>,
    /// What this member's server is known to wait for, when the agent has told it.
    pub requirement: Option<Requirement>,
}

/// The lease as the store last showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Its holder.
    pub holder: MemberId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its revision.
    pub revision: Revision,
    /// It was given back.
    pub released: bool,
    /// How long the holder counts on it.
    pub duration: Duration,
}

/// One member as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member.
    pub member: MemberId,
    /// Its state as it last said; `None` when it has said nothing.
    pub state: Option<State>,
    /// It holds the lease.
    pub holder: bool,
    /// Its database as it last said.
    pub database: Position,
    /// Bytes behind the primary as it last said; 0 for the primary.
    pub lag: u64,
    /// WAL arrives from the primary.
    pub streaming: bool,
    /// Its preference.
    pub priority: u8,
    /// Where it stands.
    pub site: Option<Site>,
    /// A person wants it not to take over.
    pub drained: bool,
    /// Why it would not take over; `None` when it is in line, or is the primary.
    pub ineligible: Option<String>,
    /// What keeps the primary from handing over to it now, but for a failover.
    pub doubtful: Option<String>,
    /// How long its record has not changed.
    pub age: Option<Duration>,
    /// Where it is reached.
    pub address: Address,
}

impl Status {
    /// What is not obeyed, and why: the store, records in it, the data here.
    pub fn troubles(&self) -> Vec<(String, String)> {
        let store = self.not_obeyed.iter().map(|why| ("store".to_owned(), why.clone()));
        let own = self.database.as_ref().and_then(|seen| seen.system);
        let foreign = self.system.zip(own).filter(|(cluster, own)| cluster != own);
        let data = foreign.map(|(cluster, own)| {
            let why = format!("its system identifier is {own}, the cluster's is {cluster}");
            ("data_dir".to_owned(), why)
        });
        store.chain(self.invalid.iter().cloned()).chain(data).collect()
    }
}

impl Agent {
    /// Everything to be shown.
    pub fn status(&self) -> Status {
        let cx = &self.shared;
        let view = &cx.view;
        let cluster = view.cluster();
        let writable_until = self.workflow().and_then(Workflow::held).map(|held| held.until());
        let invalid = view.invalid().into_iter().map(|(key, why)| (key, why.to_string())).collect();
        Status {
            member: cx.id.member.clone(),
            state: self.state(),
            lease: self.lease_status(),
            writable_until,
            staleness: view.staleness(cx.now),
            last_read: view.last_read(),
            incarnation: view.incarnation().cloned(),
            not_obeyed: view.disobeyed().map(ToString::to_string),
            invalid,
            system: cx.system(),
            database: cx.database.clone(),
            watchdog: cx.watchdog,
            members: self.members(),
            line: if view.paused().is_some() { Vec::new() } else { cx.line() },
            failover_timeout: cx.policy.failover_timeout(
                view.lease().map_or(cx.policy.lease_duration, |lease| lease.lease_duration),
            ),
            takeover_step: cx.policy.takeover_step,
            takeover: self.explain_takeover(),
            synchronous: SynchronousStatus {
                mode: cx.policy.synchronous,
                set: view
                    .lease()
                    .map_or_else(Vec::new, |it| it.synchronous.iter().cloned().collect()),
                requirement: cx.requirement().cloned(),
            },
            paused: cluster
                .and_then(|it| it.paused.clone())
                .filter(|it| it.holds(view.store_now())),
            pause_ends: self.until(cluster.and_then(|it| it.paused.as_ref()?.until)),
            order: cluster.and_then(|it| it.order.clone()),
            order_due: self.until(cluster.and_then(|it| it.order.as_ref()?.not_before)),
            answer: cluster.and_then(|it| it.answer.clone()),
            settings: cluster.map(|it| it.settings.clone()).unwrap_or_default(),
            timing: Timing::of(&cx.policy),
            alarms: cx.alarms().iter().copied().collect(),
            last_transition: self.last_transition.clone(),
            stale_completions: cx.stale_completions,
        }
    }

    /// How long it is until `then`, by the store's clock as last seen.
    fn until(&self, then: Option<StoreTime>) -> Option<Duration> {
        then?.since(self.shared.view.store_now()?)
    }

    fn lease_status(&self) -> Option<LeaseStatus> {
        let view = &self.shared.view;
        let lease = view.lease()?;
        Some(LeaseStatus {
            holder: lease.holder.clone(),
            epoch: lease.epoch,
            revision: view.lease_slot().revision()?,
            released: lease.released.is_some(),
            duration: lease.lease_duration,
        })
    }

    fn members(&self) -> Vec<MemberStatus> {
        let cx = &self.shared;
        let (lease, cluster) = (cx.view.lease(), cx.view.cluster());
        let drained =
            |member: &MemberId| cluster.is_some_and(|cluster| cluster.drained.contains(member));
        let mut members = Vec::new();
        if let Some(lease) = lease {
            let settings = cluster.and_then(|cluster| cluster.members.get(&lease.holder));
            members.push(MemberStatus {
                member: lease.holder.clone(),
                state: Some(lease.status),
                holder: lease.released.is_none(),
                database: lease.database,
                lag: 0,
                streaming: false,
                priority: settings.map_or(0, |settings| settings.priority),
                site: settings.and_then(|settings| settings.site.clone()),
                drained: drained(&lease.holder),
                ineligible: None,
                doubtful: None,
                age: cx.view.staleness(cx.now),
                address: lease.address.clone(),
            });
        }
        let line = cx.line();
        let in_line = |member: &MemberId| line.iter().any(|candidate| candidate.member == *member);
        let paused = cx.view.paused().map(|why| WhyNot::Paused(why.to_owned()).to_string());
        let silent_after = cx.policy.lease_duration + cx.longest_gap();
        for (member, heartbeat) in cx.view.heartbeats() {
            let removed = cluster.is_some_and(|it| it.has_removed(member, &heartbeat.boot));
            if removed || lease.is_some_and(|lease| lease.holder == *member) {
                continue;
            }
            let age = cx.view.heartbeat_age(member, cx.now);
            let silent = age.is_none_or(|age| age > silent_after);
            let why = || candidate::why_not(member, Some(heartbeat), cluster, silent);
            members.push(MemberStatus {
                member: member.clone(),
                state: Some(heartbeat.status),
                holder: false,
                database: heartbeat.database,
                lag: heartbeat.lag,
                streaming: heartbeat.streaming,
                priority: candidate::preference(member, heartbeat, cluster),
                site: heartbeat.site.clone(),
                drained: drained(member),
                ineligible: if in_line(member) { paused.clone() } else { why() },
                doubtful: heartbeat.doubtful.clone(),
                age,
                address: heartbeat.address.clone(),
            });
        }
        members.extend(unheard(cx, &members));
        members.sort_by(|a, b| a.member.cmp(&b.member));
        members
    }

    /// The decision's own function, asked by a person.
    fn explain_takeover(&self) -> String {
        let cx = &self.shared;
        if self.workflow().and_then(Workflow::held).is_some() {
            if let Some(why) = cx.view.paused() {
                return format!("nobody would take over: {}", WhyNot::Paused(why.to_owned()));
            }
            let heir = cx.line().into_iter().find(|candidate| candidate.member != cx.id.member);
            return match (heir, cx.view.lease()) {
                (Some(heir), Some(lease)) => format!(
                    "{} would take over, {} bytes behind",
                    heir.member,
                    lease.database.lsn.bytes_ahead_of(heir.lsn)
                ),
                (Some(heir), None) => format!("{} would take over", heir.member),
                (None, _) => "nobody could take over".to_owned(),
            };
        }
        match takeover(cx) {
            Takeover::NoLease => "there is no lease to take over".to_owned(),
            Takeover::No(why) => format!("not this member: {why}"),
            Takeover::At(at, Reason::HolderSilent) => format!(
                "this member, number {} in line, {} ms after now if nothing more is heard",
                cx.place_in_line() + 1,
                at.since(cx.now).as_millis()
            ),
            Takeover::At(at, reason) => {
                format!("this member, in {} ms: {reason}", at.since(cx.now).as_millis())
            }
        }
    }
}

/// Members that were admitted and of which the store shows nothing else: a founder that died, say.
fn unheard(cx: &Shared, shown: &[MemberStatus]) -> Vec<MemberStatus> {
    let Some(cluster) = cx.view.cluster() else { return Vec::new() };
    let reported = |member: &MemberId| cx.view.heartbeat_slot(member).is_some();
    let is_shown = |member: &MemberId| shown.iter().any(|it| it.member == *member);
    let unheard = cluster.members.iter().filter(|(it, _)| !is_shown(it) && !reported(it));
    unheard
        .map(|(member, settings)| MemberStatus {
            member: member.clone(),
            state: None,
            holder: false,
            database: Position::default(),
            lag: 0,
            streaming: false,
            priority: settings.priority,
            site: settings.site.clone(),
            drained: cluster.drained.contains(member),
            ineligible: candidate::why_not(member, None, Some(cluster), true),
            doubtful: None,
            age: None,
            address: settings.address.clone(),
        })
        .collect()
}
