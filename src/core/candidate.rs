//! Who takes over (`docs/protocol.md`, section 7): one pure function, used by the decision itself and
//! by everybody who asks what would happen.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use super::event::{Condition, Observation, Process, State};
use super::ids::{BootId, InstanceId, Lsn, MemberId, Site, TimelineId};
use super::records::{ClusterState, Heartbeat, Lease};
use super::time::Instant;
use super::view::View;

/// Why a member would not take over now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WhyNot {
    /// Its priority is 0.
    NeverPromote,
    /// A person wants it not to.
    Drained(MemberId),
    /// A person took it out of the cluster.
    Removed(MemberId),
    /// Automatic transitions are paused.
    Paused(String),
    /// Its promotion failed a short while ago.
    CoolingDown,
    /// Its database was not seen yet.
    DatabaseUnseen,
    /// Its database is not a running standby.
    NotStandby(Process),
    /// Another instance of its site stands for that.
    Deputy(String),
    /// A promotion of it would fail, as its adapter knows.
    Hindered(String),
    /// Its database does not answer well.
    Unwell(Condition),
    /// It is on an older timeline.
    TimelineBehind {
        /// Its timeline.
        own: TimelineId,
        /// The cluster's.
        cluster: TimelineId,
    },
    /// It is further behind than allowed.
    LagsBehind {
        /// Bytes behind.
        bytes: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The primary has not admitted it to the cluster.
    NotAdmitted,
    /// An agent of its name with another state directory is admitted, and it is not.
    OtherAdmitted {
        /// The instance id that is admitted.
        instance: InstanceId,
    },
    /// A commit may be acknowledged that it does not have.
    NotSynchronous,
    /// It holds data of another cluster.
    ForeignData,
    /// The watchdog is required and not there.
    NoWatchdog,
    /// It has not heard from the store lately.
    StoreUnseen,
    /// There is a description of the cluster that cannot be read, or what was read is older than what
    /// the holder knew.
    ClusterUnreadable,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverPromote => f.write_str("priority is 0: never promoted"),
            Self::Drained(member) => write!(
                f,
                "drained; `harmony-agent member drain {member} --off` lets it take over again"
            ),
            Self::Removed(member) => write!(
                f,
                "removed from the cluster; when the agent of {member} is started anew it joins again"
            ),
            Self::Paused(why) => write!(f, "automatic transitions are paused: {why}"),
            Self::CoolingDown => f.write_str("cooling down after a failed promotion"),
            Self::DatabaseUnseen => f.write_str("database not seen yet"),
            Self::NotStandby(process) => {
                write!(f, "database is not a running standby: {process:?}")
            }
            Self::Deputy(acting) => {
                write!(f, "{acting} stands for its site; it takes over if anybody there does")
            }
            Self::Hindered(why) => write!(f, "it could not be promoted: {why}"),
            Self::Unwell(condition) => write!(f, "database unwell: {condition:?}"),
            Self::TimelineBehind { own, cluster } => {
                write!(f, "on timeline {own}, the cluster is on {cluster}")
            }
            Self::LagsBehind { bytes, allowed } => {
                write!(f, "{bytes} bytes behind, allowed are {allowed}")
            }
            Self::NotAdmitted => f.write_str("not admitted to the cluster by the primary yet"),
            Self::OtherAdmitted { instance } => write!(
                f,
                "not admitted to the cluster by the primary yet: of this name, instance {instance} is; \
                 if that was this member's lost state directory, see the runbook name_taken"
            ),
            Self::NotSynchronous => f.write_str("not a member of the synchronous set"),
            Self::ForeignData => f.write_str("holds data of another cluster"),
            Self::NoWatchdog => f.write_str("watchdog required and not there"),
            Self::StoreUnseen => f.write_str("no fresh read of the store"),
            Self::ClusterUnreadable => {
                f.write_str("cluster_state cannot be read, or is older than the lease")
            }
        }
    }
}

/// What a member knows of itself when it asks whether it could take over.
#[derive(Clone, Copy, Debug)]
pub struct Fitness<'a> {
    /// This member.
    pub me: &'a MemberId,
    /// This start of its agent.
    pub boot: &'a BootId,
    /// Its state directory.
    pub instance: &'a InstanceId,
    /// Its database as last seen.
    pub database: Option<&'a Observation>,
    /// Its preference; 0 is never.
    pub priority: u8,
    /// Largest lag allowed, in bytes.
    pub maximum_lag: u64,
    /// A promotion failed lately.
    pub cooling_down: bool,
    /// A watchdog is required and missing.
    pub watchdog_missing: bool,
    /// Why automatic transitions are paused, when they are.
    pub paused: Option<&'a str>,
    /// A person wants this member, whether or not what it lacks is lost.
    pub ordered: Option<Wanted>,
}

/// How much a person wants a member to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// If it lacks nothing that is known of.
    WithoutLoss,
    /// Whatever it lacks.
    AtAnyLoss,
}

/// Bytes a standby at `own` is behind the last position known of the primary.
pub fn lag(lease: &Lease, own: Lsn) -> u64 {
    let released = lease.released.as_ref().and_then(|release| release.lsn);
    released.unwrap_or(lease.database.lsn).max(lease.database.lsn).bytes_ahead_of(own)
}

/// Whether a member could take over from the holder of `lease`.
pub fn eligible(
    fitness: &Fitness<'_>,
    lease: &Lease,
    cluster: Option<&ClusterState>,
) -> Result<(), WhyNot> {
    if fitness.priority == 0 {
        return Err(WhyNot::NeverPromote);
    }
    if let Some(cluster) = cluster {
        kept_out(fitness, cluster)?;
    }
    if let Some(why) = fitness.paused.filter(|_| fitness.ordered.is_none()) {
        return Err(WhyNot::Paused(why.to_owned()));
    }
    if fitness.cooling_down {
        return Err(WhyNot::CoolingDown);
    }
    if fitness.watchdog_missing {
        return Err(WhyNot::NoWatchdog);
    }
    let database = fitness.database.ok_or(WhyNot::DatabaseUnseen)?;
    sound(database)?;
    let system = cluster.and_then(|cluster| cluster.system).or(lease.database.system);
    if system.is_some() && database.system != system {
        return Err(WhyNot::ForeignData);
    }
    // The holder asks those it admitted for promises, and nobody else.
    if let Some(cluster) = cluster {
        admitted(fitness, cluster)?;
    }
    let synchronous = &lease.synchronous;
    let at_any_loss = fitness.ordered == Some(Wanted::AtAnyLoss);
    // Whoever acknowledged the commits has them, as long as nobody else could have taken over.
    let own = lease.released.is_none()
        && lease.holder == *fitness.me
        && lease.instance == *fitness.instance;
    if !synchronous.is_empty() && !synchronous.contains(fitness.me) && !own && !at_any_loss {
        return Err(WhyNot::NotSynchronous);
    }
    let allowed = match fitness.ordered {
        // It has every acknowledged commit: what it lacks nobody was told of.
        None if synchronous.contains(fitness.me) => u64::MAX,
        None => fitness.maximum_lag,
        Some(Wanted::WithoutLoss) => 0,
        Some(Wanted::AtAnyLoss) => u64::MAX,
    };
    not_behind(database, allowed, lease, cluster)
}

fn kept_out(fitness: &Fitness<'_>, cluster: &ClusterState) -> Result<(), WhyNot> {
    if cluster.has_removed(fitness.me, fitness.boot) {
        return Err(WhyNot::Removed(fitness.me.clone()));
    }
    if cluster.drained.contains(fitness.me) {
        return Err(WhyNot::Drained(fitness.me.clone()));
    }
    Ok(())
}

fn admitted(fitness: &Fitness<'_>, cluster: &ClusterState) -> Result<(), WhyNot> {
    match cluster.members.get(fitness.me) {
        None => Err(WhyNot::NotAdmitted),
        Some(it) if it.instance == *fitness.instance => Ok(()),
        Some(it) => Err(WhyNot::OtherAdmitted { instance: it.instance.clone() }),
    }
}

fn sound(database: &Observation) -> Result<(), WhyNot> {
    if database.process != Process::RunningStandby {
        return Err(WhyNot::NotStandby(database.process));
    }
    if let Some(acting) = &database.deputy_of {
        return Err(WhyNot::Deputy(acting.clone()));
    }
    if let Some(why) = &database.hindered {
        return Err(WhyNot::Hindered(why.clone()));
    }
    match &database.condition {
        Condition::Ok | Condition::Slow => Ok(()),
        unwell @ (Condition::Stopped
        | Condition::Starting
        | Condition::Stopping
        | Condition::Hung(_)
        | Condition::DiskFull(_)
        | Condition::ConnectionsExhausted
        | Condition::Denied(_)
        | Condition::Broken(_)) => Err(WhyNot::Unwell(unwell.clone())),
    }
}

fn not_behind(
    database: &Observation,
    allowed: u64,
    lease: &Lease,
    cluster: Option<&ClusterState>,
) -> Result<(), WhyNot> {
    let known = cluster.map_or(TimelineId(0), |cluster| cluster.timeline);
    let newest = known.max(lease.database.timeline);
    if database.timeline < newest {
        return Err(WhyNot::TimelineBehind { own: database.timeline, cluster: newest });
    }
    let bytes = lag(lease, database.lsn);
    if bytes > allowed {
        return Err(WhyNot::LagsBehind { bytes, allowed });
    }
    Ok(())
}

/// A member that says of itself that it would take over, best first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The member.
    pub member: MemberId,
    /// Its timeline, as published.
    pub timeline: TimelineId,
    /// What it has of the log, as published.
    pub lsn: Lsn,
    /// Its preference.
    pub priority: u8,
    /// It is in the synchronous set.
    pub synchronous: bool,
    /// It stands where the lease's holder does.
    pub near: bool,
}

/// The member as a candidate by its own word, if that says that it would take over and no person wants
/// it not to.
pub fn candidate(
    member: &MemberId,
    heartbeat: &Heartbeat,
    lease: Option<&Lease>,
    cluster: Option<&ClusterState>,
) -> Option<Candidate> {
    let holds = lease.is_some_and(|it| it.released.is_none() && it.holder == *member);
    let kept_out = cluster.is_some_and(|cluster| {
        cluster.drained.contains(member) || cluster.has_removed(member, &heartbeat.boot)
    });
    let willing = !is_never_promoted(member, cluster) && heartbeat.ineligible.is_none();
    let ready = heartbeat.status == State::ReplicaWatching && willing;
    let near = heartbeat.site.as_ref().is_some_and(|own| site(lease, cluster) == Some(own));
    (ready && !holds && !kept_out).then(|| Candidate {
        member: member.clone(),
        timeline: heartbeat.database.timeline,
        lsn: heartbeat.database.lsn,
        priority: preference(member, heartbeat, cluster),
        synchronous: lease.is_some_and(|lease| lease.synchronous.contains(member)),
        near,
    })
}

/// A member's preference. What a person set for it counts from then on, before it has read of it itself.
pub fn preference(member: &MemberId, heartbeat: &Heartbeat, cluster: Option<&ClusterState>) -> u8 {
    preference_set(member, cluster).unwrap_or(heartbeat.priority)
}

/// A person has set that the member never takes over.
pub fn is_never_promoted(member: &MemberId, cluster: Option<&ClusterState>) -> bool {
    preference_set(member, cluster) == Some(0)
}

fn preference_set(member: &MemberId, cluster: Option<&ClusterState>) -> Option<u8> {
    cluster?.settings.priorities.get(member).copied()
}

/// Why a member that is not the primary would not take over, by what the store shows of it; `None` when it
/// would. What a person wants, and its silence, come before its own word: that may be of long ago.
pub fn why_not(
    member: &MemberId,
    heartbeat: Option<&Heartbeat>,
    cluster: Option<&ClusterState>,
    silent: bool,
) -> Option<String> {
    let Some(heartbeat) = heartbeat else { return Some("has not reported".to_owned()) };
    if cluster.is_some_and(|cluster| cluster.drained.contains(member)) {
        return Some(WhyNot::Drained(member.clone()).to_string());
    }
    if is_never_promoted(member, cluster) {
        return Some(WhyNot::NeverPromote.to_string());
    }
    if silent {
        return Some("silent; see to its agent".to_owned());
    }
    match cluster.and_then(|cluster| cluster.members.get(member)) {
        None => return Some(WhyNot::NotAdmitted.to_string()),
        Some(it) if it.instance != heartbeat.instance => {
            return Some(WhyNot::OtherAdmitted { instance: it.instance.clone() }.to_string());
        }
        Some(_) => {}
    }
    let watching = heartbeat.status == State::ReplicaWatching;
    let state = (!watching).then(|| format!("it is {}", heartbeat.status));
    heartbeat.ineligible.clone().or(state)
}

/// Where the lease's holder stands, or stood.
fn site<'a>(lease: Option<&Lease>, cluster: Option<&'a ClusterState>) -> Option<&'a Site> {
    cluster?.members.get(&lease?.holder)?.site.as_ref()
}

/// Puts candidates in order, the best first.
pub fn sort(line: &mut [Candidate]) {
    line.sort_by_key(|it| {
        let order = (it.synchronous, it.timeline, it.lsn, it.priority, it.near);
        (Reverse(order), it.member.clone())
    });
}

/// Members that would take over, in order: synchronous set, timeline, LSN, priority, the holder's site,
/// name.
///
/// Everybody computes it from the same published heartbeats; one that has not changed for
/// `silent_after` does not count, because its member may be gone.
pub fn line(view: &View, now: Instant, silent_after: Duration) -> Vec<Candidate> {
    let (lease, cluster) = (view.lease(), view.cluster());
    let alive =
        |member: &MemberId| view.heartbeat_age(member, now).is_some_and(|age| age <= silent_after);
    let mut line: Vec<Candidate> = view
        .heartbeats()
        .filter(|(member, _)| alive(member))
        .filter_map(|(member, heartbeat)| candidate(member, heartbeat, lease, cluster))
        .collect();
    sort(&mut line);
    line
}
