//! What has to be looked after all the time: the port, a fence that somebody lifted, a token that is used.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::mark::Fence;
use super::part::{Data, Want, stays_standby};
use super::us::Us;
use super::{Shared, audit, deputy, hindrance, passing, role};
use crate::database::server::outcome::blocking;
use crate::supervise::End;

/// How often the port and the data are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often the Cluster is read.
const READ: Duration = Duration::from_secs(2);

/// How long one change may be tried.
const CHANGE: Duration = Duration::from_secs(10);

/// What is looked at less often.
#[derive(Default)]
pub(super) struct Watches {
    deputy: deputy::Watch,
    rehearsal: hindrance::Rehearsal,
    lease: passing::Watch,
}

/// Looks after the Cluster for as long as the agent runs.
pub(super) async fn serve(shared: Arc<Shared>) -> End {
    let mut said = String::new();
    let mut next_read = Instant::now();
    let mut watches = Watches::default();
    loop {
        let look = Arc::clone(&shared);
        let looked = blocking(move || {
            let cluster = look.last_read().map(|read| read.cluster);
            Ok(look.part.keep(cluster.as_deref()))
        });
        let data = match looked.await {
            Ok(data) => data,
            Err(failure) => return End::Lost(failure.text().to_owned()),
        };
        if Instant::now() >= next_read {
            next_read = Instant::now() + READ;
            let heard = tend(&shared, data, &mut watches).await.err().unwrap_or_default();
            if heard != said && !heard.is_empty() {
                tracing::warn!(trouble = heard, "about the Cluster");
            }
            said = heard;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shared.nudge.notified() => next_read = Instant::now(),
        }
    }
}

/// Reads the Cluster, and does what is due.
pub(super) async fn tend(shared: &Shared, data: Data, watches: &mut Watches) -> Result<(), String> {
    let cluster = match shared.read().await {
        Ok(cluster) => cluster,
        Err(trouble) => {
            watches.rehearsal.prevented(shared, data, &trouble);
            return Err(trouble.to_string());
        }
    };
    let passed = watches.lease.look(shared, &cluster, data).await;
    let refusal = audit::refusal(&cluster, &shared.us);
    let mut tended = put_right(shared, data, &cluster).await;
    if tended.is_ok() {
        tended = watches.deputy.look(shared, &cluster, data).await;
    }
    // Also when that failed: most of what it fails at stands against other changes, too.
    let rehearsed = watches.rehearsal.look(shared, &cluster, data).await;
    tended.and(rehearsed).and(passed).and(refusal.map_or(Ok(()), Err))
}

/// Changes in the Cluster what is due.
async fn put_right(shared: &Shared, data: Data, cluster: &Cluster) -> Result<(), String> {
    if due(shared.part.want(), data, cluster, &shared.us).is_none() {
        return Ok(());
    }
    let cancel = CancellationToken::new();
    // Decided anew by each try: what we want may have changed since.
    let decide = |cluster: &Cluster| -> role::Patch {
        Ok(due(shared.part.want(), data, cluster, &shared.us))
    };
    let changed = tokio::time::timeout(CHANGE, shared.change(decide, &cancel)).await;
    let changed = changed.map_err(|_| format!("not changed in {CHANGE:?}"))?;
    changed.map(|_| ()).map_err(|failure| failure.text().to_owned())
}

/// What has to be changed in the Cluster, if anything.
pub(super) fn due(want: Want, data: Data, cluster: &Cluster, us: &Us) -> Option<Value> {
    let fence = Fence::of(cluster, us);
    let is_standby = data.is_standby() && stays_standby(cluster, us) && !cluster.is_switching();
    let annotations = match want {
        Want::Open => fence.lift_for_opening().or_else(|| fence.forget()),
        Want::Held | Want::Fenced | Want::Shut | Want::Standby | Want::Free if is_standby => {
            fence.lift().or_else(|| fence.forget())
        }
        // Also when it runs: somebody brought up what we stopped.
        Want::Fenced => fence.set(us),
        Want::Held | Want::Shut | Want::Standby | Want::Free => fence.forget(),
    };
    let mut patch =
        annotations.map(|annotations| json!({ "metadata": { "annotations": annotations } }));
    if cluster.token_is_used() {
        let patch = patch.get_or_insert_with(|| json!({}));
        patch["spec"]["replica"]["promotionToken"] = Value::Null;
    }
    patch
}
