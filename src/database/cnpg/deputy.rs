//! Who stands for a replica site of several instances. When that one is gone, CloudNativePG chooses another one
//! by itself only where its failover is not put off; and there it might, in a primary's site, promote somebody
//! who has no lease. So the agents choose: in a replica site nobody becomes writable by that.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::cluster::Cluster;
use super::mark;
use super::obstacle;
use super::part::Data;
use super::us::Us;
use crate::database::server::outcome::Failure;

/// For so long the pod of the one that stands for the site is not ready before it is replaced. Kubernetes calls
/// a pod unready some 40 s after its machine was last heard of.
const PATIENCE: Duration = Duration::from_secs(10);

/// The next instance in CloudNativePG's list waits so much longer, so that one at a time offers itself.
const STEP: Duration = Duration::from_secs(5);

/// How long it may be tried at a time.
const LIMIT: Duration = Duration::from_secs(10);

/// Watches the one that stands for the site.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whose pod is not ready, and since when.
    away: Option<(String, Instant)>,
}

impl Watch {
    /// Looks after the one that stands for the site, and takes its place when it is gone.
    ///
    /// # Errors
    /// What did not work, in words; it is tried again.
    pub(super) async fn look(
        &mut self,
        shared: &Shared,
        cluster: &Cluster,
        data: Data,
    ) -> Result<(), String> {
        let acting = shared.us.deputy_of(cluster).filter(|acting| {
            data == Data::RunningStandby && may_be_replaced(cluster, &shared.us, acting)
        });
        let (Some(acting), Some(own)) = (acting, &shared.us.instance) else {
            self.away = None;
            return Ok(());
        };
        let is_ready = shared.api.is_ready(acting).await.map_err(|trouble| trouble.to_string())?;
        if is_ready {
            self.away = None;
            return Ok(());
        }
        let known = self.away.take().filter(|(pod, _)| pod == acting);
        let (_, since) =
            self.away.insert(known.unwrap_or_else(|| (acting.to_owned(), Instant::now())));
        if since.elapsed() < PATIENCE + STEP * place(cluster, own, acting) {
            return Ok(());
        }
        tracing::warn!(acting, "whoever stands for the site is gone: taking its place");
        let decide = |cluster: &Cluster| Ok(may_be_replaced(cluster, &shared.us, acting));
        let cancel = CancellationToken::new();
        let asked = Instant::now();
        let appointed = tokio::time::timeout(LIMIT, shared.api.appoint(own, decide, &cancel)).await;
        let appointed = appointed.map_err(|_| format!("{own} was not appointed in {LIMIT:?}"))?;
        appointed
            .map(|cluster| _ = shared.note(cluster, asked))
            .map_err(|failure: Failure| failure.text().to_owned())
    }
}

/// `acting` stands for a replica site that is at rest. In any other site the same change would promote us.
pub(super) fn may_be_replaced(cluster: &Cluster, us: &Us, acting: &str) -> bool {
    let status = &cluster.status;
    cluster.is_replica()
        && !cluster.is_switching()
        && status.current_primary == acting
        && status.target_primary == acting
        && us.instance.as_ref().is_some_and(|own| status.instance_names.contains(own))
        && obstacle(cluster).is_none()
        // Somebody has stopped it on purpose.
        && !mark::names(cluster, acting)
}

/// How many come before us in CloudNativePG's list.
pub(super) fn place(cluster: &Cluster, own: &str, acting: &str) -> u32 {
    let others = cluster.status.instance_names.iter().filter(|name| *name != acting);
    u32::try_from(others.take_while(|name| *name != own).count()).unwrap_or(u32::MAX)
}
