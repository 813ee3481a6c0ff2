//! Finding the server as it is, and waiting for it as long as it makes its way.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Server;
use super::control::Control;
use super::files::{Files, look_at_files};
use super::look::{Asker, Seen};
use super::outcome::{Failure, Step, blocking};
use super::progress::Progress;
use super::sql::Trouble;

/// How often a starting server is asked whether it is up.
pub(in crate::database) const POLL: Duration = Duration::from_millis(5);

/// The instance as an action finds it.
pub(in crate::database) enum Found {
    Absent,
    Stopped { control: Control },
    Running,
}

/// Looks at the instance; what is not usable is a refusal.
pub(in crate::database) async fn find(
    server: &Arc<Server>,
    cancel: &CancellationToken,
) -> Step<Found> {
    let look = Arc::clone(server);
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
            let control = server.control.read(&server.place, cancel).await?;
            Ok(Found::Stopped { control })
        }
    }
}

/// Waits until the running server answers. However long it recovers: whoever called decides when that
/// is too long. Ends when the server ends.
pub(in crate::database) async fn wait(
    server: &Arc<Server>,
    cancel: &CancellationToken,
) -> Step<(Arc<Asker>, Seen)> {
    wait_while(server, || Ok(()), cancel).await
}

/// As [`wait`], but only as long as the standby gets anywhere; then it is [`Failure::Stuck`].
pub(in crate::database) async fn wait_for_progress(
    server: &Arc<Server>,
    cancel: &CancellationToken,
) -> Step<(Arc<Asker>, Seen)> {
    let mut progress = Progress::default();
    let gets_on = || {
        if progress.is_stuck(|| server.running_postmaster()) {
            let why =
                "it started, but waits for WAL that does not come: it cannot become consistent";
            return Err(Failure::Stuck(why.to_owned()));
        }
        Ok(())
    };
    wait_while(server, gets_on, cancel).await
}

async fn wait_while(
    server: &Arc<Server>,
    mut gets_on: impl FnMut() -> Step<()>,
    cancel: &CancellationToken,
) -> Step<(Arc<Asker>, Seen)> {
    loop {
        let asked = tokio::select! {
            asked = ask(server) => asked,
            () = cancel.cancelled() => return Err(Failure::Cancelled),
        };
        match asked {
            Ok(answer) => {
                server.launcher.ready();
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
        still_there(server).await?;
        gets_on()?;
        pause(POLL, cancel).await?;
    }
}

async fn still_there(server: &Arc<Server>) -> Step<()> {
    if let Some(words) = server.launcher.last_words(&server.place) {
        return Err(Failure::Refused(words.text));
    }
    if server.launcher.living().is_some() {
        return Ok(());
    }
    let look = Arc::clone(server);
    match blocking(move || Ok(look_at_files(&look))).await? {
        Files::Running { .. } | Files::Unclear(_) => Ok(()),
        Files::Absent | Files::Unusable(_) | Files::Stopped { .. } | Files::Remnants(_) => {
            Err(Failure::Refused("the server has ended".to_owned()))
        }
    }
}

/// Sleeps, unless cancelled.
pub(in crate::database) async fn pause(time: Duration, cancel: &CancellationToken) -> Step<()> {
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        () = cancel.cancelled() => Err(Failure::Cancelled),
    }
}

/// Asks on the connection kept for actions, opening it when need be.
pub(in crate::database) async fn ask(server: &Server) -> Result<(Arc<Asker>, Seen), Trouble> {
    let kept = server.action.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(asker) = kept.filter(|asker| asker.session.is_open()) {
        match asker.ask().await {
            Ok(seen) => return Ok((asker, seen)),
            Err(Trouble::Lost(_)) => {}
            Err(trouble) => return Err(trouble),
        }
    }
    let asker = Arc::new(Asker::open(&server.place).await?);
    let seen = asker.ask().await?;
    *server.action.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&asker));
    Ok((asker, seen))
}

/// Opens the connection kept for actions before it is needed.
pub(in crate::database) async fn keep_ready(server: &Server) {
    let open = {
        let kept = server.action.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().is_some_and(|asker| asker.session.is_open())
    };
    if !open && let Ok(asker) = Asker::open(&server.place).await {
        *server.action.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(asker));
    }
}
