//! A standby that CloudNativePG leaves down: it starts PostgreSQL once when a fence ends, and when that fails,
//! never again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::cluster::Cluster;
use super::mark::{self, Fence};
use super::part::Data;
use super::promote::data;
use super::us::Us;
use crate::database::server::outcome::Failure;

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A standby that may run and does not for so long is started anew; twice as long before each further try.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);

/// Limit of asking for it.
const LIMIT: Duration = Duration::from_secs(10);

/// Has a standby started again that may run and stays down: by a fence that is lifted again, which
/// is what makes the instance manager try it.
pub(super) async fn revived(shared: &Arc<Shared>) -> Failure {
    let us = &shared.us;
    let (mut down_since, mut patience) = (Instant::now(), FIRST);
    loop {
        sleep(POLL).await;
        let is_down = matches!(data(shared).await, Ok(Data::Standby));
        let is_free = shared.last_read().is_some_and(|read| {
            let cluster = &read.cluster;
            may_be_revived(cluster, us) && !mark::covers(cluster, us)
        });
        if !is_down || !is_free {
            down_since = Instant::now();
        }
        if down_since.elapsed() < patience {
            continue;
        }
        tracing::warn!("the standby may run and does not: having it started again");
        let set = |cluster: &Cluster| {
            let annotations =
                Fence::of(cluster, us).set(us).filter(|_| may_be_revived(cluster, us));
            Ok(annotations.map(|annotations| json!({ "metadata": { "annotations": annotations } })))
        };
        // The keeper lifts what is ours of a standby when it reads the Cluster next: not at once, or the
        // instance manager might see neither.
        let cancel = CancellationToken::new();
        let asked = shared.change(set, &cancel);
        match tokio::time::timeout(LIMIT, asked).await {
            Ok(Ok(_)) => {}
            Ok(Err(failure @ Failure::Refused(_))) => return failure,
            Ok(Err(failure)) => tracing::warn!(why = failure.text(), "it could not be asked for"),
            Err(_) => tracing::warn!(limit = ?LIMIT, "it could not be asked for in time"),
        }
        (down_since, patience) = (Instant::now(), (patience * 2).min(LONGEST));
    }
}

/// The fence is for all instances: for one that does not act it would stop the one that does.
pub(super) fn may_be_revived(cluster: &Cluster, us: &Us) -> bool {
    cluster.is_replica() && us.deputy_of(cluster).is_none() && !cluster.is_switching()
}
