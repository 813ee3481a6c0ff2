//! Opening the site: as the primary it was, or by a promotion.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::mark::Fence;
use super::part::{Data, Turn, Want};
use super::us::Us;
use super::{Shared, role};
use crate::core::event::Done;
use crate::core::token::Token;
use crate::database::server::look::Seen;
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::timeline::began_at;
use crate::database::server::wait::ask;

/// How often the server is asked.
const POLL: Duration = Duration::from_millis(50);

/// How often the Cluster is asked meanwhile.
const LOOK: Duration = Duration::from_secs(1);

/// Limit of one question to the server.
const ANSWER: Duration = Duration::from_secs(2);

/// For so long CloudNativePG may still say of the Cluster what it said before.
const STALE: Duration = Duration::from_secs(5);

/// How long the promotion may be taken back.
const TAKE_BACK: Duration = Duration::from_secs(5);

/// Opens the site as the primary its data was. One that runs is left as it is, whoever answers.
pub(super) async fn start_primary(shared: &Arc<Shared>, cancel: &CancellationToken) -> Step<Done> {
    let turn = begun(shared, cancel)?;
    if asked(shared).await.is_some_and(|seen| !seen.in_recovery) {
        return if shared.part.open(turn) { Ok(Done::Done) } else { Err(fenced_meanwhile()) };
    }
    match data(shared).await? {
        Data::None => {
            return Err(Failure::Refused("there is no data directory to start".to_owned()));
        }
        Data::Standby | Data::RunningStandby => {
            return Err(Failure::Refused("it is a standby's data: promote it".to_owned()));
        }
        Data::Running | Data::Primary => {}
    }
    // Before it can come up: CloudNativePG may have meant another instance.
    appointed(shared, turn, |_| true, cancel).await?;
    opened(shared, turn, |cluster| role::opening(cluster, &shared.us), cancel).await?;
    let healthy = |cluster: &Cluster| not_fenced(cluster, &shared.us);
    until_writable(shared, healthy, cancel).await.map(|_| Done::Done)
}

/// What opens begins now, and opens nothing once somebody has fenced.
pub(super) fn begun(shared: &Shared, cancel: &CancellationToken) -> Step<Turn> {
    let turn = shared.part.turn();
    // Whoever fences cancels first: one of the two is seen, in this order.
    if cancel.is_cancelled() {
        return Err(Failure::Refused("cancelled before it began".to_owned()));
    }
    Ok(turn)
}

fn fenced_meanwhile() -> Failure {
    Failure::Refused("it was fenced meanwhile".to_owned())
}

/// Changes the Cluster so that PostgreSQL comes up writable. When that is refused, nothing is opened
/// here either.
async fn opened(
    shared: &Arc<Shared>,
    turn: Turn,
    mut decide: impl FnMut(&Cluster) -> role::Patch,
    cancel: &CancellationToken,
) -> Step<()> {
    let wanted = shared.part.want();
    let decide = |cluster: &Cluster| {
        let patch = decide(cluster)?;
        // Before the patch: it may come up as soon as that is there, and finds its port.
        if shared.part.open(turn) { Ok(patch) } else { Err(fenced_meanwhile()) }
    };
    match shared.change(decide, cancel).await {
        Ok(_) => {
            shared.server.role_changed.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(Failure::Refused(why)) => {
            shared.part.wants_instead(Want::Open, wanted);
            let part = Arc::clone(shared);
            let cluster = shared.last_read().map(|read| read.cluster);
            blocking(move || Ok(part.part.keep(cluster.as_deref()))).await?;
            Err(Failure::Refused(why))
        }
        Err(failure) => Err(failure),
    }
}

/// Promotes the running standby and waits until it accepts writes.
pub(super) async fn promote(
    shared: &Arc<Shared>,
    token: Option<&Token>,
    cancel: &CancellationToken,
) -> Step<Done> {
    let turn = begun(shared, cancel)?;
    let seen = tokio::select! {
        seen = asked(shared) => seen,
        () = cancel.cancelled() => {
            return Err(Failure::Refused("cancelled before the promotion".to_owned()));
        }
    };
    if let Some(token) = token {
        may_be_sent(token, seen.as_ref())?;
    }
    let was_up = seen.as_ref().is_some_and(|seen| !seen.in_recovery);
    let mut before = None;
    let decide = |cluster: &Cluster| {
        // Whoever is to act next counts as well: the patch would promote that one.
        let us = &shared.us;
        let next = cluster.is_replica() && us.is_passed_over(cluster);
        let next = next.then_some(cluster.status.target_primary.as_str());
        if let Some(acting) = us.deputy_of(cluster).or(next) {
            return Err(Failure::Refused(format!(
                "{acting} stands for the site, this instance does not"
            )));
        }
        let patch = role::promotion(cluster, &shared.us, token)?;
        before.get_or_insert_with(|| cluster.clone());
        let is_told = !was_up && !us.is_passed_over(cluster);
        Ok(patch.or_else(|| is_told.then(|| role::knock(cluster))))
    };
    // An instance that an agent beside us has fenced must not come up as what it was when that is lifted.
    let is_fenced = |cluster: &Cluster| Fence::of(cluster, &shared.us).is_of_another;
    appointed(shared, turn, is_fenced, cancel).await?;
    opened(shared, turn, decide, cancel).await?;
    appointed(shared, turn, |_| true, cancel).await?;
    let began = Instant::now();
    let stale = before.as_ref().and_then(Cluster::unrecoverable).map(str::to_owned);
    let healthy = |cluster: &Cluster| {
        not_fenced(cluster, &shared.us)?;
        let Some(why) = cluster.unrecoverable() else { return Ok(()) };
        let old = stale.as_deref() == Some(why) && began.elapsed() < STALE;
        let refused = || Failure::Refused(format!("CloudNativePG refuses the promotion: {why}"));
        if old { Ok(()) } else { Err(refused()) }
    };
    match until_writable(shared, healthy, cancel).await {
        Ok(seen) => Ok(promoted(shared, &seen)),
        Err(Failure::Refused(why)) => {
            take_back(shared, before.as_ref()).await;
            Err(Failure::Refused(why))
        }
        Err(failure) => Err(failure),
    }
}

/// A token goes with the data that are here; where they are open already it does no harm.
pub(super) fn may_be_sent(token: &Token, seen: Option<&Seen>) -> Step<()> {
    match seen {
        Some(seen) if seen.in_recovery => role::fits(token, seen.system, seen.timeline),
        Some(_) => Ok(()),
        None => {
            Err(Failure::Refused("the standby does not answer: its data is not known".to_owned()))
        }
    }
}

/// Where every instance is a member, CloudNativePG is told which one is to be the primary, if that is `due`.
async fn appointed(
    shared: &Shared,
    turn: Turn,
    due: impl Fn(&Cluster) -> bool,
    cancel: &CancellationToken,
) -> Step<()> {
    let Some(own) = &shared.us.instance else { return Ok(()) };
    let decide = |cluster: &Cluster| {
        if !shared.part.is_still(turn) {
            return Err(fenced_meanwhile());
        }
        role::may_change(cluster, &shared.us)?;
        if cluster.is_replica() || !shared.us.is_passed_over(cluster) || !due(cluster) {
            return Ok(false);
        }
        not_fenced(cluster, &shared.us)?;
        if !cluster.status.instance_names.contains(own) {
            return Err(Failure::Refused(format!(
                "CloudNativePG knows no instance {own} (status.instanceNames)"
            )));
        }
        Ok(true)
    };
    let asked = Instant::now();
    shared.api.appoint(own, decide, cancel).await.map(|cluster| {
        shared.note(cluster, asked);
    })
}

/// A promotion that CloudNativePG refused must not happen later, when somebody takes the token away.
async fn take_back(shared: &Shared, before: Option<&Cluster>) {
    let replica = before.and_then(|before| before.spec.replica.as_ref());
    let primary = replica.and_then(|replica| replica.primary.clone());
    let own = before.map_or("", Cluster::site);
    let Some(primary) = primary.filter(|primary| *primary != own) else { return };
    shared.part.wants_instead(Want::Open, Want::Held);
    let cancel = CancellationToken::new();
    let decide = |cluster: &Cluster| role::repointing(cluster, &shared.us, &primary);
    let taken = tokio::time::timeout(TAKE_BACK, shared.change(decide, &cancel)).await;
    if !matches!(taken, Ok(Ok(_))) {
        tracing::warn!("the refused promotion could not be taken back from the Cluster");
    }
}

fn promoted(shared: &Shared, seen: &Seen) -> Done {
    let lsn = began_at(&shared.server, seen.timeline).unwrap_or(seen.lsn);
    Done::Promoted { timeline: seen.timeline, lsn }
}

fn not_fenced(cluster: &Cluster, us: &Us) -> Step<()> {
    if Fence::of(cluster, us).is_foreign {
        return Err(Failure::Refused(
            "somebody else has fenced the instance (annotation cnpg.io/fencedInstances)".to_owned(),
        ));
    }
    Ok(())
}

/// Waits until the server accepts writes, for as long as `healthy` finds nothing against it.
async fn until_writable(
    shared: &Arc<Shared>,
    healthy: impl Fn(&Cluster) -> Step<()>,
    cancel: &CancellationToken,
) -> Step<Seen> {
    let writable = async {
        loop {
            if let Some(seen) = asked(shared).await.filter(|seen| !seen.in_recovery) {
                shared.server.role_changed.store(true, Ordering::Relaxed);
                return seen;
            }
            sleep(POLL).await;
        }
    };
    tokio::select! {
        seen = writable => Ok(seen),
        failure = watched(shared, healthy) => Err(failure),
        () = cancel.cancelled() => Err(Failure::Cancelled),
    }
}

/// Watches the Cluster until something is wrong with it. Its silence says nothing about the server.
pub(super) async fn watched(shared: &Shared, healthy: impl Fn(&Cluster) -> Step<()>) -> Failure {
    loop {
        sleep(LOOK).await;
        let Ok(cluster) = shared.read().await else { continue };
        if let Err(failure) = healthy(&cluster) {
            return failure;
        }
    }
}

/// What the server says of itself, if it says anything.
pub(super) async fn asked(shared: &Shared) -> Option<Seen> {
    let answer = tokio::time::timeout(ANSWER, ask(&shared.server)).await;
    answer.ok()?.ok().map(|(_, seen)| seen)
}

/// What is here now.
pub(super) async fn data(shared: &Arc<Shared>) -> Step<Data> {
    let look = Arc::clone(shared);
    blocking(move || Ok(look.part.data())).await
}
