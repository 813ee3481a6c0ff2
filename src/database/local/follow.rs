//! Following: starting as a standby, or giving a running one another upstream.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::conf;
use super::start::start_standby;
use crate::core::event::{Done, Upstream};
use crate::database::server::look::{Asker, Seen};
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::sql::Trouble;
use crate::database::server::wait::{Found, find, pause, wait};

/// How long a reload may take to be seen.
const RELOAD_TRIES: u32 = 400;

/// Between looks for it.
const POLL: Duration = Duration::from_millis(5);

/// Makes the instance follow `upstream`, or nobody.
pub(super) async fn follow(
    shared: &Arc<Shared>,
    upstream: Option<&Upstream>,
    cancel: &CancellationToken,
) -> Step<Done> {
    let permit = shared.launcher.permit();
    match find(shared, cancel).await? {
        Found::Absent => {
            Err(Failure::Refused("there is no data directory: clone or bootstrap first".to_owned()))
        }
        Found::Stopped { .. } => {
            start_standby(shared, permit, upstream, cancel).await?;
            Ok(Done::Done)
        }
        Found::Running => {
            let (asker, seen) = wait(shared, cancel).await?;
            if !seen.in_recovery {
                return Err(Failure::Refused("it runs as a primary: fence it first".to_owned()));
            }
            repoint(shared, &asker, &seen, upstream, cancel).await?;
            Ok(Done::Done)
        }
    }
}

/// Gives the running standby another upstream without restarting it.
pub(super) async fn repoint(
    shared: &Arc<Shared>,
    asker: &Asker,
    seen: &Seen,
    upstream: Option<&Upstream>,
    cancel: &CancellationToken,
) -> Step<()> {
    let wanted = conf::conninfo(&shared.place, upstream)?;
    if seen.conninfo == wanted {
        return Ok(());
    }
    let (files, to) = (Arc::clone(shared), upstream.cloned());
    blocking(move || conf::rewrite(&files.place, to.as_ref())).await?;
    let told = async {
        let client = &asker.session.client;
        if conf::is_altered(&shared.place, "primary_conninfo") {
            client.batch_execute("alter system reset primary_conninfo").await?;
        }
        client.batch_execute("select pg_reload_conf()").await
    };
    tokio::select! {
        told = told => told.map_err(|error| Failure::Unknown(Trouble::from(error).to_string()))?,
        () = cancel.cancelled() => return Err(Failure::Cancelled),
    }
    for _ in 0..RELOAD_TRIES {
        match asker.ask().await {
            Ok(seen) if seen.conninfo == wanted => return Ok(()),
            Ok(_) => {}
            Err(trouble) => return Err(Failure::Unknown(trouble.to_string())),
        }
        pause(POLL, cancel).await?;
    }
    let place = &shared.place;
    Err(Failure::Refused(format!(
        "the server did not take primary_conninfo from harmony.conf in {}: is it set elsewhere?",
        place.data_dir().display()
    )))
}
