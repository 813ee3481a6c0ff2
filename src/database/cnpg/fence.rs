//! The fence: asked for in the Cluster and done here at the same time; proven without the API server.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::cluster::Cluster;
use super::mark::{self, Fence};
use super::part::{Port, Want};
use super::us::Us;
use crate::core::event::{Done, Ladder};
use crate::database::server::fence as ladder;
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::wait::pause;
use crate::postmaster::Instance;
use crate::supervise;

/// Between two tries to take the port.
const AGAIN: Duration = Duration::from_millis(20);

/// How long the annotation is tried for apart from the keeper, which goes on.
const REQUEST: Duration = Duration::from_secs(10);

/// Straight to the kill.
const AT_ONCE: Ladder = Ladder { fast: Duration::ZERO, immediate: Duration::ZERO };

/// Makes sure that nothing of the instance could commit, and that nobody brings it up again: by the
/// annotation, or by its port.
pub(super) async fn fence(
    shared: &Arc<Shared>,
    rungs: Ladder,
    cancel: &CancellationToken,
) -> Step<Done> {
    let began = Instant::now();
    // The annotation on one instance of several would keep CloudNativePG from ever making another one the
    // primary: a fenced manager goes on renewing its lease (ADR 25).
    let annotates = shared.us.instance.is_none();
    shared.part.fence(if annotates { Want::Fenced } else { Want::Shut });
    shared.restarts(None);
    shared.part.learn();
    if annotates {
        let asking = Arc::clone(shared);
        supervise::apart("fence annotation", Some(REQUEST), async move {
            request(&asking).await.map(|_| ()).map_err(|failure| failure.text().to_owned())
        });
    }
    let mut done = ladder::fence(&shared.server, rungs, cancel).await?;
    loop {
        let open = match hold(shared).await {
            Port::Held => None,
            Port::Open(_) if annotates && is_in_place(shared, began) => None,
            Port::Open(why) => Some(why),
        };
        if remnants(shared).await? > 0 {
            // What was quicker than the port.
            done = ladder::fence(&shared.server, AT_ONCE, cancel).await?;
            continue;
        }
        let Some(why) = open else { return Ok(done) };
        if pause(AGAIN, cancel).await.is_err() {
            return Err(Failure::Unknown(format!(
                "it is down, but the fence annotation is not in place and {why}"
            )));
        }
    }
}

/// Asks for the annotation until it is there, or nobody wants it any more.
pub(super) async fn request(shared: &Shared) -> Step<Arc<Cluster>> {
    let decide = |cluster: &Cluster| Ok(requested(cluster, &shared.us, shared.part.want()));
    shared.change(decide, &CancellationToken::new()).await
}

fn requested(cluster: &Cluster, us: &Us, want: Want) -> Option<serde_json::Value> {
    let annotations = Fence::of(cluster, us).set(us).filter(|_| want == Want::Fenced)?;
    Some(json!({ "metadata": { "annotations": annotations } }))
}

/// The fence was read back from the Cluster after `since`.
pub(super) fn is_in_place(shared: &Shared, since: Instant) -> bool {
    let read = shared.last_read().filter(|read| read.at > since);
    read.is_some_and(|read| mark::covers(&read.cluster, &shared.us))
}

async fn hold(shared: &Arc<Shared>) -> Port {
    let part = Arc::clone(shared);
    let held = blocking(move || Ok(part.part.hold())).await;
    held.unwrap_or_else(|failure| Port::Open(failure.text().to_owned()))
}

async fn remnants(shared: &Arc<Shared>) -> Step<usize> {
    let looked = Arc::clone(shared);
    blocking(move || {
        let count = Instance::new(looked.server.place.data_dir()).and_then(|mut it| it.remnants());
        count.map_err(|error| Failure::Unknown(format!("cannot look for processes: {error}")))
    })
    .await
}
