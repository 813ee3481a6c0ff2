//! Promotion and checkpoints: what is done to a running server by SQL.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::core::event::Done;
use crate::database::server::outcome::{Failure, Step};
use crate::database::server::sql::{Session, Trouble};
use crate::database::server::timeline::began_at;
use crate::database::server::wait::{ask, pause};
use crate::supervise;

/// How often a promotion is looked after. Each millisecond here is one more without a primary.
const POLL: Duration = Duration::from_millis(1);

/// How long the checkpoint after a promotion is waited for; the server goes on with it. Meant for
/// gigabytes of dirty pages on a slow disk.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(3600);

/// Promotes the running standby and waits until it accepts writes.
pub(super) async fn promote(shared: &Arc<Shared>, cancel: &CancellationToken) -> Step<Done> {
    let refused = |trouble: Trouble| Failure::Refused(format!("cannot promote: {trouble}"));
    let (asker, seen) = tokio::select! {
        asked = ask(shared) => asked.map_err(refused)?,
        () = cancel.cancelled() => {
            return Err(Failure::Refused("cancelled before the promotion".to_owned()));
        }
    };
    if seen.in_recovery {
        shared.role_changed.store(true, Ordering::Relaxed);
        let client = &asker.session.client;
        let ask_again = client.prepare("select pg_is_in_recovery()").await;
        let ask_again = ask_again.map_err(|error| refused(error.into()))?;
        let lost = |error: tokio_postgres::Error| {
            Failure::Unknown(format!("promotion began, but: {}", Trouble::from(error)))
        };
        tokio::select! {
            told = client.batch_execute("select pg_promote(false)") => told.map_err(lost)?,
            () = cancel.cancelled() => return Err(Failure::Cancelled),
        }
        loop {
            let row = tokio::select! {
                row = client.query_one(&ask_again, &[]) => row.map_err(lost)?,
                () = cancel.cancelled() => return Err(Failure::Cancelled),
            };
            if !row.try_get::<_, bool>(0).map_err(lost)? {
                break;
            }
            pause(POLL, cancel).await?;
        }
        shared.role_changed.store(true, Ordering::Relaxed);
        // pg_rewind goes by the control file, which names the new timeline only after a checkpoint.
        let task = checkpoint_now(Arc::clone(shared));
        supervise::apart("checkpoint after the promotion", Some(CHECKPOINT_LIMIT), task);
    }
    let (timeline, now) = match asker.ask().await {
        Ok(seen) => (seen.timeline, seen.lsn),
        Err(trouble) => return Err(Failure::Unknown(format!("promoted, but: {trouble}"))),
    };
    Ok(Done::Promoted { timeline, lsn: began_at(shared, timeline).unwrap_or(now) })
}

async fn checkpoint_now(shared: Arc<Shared>) -> Result<(), String> {
    let done = async {
        let session = Session::open(&shared.place).await?;
        session.client.batch_execute("checkpoint").await.map_err(Trouble::from)
    };
    done.await.map_err(|trouble: Trouble| trouble.to_string())
}
