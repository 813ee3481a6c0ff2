//! The fence: nothing of the instance is left that could commit, and that is proven.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::control::ClusterState;
use super::outcome::{Failure, Step, blocking};
use super::process::{ended, has_ended};
use super::sql::is_listening;
use super::wait::pause;
use crate::core::event::{Done, FenceProof, Ladder};
use crate::core::ids::{Lsn, TimelineId};
use crate::postmaster::Instance;

/// How long one attempt to kill and prove may take before the next.
const ATTEMPT: Duration = Duration::from_millis(500);

/// Between attempts.
const AGAIN: Duration = Duration::from_millis(10);

/// How long the control file is waited for: it tells where the log ends, not whether it is safe.
const READ_BACK: Duration = Duration::from_secs(2);

/// Climbs the ladder until nothing is left, then proves it.
pub(in crate::database) async fn fence(
    server: &Arc<Server>,
    ladder: Ladder,
    cancel: &CancellationToken,
) -> Step<Done> {
    let began = Instant::now();
    // From here on no action that began earlier can start the server.
    let mut voided = server.launcher.void();
    let targets = targets(server, began + ATTEMPT).await;
    let mut rung = if targets.is_empty() { "down" } else { "kill" };
    let rungs = [
        ("fast", Signal::INT, Duration::ZERO, ladder.fast),
        ("immediate", Signal::QUIT, ladder.fast, ladder.immediate),
    ];
    for (name, signal, from, until) in rungs {
        if targets.is_empty() || until <= from {
            continue;
        }
        tracing::info!(rung = name, "stopping the database");
        for target in &targets {
            // One that has ended is what is wanted.
            let _ = pidfd_send_signal(target, signal);
        }
        if all_ended(&targets, began + until, cancel).await? {
            rung = name;
            break;
        }
    }
    let mut why = String::new();
    loop {
        voided = voided || server.launcher.void();
        match prove(server).await {
            Ok(0) if voided => break,
            Ok(0) => why = "a start is under way that cannot be stopped".to_owned(),
            Ok(_) => rung = "kill",
            Err(failure) => failure.text().clone_into(&mut why),
        }
        if let Err(cancelled) = pause(AGAIN, cancel).await {
            let unknown = Failure::Unknown(format!("no proof that nothing is left: {why}"));
            return Err(if why.is_empty() { cancelled } else { unknown });
        }
    }
    server.launcher.forget();
    Ok(Done::Fenced(read_back(server, rung).await))
}

/// Descriptors of whatever may be the server: the postmaster found, the one known, the one started.
async fn targets(server: &Arc<Server>, until: Instant) -> Vec<OwnedFd> {
    let mut targets = Vec::new();
    let look = Arc::clone(server);
    // An instance of its own: the observer's may be stuck in a read.
    let found = tokio::task::spawn_blocking(move || {
        Instance::new(look.place.data_dir()).and_then(|mut instance| instance.postmaster())
    });
    if let Ok(Ok(Ok(Some(found)))) = timeout_at(until, found).await {
        targets.push(found.pidfd);
    } else {
        let known = server.postmaster.lock().unwrap_or_else(PoisonError::into_inner).clone();
        targets.extend(known.and_then(|known| known.pidfd.try_clone().ok()));
        targets.extend(server.launcher.living());
    }
    targets.retain(|target| !has_ended(target));
    targets
}

async fn all_ended(targets: &[OwnedFd], until: Instant, cancel: &CancellationToken) -> Step<bool> {
    for target in targets {
        let Ok(copy) = target.try_clone() else { return Ok(false) };
        tokio::select! {
            () = ended(copy) => {}
            () = tokio::time::sleep_until(until) => return Ok(has_ended(target)),
            () = cancel.cancelled() => {
                return Err(Failure::Unknown("cancelled while the server was stopping".to_owned()));
            }
        }
    }
    Ok(true)
}

/// Kills what is left; zero means there was nothing, the socket refuses, and so it will stay.
async fn prove(server: &Arc<Server>) -> Step<u32> {
    let to_kill = Arc::clone(server);
    let killed = blocking(move || {
        // What was started may not have reached its data directory yet.
        if let Some(started) = to_kill.launcher.living() {
            let _ = pidfd_send_signal(&started, Signal::KILL);
        }
        let mut instance = Instance::new(to_kill.place.data_dir())
            .map_err(|error| Failure::Unknown(format!("cannot look for processes: {error}")))?;
        let killed = instance.kill(ATTEMPT).map_err(|error| Failure::Unknown(error.to_string()))?;
        Ok(killed.killed + u32::from(to_kill.launcher.living().is_some()))
    })
    .await?;
    if killed == 0 && is_listening(&server.place) {
        let socket = server.place.socket();
        let text = format!("another server listens on {}: stop it", socket.display());
        return Err(Failure::Unknown(text));
    }
    Ok(killed)
}

/// What the control file says about the end of the log. A file that cannot be read makes the proof no
/// weaker: it is about processes.
async fn read_back(server: &Server, rung: &'static str) -> FenceProof {
    let unread = CancellationToken::new();
    let read = server.control.read(&server.place, &unread);
    match tokio::time::timeout(READ_BACK, read).await {
        Ok(Ok(control)) => FenceProof {
            clean: control.state == ClusterState::ShutDown,
            lsn: control.end(),
            timeline: control.timeline,
            rung,
        },
        other => {
            let why = match &other {
                Ok(Err(failure)) => failure.text(),
                Ok(Ok(_)) | Err(_) => "it took too long",
            };
            tracing::warn!(why, "fenced, but the control file was not read");
            FenceProof { clean: false, lsn: Lsn(0), timeline: TimelineId(0), rung }
        }
    }
}
