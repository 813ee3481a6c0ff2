//! Making a former primary, or a standby that lost its way, follow again: start, else rewind, else copy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::clone::{copy, put_in_place};
use super::conf;
use super::follow::repoint;
use super::keep::keep;
use super::source::Source;
use super::start::launch_standby;
use crate::core::event::{Done, Ladder, Upstream};
use crate::core::ids::{Lsn, SystemId};
use crate::database::server::control::{ClusterState, Control};
use crate::database::server::fence::fence;
use crate::database::server::look::Seen;
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::process::Permit;
use crate::database::server::wait::{Found, ask, find, pause, wait_for_progress};

/// How long a standby may be up without streaming and without any progress.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// For stopping a standby between two rungs.
const STOP: Ladder = Ladder { fast: Duration::from_secs(10), immediate: Duration::from_secs(15) };

/// The rungs, least change first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    Start,
    Rewind,
    Clone,
}

impl Rung {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Rewind => "rewind",
            Self::Clone => "clone",
        }
    }
}

/// Makes the instance follow `upstream`, whatever it takes, but never by deleting anything.
pub(super) async fn rejoin(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    cancel: &CancellationToken,
) -> Step<Done> {
    let mut permit = shared.launcher.permit();
    let found = find(shared, cancel).await?;
    let source = Source::connect(&shared.place, upstream, cancel).await?;
    let rung = match found {
        Found::Absent => Some(Rung::Clone),
        Found::Stopped { control } => {
            same_data(control.system, &source)?;
            Some(first_rung(&control, &source))
        }
        Found::Running => running(shared, &mut permit, upstream, &source, cancel).await?,
    };
    let Some(mut rung) = rung else { return Ok(Done::Rejoined { by: Rung::Start.name() }) };
    loop {
        if rung != Rung::Start {
            keep(shared, &source, cancel).await?;
        }
        tracing::info!(rung = rung.name(), upstream = %upstream.member, "rejoining");
        match climb(shared, rung, &mut permit, upstream, &source, cancel).await {
            Ok(()) => return Ok(Done::Rejoined { by: rung.name() }),
            Err(Failure::Stuck(why)) if rung != Rung::Clone => {
                tracing::warn!(rung = rung.name(), why, "this way of rejoining failed");
                // Or is the upstream away? That is no reason to copy anything.
                Source::connect(&shared.place, upstream, cancel).await?;
                // It lacks what a rewind would have to start from, too.
                rung = Rung::Clone;
            }
            Err(Failure::Refused(why)) => {
                tracing::warn!(rung = rung.name(), why, "this way of rejoining failed");
                rung = match rung {
                    Rung::Start => Rung::Rewind,
                    Rung::Rewind => Rung::Clone,
                    Rung::Clone => return Err(Failure::Refused(why)),
                };
            }
            Err(failure) => return Err(failure),
        }
        if matches!(find(shared, cancel).await, Ok(Found::Running)) {
            permit = stop(shared, permit, cancel).await?;
        }
    }
}

/// Gives the running standby its upstream. `None` when it streams from there; else how to go on.
async fn running(
    shared: &Arc<Shared>,
    permit: &mut Permit,
    upstream: &Upstream,
    source: &Source,
    cancel: &CancellationToken,
) -> Step<Option<Rung>> {
    let next = match wait_for_progress(shared, cancel).await {
        Ok((_, seen)) if !seen.in_recovery => {
            return Err(Failure::Refused("it runs as a primary: fence it first".to_owned()));
        }
        Ok((asker, seen)) => {
            same_data(seen.system.unwrap_or(source.system), source)?;
            repoint(shared, &asker, &seen, Some(upstream), cancel).await?;
            if streams(shared, upstream, source, cancel).await? {
                return Ok(None);
            }
            Rung::Rewind
        }
        // It may only have asked the wrong upstream.
        Err(Failure::Stuck(_)) => Rung::Start,
        Err(failure) => return Err(failure),
    };
    *permit = stop(shared, *permit, cancel).await?;
    if next == Rung::Start {
        same_data(shared.control.read(&shared.place, cancel).await?.system, source)?;
    }
    Ok(Some(next))
}

fn same_data(ours: SystemId, source: &Source) -> Step<()> {
    if ours == source.system {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "the data here has system identifier {ours}, the upstream's {}: it is another cluster's, nothing was touched",
        source.system
    )))
}

/// Where to begin. Starting something that has diverged would only cost time: it would not stream.
fn first_rung(control: &Control, source: &Source) -> Rung {
    if control.timeline == source.timeline {
        return Rung::Start;
    }
    let left = source.history.iter().find(|(timeline, _)| *timeline == control.timeline);
    let Some(&(_, left)) = left else { return Rung::Rewind };
    let within = match control.state {
        // A record that begins before the fork ends before it too: the fork is at a record's end.
        ClusterState::ShutDown => control.checkpoint < left,
        // What it wrote after its last checkpoint is not known.
        ClusterState::Primary => false,
        ClusterState::ShutDownInRecovery | ClusterState::Recovery => control.minimum <= left,
    };
    if within { Rung::Start } else { Rung::Rewind }
}

async fn climb(
    shared: &Arc<Shared>,
    rung: Rung,
    permit: &mut Permit,
    upstream: &Upstream,
    source: &Source,
    cancel: &CancellationToken,
) -> Step<()> {
    match rung {
        Rung::Start => {}
        Rung::Rewind => rewind(shared, permit, upstream, source, cancel).await?,
        Rung::Clone => {
            let copy = copy(shared, upstream, cancel).await?;
            put_in_place(shared, copy).await?;
        }
    }
    shared.at("starting as a standby", None);
    launch_standby(shared, *permit, Some(upstream)).await?;
    wait_for_progress(shared, cancel).await?;
    if streams(shared, upstream, source, cancel).await? {
        return Ok(());
    }
    Err(Failure::Refused("it came up, but does not stream from its upstream".to_owned()))
}

/// Stops what is running and gives permission for the next start.
async fn stop(shared: &Arc<Shared>, permit: Permit, cancel: &CancellationToken) -> Step<Permit> {
    fence(shared, STOP, cancel).await?;
    shared.launcher.renew(permit)
}

/// Whether the running standby streams from `upstream` on its timeline, or on a later one. As long as
/// it gets anywhere it is waited for.
async fn streams(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    source: &Source,
    cancel: &CancellationToken,
) -> Step<bool> {
    let from = (upstream.address.host.clone(), upstream.address.port);
    let mut best = (Lsn(0), Lsn(0));
    let mut since = Instant::now();
    loop {
        let asked = tokio::select! {
            asked = ask(shared) => asked,
            () = cancel.cancelled() => return Err(Failure::Cancelled),
        };
        if let Ok((_, seen)) = asked {
            if seen.streaming
                && seen.timeline >= source.timeline
                && seen.upstream.as_ref() == Some(&from)
            {
                return Ok(true);
            }
            if has_diverged(&seen, source) {
                return Ok(false);
            }
            if (seen.lsn, seen.replayed) != best {
                best = (seen.lsn, seen.replayed);
                since = Instant::now();
            }
        }
        if since.elapsed() >= PATIENCE {
            return Ok(false);
        }
        pause(POLL, cancel).await?;
    }
}

/// It replayed what the upstream's history does not contain.
fn has_diverged(seen: &Seen, source: &Source) -> bool {
    let left = source.history.iter().find(|(timeline, _)| *timeline == seen.timeline);
    left.is_some_and(|&(_, left)| seen.replayed > left)
}

/// Takes back what the upstream does not have.
///
/// It happens under another name. So an interrupted rewind leaves no data directory, and nothing can
/// start it by mistake; and a `pg_rewind` that outlived a killed agent cannot write into a new one.
async fn rewind(
    shared: &Arc<Shared>,
    permit: &mut Permit,
    upstream: &Upstream,
    source: &Source,
    cancel: &CancellationToken,
) -> Step<()> {
    source.settled(cancel).await?;
    settle_standby(shared, permit, cancel).await?;
    let (files, from) = (Arc::clone(shared), upstream.clone());
    let (work, conninfo) = blocking(move || {
        let place = &files.place;
        let conninfo = conf::source(place, &from)?;
        // pg_rewind lets a crashed server recover on its own, which it would not as a standby.
        place.remove(&place.data_dir().join("standby.signal"))?;
        let work = place.fresh("rewind")?;
        place.rename(place.data_dir(), &work)?;
        Ok((work, conninfo))
    })
    .await?;
    let database = &shared.place.settings.database;
    shared.at("rewinding", None);
    let files = Arc::clone(shared);
    let done = shared
        .place
        .tool("pg_rewind")
        .arg("--target-pgdata")
        .arg(&work)
        .arg("--progress")
        .heard(move |words| files.said(words))
        .arg("--source-server")
        .arg(format!("{conninfo} dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'")))
        .succeed(cancel)
        .await;
    put_back(shared, work, done.is_ok(), upstream).await?;
    done.map(|_| ())
}

async fn put_back(
    shared: &Arc<Shared>,
    work: PathBuf,
    rewound: bool,
    upstream: &Upstream,
) -> Step<()> {
    let (files, to) = (Arc::clone(shared), upstream.clone());
    blocking(move || {
        let place = &files.place;
        if !rewound {
            // Half rewound, for all we know: never to be started.
            return place.put_aside(&work).map(|_| ());
        }
        place.write(&work.join("standby.signal"), "", 0o600)?;
        conf::write(place, &work, Some(&to))?;
        place.rename(&work, place.data_dir())
    })
    .await
}

/// pg_rewind wants a clean shutdown, which it cannot bring about on a standby by itself.
async fn settle_standby(
    shared: &Arc<Shared>,
    permit: &mut Permit,
    cancel: &CancellationToken,
) -> Step<()> {
    let control = shared.control.read(&shared.place, cancel).await?;
    if control.state != ClusterState::Recovery {
        return Ok(());
    }
    launch_standby(shared, *permit, None).await?;
    wait_for_progress(shared, cancel).await?;
    *permit = stop(shared, *permit, cancel).await?;
    Ok(())
}
