//! The lease that CloudNativePG's managers have among themselves. One that is kept by an instance that is not to act
//! keeps the one that is from being promoted: by a manager that ended without giving it back, that was to promote its
//! instance and could not, or that goes on renewing what it had before its site became a replica.

use super::Shared;
use super::cluster::Cluster;
use super::part::Data;

/// Watches the lease of an instance that is not to act.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Somebody else has it, and this one is to act.
    free: Option<String>,
}

impl Watch {
    /// Passes the lease on to the instance that is to act, if ours has it and cannot become the primary.
    ///
    /// # Errors
    /// What did not work, in words; it is tried again.
    pub(super) async fn look(
        &mut self,
        shared: &Shared,
        cluster: &Cluster,
        data: Data,
    ) -> Result<(), String> {
        let own = shared.us.instance.as_ref().filter(|_| shared.us.is_passed_over(cluster));
        let is_barred = match data {
            Data::Primary => shared.part.holds(),
            // In a replica that rests nobody waits for it.
            Data::RunningStandby => {
                (is_passing(cluster) || !cluster.is_replica()) && shared.part.is_barred()
            }
            Data::None | Data::Running | Data::Standby => false,
        };
        let (Some(own), true) = (own, is_barred) else {
            self.free = None;
            return Ok(());
        };
        let to = &cluster.status.target_primary;
        // Its manager takes it only when it is to act itself, and then we begin anew.
        if self.free.as_ref() == Some(to) {
            return Ok(());
        }
        let passed = shared.api.pass_lease(own, to).await.map_err(|trouble| trouble.to_string())?;
        self.free = (!passed).then(|| to.clone());
        Ok(())
    }
}

/// Another instance is to act than the one that does.
fn is_passing(cluster: &Cluster) -> bool {
    cluster.status.current_primary != cluster.status.target_primary
}
