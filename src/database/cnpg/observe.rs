//! Looking at the site: only at what is here. The Cluster, as last read, adds whom a standby follows.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::cluster::External;
use super::hindrance;
use super::mark;
use super::part::Want;
use super::role;
use crate::core::event::{Condition, Observation, Process, Upstream};
use crate::database::server::control::ClusterState;
use crate::database::server::observe;

/// How long CloudNativePG may take to bring up again a primary that it stopped in an orderly way: after
/// a promotion it restarts it for `archive_mode`, and for settings at any time.
const RESTART: Duration = Duration::from_secs(30);

/// How old what the API server said may be when PostgreSQL has ended, and how long it may take to say it anew.
const REREAD: Duration = Duration::from_millis(200);

/// How often the next postmaster is looked for.
const POLL: Duration = Duration::from_millis(100);

/// Looks once, within `limit`.
pub(super) async fn observe(shared: &Arc<Shared>, limit: Duration) -> Observation {
    let end = Instant::now() + limit;
    let mut seen = observe::observe(&shared.server, limit).await;
    match seen.process {
        // What ended while it recovered is started as a primary all the same, without that mark.
        Process::StoppedStandby if !shared.part.has_standby_signal() => {
            seen.process = Process::StoppedPrimary;
        }
        Process::RunningPrimary | Process::RunningStandby => shared.restarts(None),
        Process::Absent
        | Process::Unusable
        | Process::StoppedStandby
        | Process::StoppedPrimary
        | Process::Running
        | Process::Remnants => {}
    }
    // A server that has only just been started has not said so in its file: its process looks like a remnant.
    let may_be_coming = matches!(seen.process, Process::StoppedPrimary | Process::Remnants);
    if may_be_coming && tokio::time::timeout_at(end, is_restarting(shared)).await.unwrap_or(false) {
        (seen.process, seen.condition) = (Process::Running, Condition::Starting);
    }
    match followed(shared, &seen) {
        Followed::Unknown => {}
        Followed::Told(upstream) => {
            seen.upstream = Some((upstream.address.host, upstream.address.port));
        }
        Followed::Otherwise => seen.upstream = None,
    }
    let read = shared.last_read();
    let is_standby = seen.process == Process::RunningStandby;
    seen.deputy_of = read.and_then(|read| {
        let cluster = &read.cluster;
        let acting =
            if is_standby { shared.us.deputy_of(cluster) } else { shared.us.acting(cluster) };
        acting.map(str::to_owned)
    });
    seen.hindered = hindrance::of(shared);
    seen.doubtful = shared.hindrance.doubt();
    seen
}

/// Resolves when the server ended, and not to be restarted where it is.
pub(super) async fn died(shared: &Arc<Shared>) {
    loop {
        shared.server.died().await;
        while is_restarting(shared).await {
            if shared.server.running_postmaster().is_some() {
                break;
            }
            sleep(POLL).await;
        }
        if shared.server.running_postmaster().is_none() {
            return;
        }
    }
}

/// It was meant to be up, ended in an orderly way a moment ago, and nobody has fenced or hibernated it:
/// CloudNativePG is restarting it.
async fn is_restarting(shared: &Arc<Shared>) -> bool {
    let stays_down = || {
        let read = shared.last_read();
        read.is_some_and(|read| {
            mark::covers(&read.cluster, &shared.us) || read.cluster.is_hibernated()
        })
    };
    if !matches!(shared.part.want(), Want::Open | Want::Free) || stays_down() {
        return false;
    }
    if shared.us.instance.is_some() && has_another(shared).await {
        return false;
    }
    let began = *shared.restarting.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(began) = began {
        return began.elapsed() < RESTART;
    }
    let server = &shared.server;
    let control = server.control.read(&server.place, &CancellationToken::new()).await;
    let clean = control.is_ok_and(|control| control.state == ClusterState::ShutDown);
    if clean {
        shared.restarts(Some(Instant::now()));
    }
    clean
}

/// CloudNativePG has another instance act, as it says now.
async fn has_another(shared: &Shared) -> bool {
    if shared.last_read().is_none_or(|read| read.at.elapsed() > REREAD) {
        let _silent = tokio::time::timeout(REREAD, shared.read()).await;
    }
    shared.last_read().is_some_and(|read| shared.us.is_passed_over(&read.cluster))
}

/// Whom a standby follows.
enum Followed {
    /// Whom we were told to.
    Told(Upstream),
    /// What the site is to be by its Cluster is no standby of that one: somebody changed it.
    Otherwise,
    /// As far as its connection says.
    Unknown,
}

/// Whom the standby follows, in the core's words: its own say where CloudNativePG's entry for that site
/// leads, which may be called otherwise here.
fn followed(shared: &Shared, seen: &Observation) -> Followed {
    let told = shared.followed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (Some(connected), Some(told), Some(read)) = (&seen.upstream, told, shared.last_read())
    else {
        return Followed::Unknown;
    };
    let cluster = &read.cluster;
    if shared.us.is_beside(&told, cluster) {
        // CloudNativePG has every other instance follow the one that acts.
        let acts = cluster.status.current_primary == told.member.as_str();
        return if acts { Followed::Told(told) } else { Followed::Unknown };
    }
    let Ok(site) = shared.us.site_of(&told) else { return Followed::Unknown };
    if !role::follows(cluster, &site) {
        let is_ours = shared.us.speaks_for(cluster) && shared.part.want() != Want::Open;
        return if is_ours { Followed::Otherwise } else { Followed::Unknown };
    }
    let place = cluster.external(&site).and_then(External::place);
    // Another instance of a replica site follows by a name of CloudNativePG's own.
    let led = place
        .as_ref()
        .is_some_and(|place| place == connected || shared.us.deputy_of(cluster).is_some());
    if led { Followed::Told(told) } else { Followed::Unknown }
}
