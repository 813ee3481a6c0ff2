//! Starting the server, and waiting for it as long as it makes its way.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::conf;
use super::control::Control;
use super::files::{Files, look_at_files};
use super::look::{Asker, Seen};
use super::outcome::{Failure, Step, blocking};
use super::process::Permit;
use super::progress::Progress;
use super::promote;
use super::sql::Trouble;
use crate::core::event::{Done, Upstream};

/// How often a starting server is asked whether it is up.
const POLL: Duration = Duration::from_millis(5);

/// The instance as an action finds it.
pub(super) enum Found {
    Absent,
    Stopped { control: Control },
    Running,
}

/// Looks at the instance; what is not usable is a refusal.
pub(super) async fn find(shared: &Arc<Shared>, cancel: &CancellationToken) -> Step<Found> {
    let look = Arc::clone(shared);
    let files = blocking(move || Ok(look_at_files(&look))).await?;
    match files {
        Files::Absent => Ok(Found::Absent),
        Files::Running { .. } => Ok(Found::Running),
        Files::Unusable(why) | Files::Unclear(why) | Files::Stopped { broken: Some(why), .. } => {
            Err(Failure::Refused(why))
        }
        Files::Remnants(left) => Err(Failure::Refused(format!(
            "{left} processes without a postmaster are left: fence first"
        ))),
        Files::Stopped { broken: None, .. } => {
            let control = shared.control.read(&shared.place, cancel).await?;
            Ok(Found::Stopped { control })
        }
    }
}

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

/// Waits until the running server answers. However long it recovers: whoever called decides when that
/// is too long. Ends when the server ends.
pub(super) async fn wait(
    shared: &Arc<Shared>,
    cancel: &CancellationToken,
) -> Step<(Arc<Asker>, Seen)> {
    wait_while(shared, || Ok(()), cancel).await
}

/// As [`wait`], but only as long as the standby gets anywhere; then it is [`Failure::Stuck`].
pub(super) async fn wait_for_progress(
    shared: &Arc<Shared>,
    cancel: &CancellationToken,
) -> Step<(Arc<Asker>, Seen)> {
    let mut progress = Progress::default();
    let gets_on = || {
        if progress.is_stuck(|| shared.running_postmaster()) {
            let why =
                "it started, but waits for WAL that does not come: it cannot become consistent";
            return Err(Failure::Stuck(why.to_owned()));
        }
        Ok(())
    };
    wait_while(shared, gets_on, cancel).await
}

async fn wait_while(
    shared: &Arc<Shared>,
    mut gets_on: impl FnMut() -> Step<()>,
    cancel: &CancellationToken,
) -> Step<(Arc<Asker>, Seen)> {
    loop {
        let asked = tokio::select! {
            asked = ask(shared) => asked,
            () = cancel.cancelled() => return Err(Failure::Cancelled),
        };
        match asked {
            Ok(answer) => {
                shared.launcher.ready();
                return Ok(answer);
            }
            Err(
                Trouble::NotReady
                | Trouble::NotListening(_)
                | Trouble::Lost(_)
                | Trouble::Exhausted,
            ) => {}
            Err(trouble) => {
                return Err(Failure::Unknown(format!("the server runs, but: {trouble}")));
            }
        }
        still_there(shared).await?;
        gets_on()?;
        pause(POLL, cancel).await?;
    }
}

async fn still_there(shared: &Arc<Shared>) -> Step<()> {
    if let Some(words) = shared.launcher.last_words(&shared.place) {
        return Err(Failure::Refused(words.text));
    }
    if shared.launcher.living().is_some() {
        return Ok(());
    }
    let look = Arc::clone(shared);
    match blocking(move || Ok(look_at_files(&look))).await? {
        Files::Running { .. } | Files::Unclear(_) => Ok(()),
        Files::Absent | Files::Unusable(_) | Files::Stopped { .. } | Files::Remnants(_) => {
            Err(Failure::Refused("the server has ended".to_owned()))
        }
    }
}

/// Sleeps, unless cancelled.
pub(super) async fn pause(time: Duration, cancel: &CancellationToken) -> Step<()> {
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        () = cancel.cancelled() => Err(Failure::Cancelled),
    }
}

/// Asks on the connection kept for actions, opening it when need be.
pub(super) async fn ask(shared: &Shared) -> Result<(Arc<Asker>, Seen), Trouble> {
    let kept = shared.action.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(asker) = kept.filter(|asker| asker.session.is_open()) {
        match asker.ask().await {
            Ok(seen) => return Ok((asker, seen)),
            Err(Trouble::Lost(_)) => {}
            Err(trouble) => return Err(trouble),
        }
    }
    let asker = Arc::new(Asker::open(&shared.place).await?);
    let seen = asker.ask().await?;
    *shared.action.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&asker));
    Ok((asker, seen))
}

/// Opens the connection kept for actions before it is needed.
pub(super) async fn keep_ready(shared: &Shared) {
    let open = {
        let kept = shared.action.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().is_some_and(|asker| asker.session.is_open())
    };
    if !open && let Ok(asker) = Asker::open(&shared.place).await {
        *shared.action.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(asker));
    }
}
