//! What a person may change about the members in `cluster_state` (`docs/protocol.md`, section 7): pure, on
//! what was read, to be written by one compare-and-set.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::candidate::{self, Candidate};
use super::ids::MemberId;
use super::order::{Order, Wish};
use super::policy::Policy;
use super::records::{ClusterState, Heartbeat, Lease, Slot, Snapshot};

/// Why a change of the members is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such member.
    Unknown {
        /// The one asked for.
        member: MemberId,
        /// Those there are.
        known: Vec<MemberId>,
    },
    /// It holds the lease, or held it last.
    Primary(MemberId),
    /// Its agent runs.
    Running {
        /// The member.
        member: MemberId,
        /// How long ago it reported, by the store's clock.
        age: Duration,
        /// From when on it would count as silent.
        silent_after: Duration,
    },
    /// The lease names it as having every acknowledged commit, and no other that is there does.
    Named(MemberId),
    /// Nobody could take over from the primary that is to be drained.
    NobodyElse(MemberId),
    /// The primary is to be drained, and would not hand over.
    Paused(String),
    /// Another change of primary was asked for already.
    OrderOpen(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { member, known } => {
                let known: Vec<&str> = known.iter().map(MemberId::as_str).collect();
                write!(f, "there is no member {member}; those there are: {}", known.join(", "))
            }
            Self::Primary(member) => write!(
                f,
                "{member} is the primary, or was it last; make another member the primary first, \
                 with `harmony-agent switchover`, or `failover` when it is gone"
            ),
            Self::Running { member, age, silent_after } => write!(
                f,
                "the agent of {member} reported {:.1} s ago, so it runs and would join again; stop it, \
                 and try again when it has been silent for {:.1} s",
                age.as_secs_f64(),
                silent_after.as_secs_f64()
            ),
            Self::Named(member) => write!(
                f,
                "{member} is the only one besides the primary that has every acknowledged commit; without \
                 it nobody could take over. Bring another standby up first, so that the primary names that one; if the \
                 primary is gone, too, `harmony-agent failover --accept-loss` says that the commits are given up"
            ),
            Self::NobodyElse(member) => write!(
                f,
                "{member} is the primary, and nobody could take over from it; \
                 `harmony-agent member list` says why"
            ),
            Self::Paused(why) => write!(
                f,
                "the primary would not hand over, transitions are paused: {why}; \
                 `harmony-agent resume` first"
            ),
            Self::OrderOpen(by) => write!(
                f,
                "another change of primary is open, asked for by {by}; \
                 `harmony-agent switchover --cancel` withdraws it"
            ),
        }
    }
}

/// From when on a member that has not reported counts as silent, by what the lease says and these
/// settings.
pub fn silent_after(snapshot: &Snapshot, policy: &Policy) -> Duration {
    let published = snapshot.lease.record().map(|lease| lease.lease_duration);
    let duration = published.map_or(policy.lease_duration, |it| it.max(policy.lease_duration));
    duration + policy.heartbeat_interval * 2 + policy.heartbeat_timeout
}

/// Everybody who is admitted, or reports and was not taken out.
pub fn known(snapshot: &Snapshot, cluster: &ClusterState) -> Vec<MemberId> {
    let reports = |(member, slot): (&MemberId, &Slot<Heartbeat>)| {
        let heartbeat = slot.record()?;
        (!cluster.has_removed(member, &heartbeat.boot)).then(|| member.clone())
    };
    let reporting = snapshot.heartbeats.iter().filter_map(reports);
    let mut known: Vec<MemberId> = cluster.members.keys().cloned().chain(reporting).collect();
    known.sort();
    known.dedup();
    known
}

fn holds(snapshot: &Snapshot, cluster: &ClusterState, member: &MemberId) -> bool {
    snapshot.lease.record().map_or(&cluster.primary, |lease| &lease.holder) == member
}

fn must_be_known(
    snapshot: &Snapshot,
    cluster: &ClusterState,
    member: &MemberId,
) -> Result<(), Refused> {
    let known = known(snapshot, cluster);
    if known.contains(member) {
        return Ok(());
    }
    Err(Refused::Unknown { member: member.clone(), known })
}

/// `cluster` without `member`, whose agent does not run any more.
///
/// # Errors
/// It is the primary, runs, is the only one that has every acknowledged commit, or is nobody.
pub fn remove(
    snapshot: &Snapshot,
    mut cluster: ClusterState,
    member: &MemberId,
    silent_after: Duration,
) -> Result<ClusterState, Refused> {
    must_be_known(snapshot, &cluster, member)?;
    if holds(snapshot, &cluster, member) || cluster.primary == *member {
        return Err(Refused::Primary(member.clone()));
    }
    let slot = snapshot.heartbeats.get(member);
    if let Some(age) = slot.and_then(|slot| snapshot.age(slot)).filter(|age| *age <= silent_after) {
        return Err(Refused::Running { member: member.clone(), age, silent_after });
    }
    let named = snapshot.lease.record().map(|lease| &lease.synchronous);
    let named_alone = |named: &BTreeSet<MemberId>| {
        named.contains(member)
            && !named.iter().any(|it| it != member && cluster.members.contains_key(it))
    };
    if named.is_some_and(named_alone) {
        return Err(Refused::Named(member.clone()));
    }
    cluster.members.remove(member);
    cluster.drained.remove(member);
    cluster.settings.priorities.remove(member);
    if let Some(heartbeat) = slot.and_then(Slot::record) {
        cluster.removed.insert(member.clone(), heartbeat.boot.clone());
    }
    Ok(cluster)
}

/// `cluster` with `member` drained; `None` when it is so already. With a primary `order` goes along, to
/// whoever is the best candidate.
///
/// # Errors
/// It is nobody, or the primary and could not be replaced.
pub fn drain(
    snapshot: &Snapshot,
    mut cluster: ClusterState,
    member: &MemberId,
    order: &Order,
    policy: &Policy,
) -> Result<Option<ClusterState>, Refused> {
    must_be_known(snapshot, &cluster, member)?;
    let already = !cluster.drained.insert(member.clone());
    let lease = snapshot.lease.record().filter(|lease| lease.released.is_none());
    if let Some(lease) = lease.filter(|lease| lease.holder == *member) {
        if already && cluster.order.as_ref().is_some_and(|order| order.epoch == lease.epoch) {
            return Ok(None);
        }
        cluster.order = Some(replace(snapshot, &cluster, lease, order, policy)?);
        return Ok(Some(cluster));
    }
    Ok((!already).then_some(cluster))
}

/// The order that hands the lease to the best candidate.
fn replace(
    snapshot: &Snapshot,
    cluster: &ClusterState,
    lease: &Lease,
    order: &Order,
    policy: &Policy,
) -> Result<Order, Refused> {
    if let Some(pause) = cluster.paused.as_ref().filter(|it| it.holds(snapshot.newest_time())) {
        return Err(Refused::Paused(pause.reason.clone()));
    }
    if let Some(open) = cluster.order.as_ref().filter(|open| open.epoch == lease.epoch) {
        return Err(Refused::OrderOpen(open.by.clone()));
    }
    let line = candidates(snapshot, cluster, policy);
    let heartbeat = |member: &MemberId| snapshot.heartbeats.get(member).and_then(Slot::record);
    let doubtful = |it: &Candidate| heartbeat(&it.member).is_some_and(|it| it.doubtful.is_some());
    let best = line.iter().find(|it| !doubtful(it)).or(line.first());
    let best = best.ok_or_else(|| Refused::NobodyElse(lease.holder.clone()))?;
    let to = Some(best.member.clone());
    Ok(Order { wish: Wish::Switchover, epoch: lease.epoch, to, ..order.clone() })
}

/// Members that could be handed over to, the best first, by what the store shows.
pub fn candidates(snapshot: &Snapshot, cluster: &ClusterState, policy: &Policy) -> Vec<Candidate> {
    let (lease, silent_after) = (snapshot.lease.record(), silent_after(snapshot, policy));
    let fit = |(member, slot): (&MemberId, &Slot<Heartbeat>)| {
        let heartbeat = slot.record().filter(|it| it.streaming)?;
        let heard = snapshot.age(slot).is_some_and(|age| age <= silent_after);
        let near = heartbeat.lag <= policy.maximum_lag_on_failover;
        candidate::candidate(member, heartbeat, lease, Some(cluster)).filter(|_| heard && near)
    };
    let mut line: Vec<Candidate> = snapshot.heartbeats.iter().filter_map(fit).collect();
    candidate::sort(&mut line);
    line
}

/// `cluster` with `member` no longer drained; `None` when it is not.
///
/// # Errors
/// It is nobody.
pub fn undrain(
    snapshot: &Snapshot,
    mut cluster: ClusterState,
    member: &MemberId,
) -> Result<Option<ClusterState>, Refused> {
    if cluster.drained.remove(member) {
        return Ok(Some(cluster));
    }
    must_be_known(snapshot, &cluster, member)?;
    Ok(None)
}
