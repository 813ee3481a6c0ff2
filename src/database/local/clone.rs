//! Copying another server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Place;
use super::Shared;
use super::conf;
use super::source::Source;
use super::start::start_standby;
use crate::core::event::{Done, Upstream};
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::wait::{Found, find};

/// Copies `upstream` into an absent data directory and starts it as a standby.
pub(super) async fn clone(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    cancel: &CancellationToken,
) -> Step<Done> {
    let permit = shared.launcher.permit();
    match find(shared, cancel).await? {
        Found::Absent => {}
        Found::Stopped { .. } | Found::Running => {
            let why = "there is a data directory already: rejoin keeps it aside, clone does not";
            return Err(Failure::Refused(why.to_owned()));
        }
    }
    Source::connect(&shared.place, upstream, cancel).await?;
    let copy = copy(shared, upstream, cancel).await?;
    put_in_place(shared, copy).await?;
    start_standby(shared, permit, Some(upstream), cancel).await?;
    Ok(Done::Done)
}

/// Makes a complete copy beside the data directory, configured to follow `upstream`.
pub(super) async fn copy(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    cancel: &CancellationToken,
) -> Step<PathBuf> {
    let (files, from) = (Arc::clone(shared), upstream.clone());
    let (target, source) = blocking(move || {
        files.place.sweep()?;
        Ok((files.place.fresh("clone")?, conf::source(&files.place, &from)?))
    })
    .await?;
    tracing::info!(upstream = %upstream.member, target = %target.display(), "base backup begins");
    shared.at("copying", None);
    let files = Arc::clone(shared);
    let made = shared
        .place
        .tool("pg_basebackup")
        .arg("--pgdata")
        .arg(&target)
        .args(["--wal-method=stream", "--checkpoint=fast", "--no-password", "--progress"])
        .heard(move |words| files.said(words))
        .arg("--dbname")
        .arg(&source)
        .succeed(cancel)
        .await;
    if let Err(failure) = made {
        let files = Arc::clone(shared);
        // What is left of it is useless, and the next attempt removes it in any case.
        let _ = blocking(move || files.place.sweep()).await;
        return Err(failure);
    }
    let (files, to) = (Arc::clone(shared), upstream.clone());
    blocking(move || {
        make_standby(&files.place, &target, &to)?;
        Ok(target)
    })
    .await
}

fn make_standby(place: &Place, dir: &Path, upstream: &Upstream) -> Step<()> {
    place.write(&dir.join("standby.signal"), "", 0o600)?;
    conf::write(place, dir, Some(upstream))
}

/// Renames the copy to be the data directory; what was there, and what an interrupted rewind left, is
/// set aside.
pub(super) async fn put_in_place(shared: &Arc<Shared>, copy: PathBuf) -> Step<()> {
    let files = Arc::clone(shared);
    blocking(move || {
        let place = &files.place;
        for left in place.left_over(&["rewind-"])? {
            place.put_aside(&left)?;
        }
        let is_empty =
            |path: &Path| std::fs::read_dir(path).is_ok_and(|mut dir| dir.next().is_none());
        if place.data_dir().exists() && !is_empty(place.data_dir()) {
            place.put_aside(place.data_dir())?;
        }
        place.rename(&copy, place.data_dir())
    })
    .await
}
