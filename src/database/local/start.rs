//! Starting the server, and waiting for it as long as it makes its way.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::conf;
use super::promote;
use crate::core::event::{Done, Upstream};
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::process::Permit;
use crate::database::server::wait::{Found, POLL, find, pause, wait};

/// Starts the stopped instance as a standby and waits until it answers, however long that takes.
pub(super) async fn start_standby(
    shared: &Arc<Shared>,
    permit: Permit,
    upstream: Option<&Upstream>,
    cancel: &CancellationToken,
) -> Step<()> {
    launch_standby(shared, permit, upstream).await?;
    wait(shared, cancel).await.map(|_| ())
}

/// Starts the stopped instance as a standby.
pub(super) async fn launch_standby(
    shared: &Arc<Shared>,
    permit: Permit,
    upstream: Option<&Upstream>,
) -> Step<()> {
    let (to_start, upstream) = (Arc::clone(shared), upstream.cloned());
    blocking(move || {
        let place = &to_start.place;
        place.write(&place.data_dir().join("standby.signal"), "", 0o600)?;
        place.remove(&place.data_dir().join("recovery.signal"))?;
        conf::write(place, place.data_dir(), upstream.as_ref())?;
        launch(&to_start, permit)
    })
    .await
}

/// Starts the stopped instance as the primary it last was.
pub(super) async fn start_primary(shared: &Arc<Shared>, cancel: &CancellationToken) -> Step<Done> {
    let permit = shared.launcher.permit();
    match find(shared, cancel).await? {
        Found::Absent => Err(Failure::Refused("there is no data directory to start".to_owned())),
        Found::Running => {
            let (_, seen) = wait(shared, cancel).await?;
            if seen.in_recovery {
                let why = "a standby is running: promote it or fence it first";
                return Err(Failure::Refused(why.to_owned()));
            }
            Ok(Done::Done)
        }
        Found::Stopped { control } if control.in_recovery() => {
            // Without a promotion it would write on the timeline of its old primary.
            start_standby(shared, permit, None, cancel).await?;
            promote::promote(shared, cancel).await.map(|_| Done::Done)
        }
        Found::Stopped { .. } => {
            let to_start = Arc::clone(shared);
            blocking(move || {
                let place = &to_start.place;
                conf::write(place, place.data_dir(), None)?;
                place.remove(&place.data_dir().join("standby.signal"))?;
                place.remove(&place.data_dir().join("recovery.signal"))?;
                launch(&to_start, permit)
            })
            .await?;
            writable(shared, cancel).await.map(|()| Done::Done)
        }
    }
}

fn launch(shared: &Shared, permit: Permit) -> Step<()> {
    let place = &shared.place;
    let dir = &place.settings.socket_dir;
    if !dir.exists() {
        fs::DirBuilder::new()
            .mode(0o755)
            .create(dir)
            .map_err(|error| Failure::file("create", dir, &error))?;
        place.own(dir)?;
    }
    shared.launcher.start(place, permit)
}

async fn writable(shared: &Arc<Shared>, cancel: &CancellationToken) -> Step<()> {
    loop {
        let (_, seen) = wait(shared, cancel).await?;
        if !seen.in_recovery {
            return Ok(());
        }
        pause(POLL, cancel).await?;
    }
}
