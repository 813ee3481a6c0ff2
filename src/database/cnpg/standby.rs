//! Making the site a standby: following, and becoming one from a primary's data.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, External};
use super::mark::Fence;
use super::part::{Data, Turn, Want, stays_standby};
use super::promote::{asked, begun, data, watched};
use super::revive::revived;
use super::role::Demotion;
use super::streams::until_it_streams;
use super::us::Us;
use super::{Shared, fence, role};
use crate::core::event::{Done, Upstream};
use crate::core::token::Token;
use crate::database::server::control::{ClusterState, Control};
use crate::database::server::look::Seen;
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::wait::pause;

/// How often what is here is looked at.
const POLL: Duration = Duration::from_millis(100);

/// How often the mark of a standby is looked for while CloudNativePG is making one: between the mark and the
/// start of PostgreSQL, which then needs its port, are two answers of the API server.
const SIGNAL: Duration = Duration::from_millis(5);

/// How often the Cluster is asked.
const LOOK: Duration = Duration::from_millis(500);

/// For so long whoever is told to follow another instance waits for CloudNativePG to say that that one acts.
const PACE: Duration = Duration::from_secs(1);

/// How long a token may come after everything else.
const TOKEN: Duration = Duration::from_secs(10);

/// Has the standby follow `upstream`; without one, only waits until it is up.
pub(super) async fn follow(
    shared: &Arc<Shared>,
    upstream: Option<&Upstream>,
    cancel: &CancellationToken,
) -> Step<Done> {
    let turn = begun(shared, cancel)?;
    match data(shared).await? {
        Data::None => {
            return Err(Failure::Refused(
                "there is no data: CloudNativePG copies it, from the Cluster's manifest".to_owned(),
            ));
        }
        Data::Running => {
            return Err(Failure::Refused("it runs as a primary: fence it first".to_owned()));
        }
        Data::Primary if upstream.is_none() && shared.us.instance.is_none() => {
            let to = source(shared).await?;
            become_standby(shared, &to, cancel).await?;
            return Ok(Done::Done);
        }
        Data::Primary => {
            return Err(Failure::Refused(
                "it is a primary's data: rejoin, do not follow".to_owned(),
            ));
        }
        Data::Standby | Data::RunningStandby => {
            shared.part.wants_instead(Want::Open, Want::Held);
            if upstream.is_none() {
                left_alone(shared, turn, cancel).await?;
            }
        }
    }
    if let Some(upstream) = upstream {
        pointed(shared, upstream, cancel).await?;
        *shared.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(upstream.clone());
        shared.nudge.notify_one();
    }
    until_it_follows(shared, upstream, cancel).await?;
    if let Some(upstream) = upstream {
        paced(shared, upstream).await;
    }
    Ok(Done::Done)
}

/// Waits a little until CloudNativePG says that `upstream` acts: before that nobody believes that we follow it,
/// and we would be told to at once again.
async fn paced(shared: &Shared, upstream: &Upstream) {
    let end = Instant::now() + PACE;
    while Instant::now() < end {
        let waits = shared.last_read().is_some_and(|read| {
            let acting = read.cluster.status.current_primary.as_str();
            shared.us.is_beside(upstream, &read.cluster) && acting != upstream.member.as_str()
        });
        if !waits {
            return;
        }
        sleep(POLL).await;
        // What cannot be read now is looked at again, until the end.
        let _read = tokio::time::timeout_at(end, shared.read()).await;
    }
}

/// Nobody leads that it could follow, and it is to come up as the standby that it is: also where CloudNativePG was
/// told to promote it, and did not in time.
async fn left_alone(shared: &Arc<Shared>, turn: Turn, cancel: &CancellationToken) -> Step<()> {
    let read = shared.read().await;
    let cluster = read.map_err(|trouble| Failure::Refused(trouble.to_string()))?;
    if stays_standby(&cluster, &shared.us) {
        return Ok(());
    }
    match other_site(&cluster) {
        Some(to) => {
            let decide = |cluster: &Cluster| role::repointing(cluster, &shared.us, &to);
            shared.change(decide, cancel).await.map(|_| ())
        }
        None => {
            shared.part.stand_by(turn);
            Ok(())
        }
    }
}

/// The site that this one would follow, by its manifest.
fn other_site(cluster: &Cluster) -> Option<String> {
    let source = cluster.spec.replica.as_ref().map(|replica| replica.source.clone());
    source.filter(|source| !source.is_empty() && *source != cluster.site())
}

/// Has the site follow the one of `upstream`. Within a site CloudNativePG does that, and for another
/// instance whoever stands for the site.
async fn pointed(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    cancel: &CancellationToken,
) -> Step<()> {
    if shared.us.instance.is_some() {
        let read = shared.read().await;
        let cluster = read.map_err(|trouble| Failure::Refused(trouble.to_string()))?;
        if shared.us.is_beside(upstream, &cluster) || shared.us.deputy_of(&cluster).is_some() {
            return Ok(());
        }
    }
    let to = shared.us.site_of(upstream)?;
    shared.change(|cluster| role::repointing(cluster, &shared.us, &to), cancel).await.map(|_| ())
}

/// Makes a former primary a standby of `upstream`: by a demotion, when it ended cleanly.
pub(super) async fn rejoin(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    cancel: &CancellationToken,
) -> Step<Done> {
    if data(shared).await? != Data::Primary {
        follow(shared, Some(upstream), cancel).await?;
        until_it_streams(shared, upstream, cancel).await?;
        return Ok(Done::Rejoined { by: "start" });
    }
    if is_beside(shared, upstream).await? || acts_not(shared) {
        return rejoin_beside(shared, upstream, cancel).await;
    }
    // Whatever becomes of it, it must not come up as what it was: neither when we end. The annotation is for all
    // instances, and so only for a demotion that can be.
    let annotates = shared.us.instance.is_none();
    shared.part.wants(if annotates { Want::Fenced } else { Want::Shut });
    shared.nudge.notify_one();
    become_standby(shared, &shared.us.site_of(upstream)?, cancel).await?;
    *shared.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(upstream.clone());
    Ok(Done::Rejoined { by: "demotion" })
}

/// Makes the stopped primary a standby of `to`, with the token that proves it.
pub(super) async fn demote(
    shared: &Arc<Shared>,
    to: &Upstream,
    cancel: &CancellationToken,
) -> Step<Done> {
    if is_beside(shared, to).await? {
        // Whoever takes over has CloudNativePG make it the primary, and this one a standby.
        return Ok(Done::Demoted { token: None });
    }
    let token = become_standby(shared, &shared.us.site_of(to)?, cancel).await?;
    *shared.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(to.clone());
    Ok(Done::Demoted { token })
}

/// `upstream` is an instance of our own Cluster.
async fn is_beside(shared: &Shared, upstream: &Upstream) -> Step<bool> {
    if shared.us.instance.is_none() {
        return Ok(false);
    }
    let read = shared.read().await;
    let cluster = read.map_err(|trouble| Failure::Refused(trouble.to_string()))?;
    Ok(shared.us.is_beside(upstream, &cluster))
}

/// Another instance acts for the site: this one becomes a standby of that, whatever the site follows.
fn acts_not(shared: &Shared) -> bool {
    shared.last_read().is_some_and(|read| shared.us.is_passed_over(&read.cluster))
}

/// CloudNativePG rewinds a former primary when another instance acts, and brings it up as its standby.
async fn rejoin_beside(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    cancel: &CancellationToken,
) -> Step<Done> {
    shared.part.wants(Want::Shut);
    *shared.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(upstream.clone());
    let mut named = false;
    loop {
        // It needs its port as soon as it is a standby's.
        if signalled(shared).await? && kept(shared).await?.is_standby() {
            break;
        }
        if shared.last_read().is_none_or(|read| read.at.elapsed() >= LOOK)
            && let Ok(cluster) = shared.read().await
            && let Some(own) = &shared.us.instance
            && shared.us.is_passed_over(&cluster)
            && shared.part.holds()
            // Its manager ended without giving it back, and the next primary would wait for its end.
            && let Err(trouble) = shared.api.pass_lease(own, &cluster.status.target_primary).await
            && !named
        {
            named = true;
            tracing::warn!(%trouble, "CloudNativePG's lease is not passed on: its end is waited for");
        }
        pause(SIGNAL, cancel).await?;
    }
    until_it_follows(shared, Some(upstream), cancel).await?;
    until_it_streams(shared, upstream, cancel).await?;
    Ok(Done::Rejoined { by: "rewind" })
}

async fn source(shared: &Shared) -> Step<String> {
    let read = shared.read().await;
    let cluster = read.map_err(|trouble| Failure::Refused(trouble.to_string()))?;
    other_site(&cluster).ok_or_else(|| {
        Failure::Refused("spec.replica.source names no other site: nobody to follow".to_owned())
    })
}

async fn become_standby(
    shared: &Arc<Shared>,
    to: &str,
    cancel: &CancellationToken,
) -> Step<Option<Token>> {
    if acts_not(shared) {
        return Err(Failure::Refused(
            "another instance acts for the site: only the agent beside that one demotes it"
                .to_owned(),
        ));
    }
    let end = ended_cleanly(shared, cancel).await?;
    // From here on only a standby's data opens it.
    shared.part.wants(Want::Fenced);
    fenced(shared, cancel).await?;
    // Held all the while: an instance manager that reads of the fence late would bring up the primary.
    kept(shared).await?;
    shared.change(|cluster| role::demotion(cluster, &shared.us, to), cancel).await?;
    let mut since = None;
    let mut looked = None;
    let mut standby = false;
    loop {
        pause(if standby { POLL } else { SIGNAL }, cancel).await?;
        // It is to come up in a moment, and then nothing must be in its way.
        standby = signalled(shared).await? && kept(shared).await?.is_standby();
        if looked.is_some_and(|looked: Instant| looked.elapsed() < LOOK) {
            continue;
        }
        looked = Some(Instant::now());
        let Ok(cluster) = shared.read().await else { continue };
        match role::demoted(&cluster, to, standby, &end)? {
            Demotion::Underway(what) => tracing::debug!(what, "demotion"),
            Demotion::Proven(token) => return Ok(Some(*token)),
            Demotion::Unproven => {
                let since = since.get_or_insert_with(Instant::now);
                if since.elapsed() >= TOKEN {
                    tracing::warn!("it is a standby, but CloudNativePG gave no token for it");
                    return Ok(None);
                }
            }
        }
    }
}

/// It is marked as a standby.
async fn signalled(shared: &Arc<Shared>) -> Step<bool> {
    let looked = Arc::clone(shared);
    blocking(move || Ok(looked.part.has_standby_signal())).await
}

/// Holds the port or gives it back, as it has to be now; what is here.
async fn kept(shared: &Arc<Shared>) -> Step<Data> {
    let part = Arc::clone(shared);
    let cluster = shared.last_read().map(|read| read.cluster);
    blocking(move || Ok(part.part.keep(cluster.as_deref()))).await
}

/// The end of the log of a primary that is down and ended cleanly.
async fn ended_cleanly(shared: &Arc<Shared>, cancel: &CancellationToken) -> Step<Control> {
    let refused = |why: &str| Err(Failure::Refused(why.to_owned()));
    match data(shared).await? {
        Data::Primary => {}
        Data::None => return refused("there is no data"),
        Data::Running | Data::RunningStandby => return refused("it runs: fence it first"),
        Data::Standby => return refused("it is a standby's data already"),
    }
    let control = shared.server.control.read(&shared.server.place, cancel).await?;
    if control.state != ClusterState::ShutDown {
        return refused(
            "it did not end cleanly: CloudNativePG never finishes the demotion of such a primary, and what \
             it wrote last may be in no other site; build it anew (docs/cnpg, runbook \"rebuild a site\")",
        );
    }
    Ok(control)
}

/// Sees to it that the fence annotation is there: the instance manager has to run for a demotion, and
/// must not start what is to be demoted.
async fn fenced(shared: &Arc<Shared>, cancel: &CancellationToken) -> Step<()> {
    let began = Instant::now();
    loop {
        let asked = tokio::select! {
            asked = fence::request(shared) => asked,
            () = cancel.cancelled() => return Err(Failure::Refused("cancelled before it began".to_owned())),
        };
        asked?;
        if fence::is_in_place(shared, began) {
            return Ok(());
        }
        pause(POLL, cancel).await?;
    }
}

/// Waits until the standby answers, and its connection leads to `upstream`.
async fn until_it_follows(
    shared: &Arc<Shared>,
    upstream: Option<&Upstream>,
    cancel: &CancellationToken,
) -> Step<()> {
    let follows = async {
        loop {
            let cluster = shared.last_read().map(|read| read.cluster);
            if let Some(seen) = asked(shared).await
                && has_followed(&shared.us, cluster.as_deref(), upstream, &seen)?
            {
                return Ok(());
            }
            sleep(POLL).await;
        }
    };
    let healthy = |cluster: &Cluster| {
        if Fence::of(cluster, &shared.us).is_foreign && !cluster.is_switching() {
            return Err(Failure::Refused(
                "somebody else has fenced the instance (annotation cnpg.io/fencedInstances)"
                    .to_owned(),
            ));
        }
        Ok(())
    };
    tokio::select! {
        followed = follows => followed,
        failure = watched(shared, healthy) => Err(failure),
        failure = revived(shared) => Err(failure),
        () = cancel.cancelled() => Err(Failure::Cancelled),
    }
}

/// What a standby that answers has come to: it follows, not yet, or it is none.
pub(super) fn has_followed(
    us: &Us,
    cluster: Option<&Cluster>,
    upstream: Option<&Upstream>,
    seen: &Seen,
) -> Step<bool> {
    if !seen.in_recovery {
        return Err(Failure::Refused("it runs as a primary: fence it first".to_owned()));
    }
    Ok(leads_to(us, cluster, upstream, seen.upstream.as_ref()))
}

/// The connection the standby has is that of the entry for `upstream`, as far as that says.
fn leads_to(
    us: &Us,
    cluster: Option<&Cluster>,
    upstream: Option<&Upstream>,
    connected: Option<&(String, u16)>,
) -> bool {
    let Some(upstream) = upstream else { return true };
    let inside =
        |cluster: &Cluster| us.is_beside(upstream, cluster) || us.deputy_of(cluster).is_some();
    if cluster.is_some_and(inside) {
        // By a name of CloudNativePG's own.
        return connected.is_some();
    }
    let site = us.site_of(upstream).ok();
    let entry = cluster.zip(site).and_then(|(cluster, site)| cluster.external(&site));
    let place = entry.and_then(External::place);
    place.is_none_or(|place| connected == Some(&place))
}
