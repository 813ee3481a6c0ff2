//! One pass of the instance manager, in CloudNativePG's order.

use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::api::admission;
use super::super::api::failure::Failure;
use super::super::api::resource::{CLUSTERS, PODS};
use super::super::api::store::micro_timestamp;
use super::super::cluster::{Cluster, TRANSITION, set_condition};
use super::super::token::{self, Verdict};
use super::files;
use super::manager::{Exit, Manager, Next};

/// The phase of a Cluster whose primary is restarted where it is.
pub(crate) const RESTART: &str = "Primary instance is being restarted in-place";
/// The phase of a Cluster that only people can help.
pub(crate) const UNRECOVERABLE: &str = "Cluster is unrecoverable and needs manual intervention";

/// The readiness probe's period; a pause after a fence was lifted is twice as long.
const PROBE: u32 = 10;

impl Manager {
    /// One pass.
    pub(super) async fn pass(&mut self) -> Result<Next, String> {
        let Some(object) = self.client.cached(&CLUSTERS, &self.cluster) else {
            return Ok(Next::Idle);
        };
        let cluster = Cluster(&object);
        if admission::admit(&mut object.clone(), Some(&object)).is_err() {
            self.pod.tell("the Cluster is invalid");
            return Ok(Next::In(self.times.seconds(5)));
        }
        if self.token_is_wrong(cluster).await? {
            let reason = "Promotion token content is not correct for current instance";
            self.patch_status(json!({ "phase": UNRECOVERABLE, "phaseReason": reason })).await?;
            return Ok(Next::Idle);
        }
        self.write_files(cluster).await?;
        if !self.initialized {
            if !self.initialize(cluster).await? {
                return Ok(Next::In(self.times.seconds(1)));
            }
            self.initialized = true;
        }
        self.designate(cluster).await?;
        if !self.started && !self.pod.state().fenced {
            if !self.may_start(cluster) {
                self.pod.tell("Primary lease not yet acquired, retrying");
                return Ok(Next::In(self.times.seconds(1)));
            }
            self.start()?;
        }
        if let Some(next) = self.fencing(cluster).await? {
            return Ok(next);
        }
        let down = {
            let state = self.pod.state();
            state.fenced || state.might_be_unavailable
        };
        if down {
            return Ok(Next::Idle);
        }
        if self.pod.postgres.sql("select 1").await.is_err() {
            return Ok(Next::In(self.times.seconds(1)));
        }
        if let Some(next) = self.primary(cluster).await? {
            return Ok(next);
        }
        if let Some(next) = self.old_primary(cluster).await {
            return Ok(next);
        }
        self.restart_in_place(cluster).await?;
        Ok(Next::Idle)
    }

    async fn patch_status(&self, status: serde_json::Value) -> Result<(), String> {
        let answer = self.client.patch_status(&CLUSTERS, &self.cluster, status).await;
        answer.map(|_| ()).map_err(told)
    }

    async fn token_is_wrong(&self, cluster: Cluster<'_>) -> Result<bool, String> {
        let concerns = cluster.token_is_pending() && cluster.target() == self.pod.name;
        if !concerns || !self.pod.postgres.is_standby() {
            return Ok(false);
        }
        Ok(self.judge(cluster).await? == Verdict::Wrong)
    }

    async fn judge(&self, cluster: Cluster<'_>) -> Result<Verdict, String> {
        let content = token::read(cluster.token())?;
        Ok(token::judge(&content, &self.pod.postgres.control().await?))
    }

    async fn write_files(&self, cluster: Cluster<'_>) -> Result<(), String> {
        let postgres = &self.pod.postgres;
        let mut changed = postgres.write("custom.conf", &files::custom(cluster, postgres))?;
        if postgres.is_standby() {
            changed |= self.follow(cluster)?;
        } else {
            changed |= postgres.write("override.conf", "")?;
        }
        if changed && self.child.is_some() {
            // One that is on its way up or down reads them anyway.
            let _ = postgres.reload().await;
        }
        Ok(())
    }

    fn follow(&self, cluster: Cluster<'_>) -> Result<bool, String> {
        let designated = cluster.target() == self.pod.name;
        let conninfo = if designated && !cluster.is_replica() {
            // About to be promoted: nobody is followed anew.
            return Ok(false);
        } else if designated {
            files::external(cluster, cluster.text("/spec/replica/source"))?
        } else {
            let Some(port) = self.port_of(cluster.current()) else { return Ok(false) };
            files::peer(port, &self.pod.name)
        };
        self.pod.postgres.write("override.conf", &files::follow(&conninfo))
    }

    fn port_of(&self, pod: &str) -> Option<u16> {
        files::port(&self.client.cached(&PODS, pod)?)
    }

    /// What is done once before PostgreSQL starts; whether it was.
    async fn initialize(&mut self, cluster: Cluster<'_>) -> Result<bool, String> {
        let (own, current, target) = (self.pod.name.as_str(), cluster.current(), cluster.target());
        if !self.pod.postgres.is_standby() {
            if target == own && current.is_empty() {
                self.set_current().await?;
            } else if target != own && !target.is_empty() {
                // An old primary waits for the new one, and follows it.
                if current != target || !self.rejoin(cluster, current).await? {
                    return Ok(false);
                }
            }
        }
        let fenced = cluster.is_fenced(own);
        let mut state = self.pod.state();
        (state.fenced, state.might_be_unavailable) = (fenced, fenced);
        Ok(true)
    }

    async fn rejoin(&self, cluster: Cluster<'_>, current: &str) -> Result<bool, String> {
        let Some(port) = self.port_of(current) else { return Ok(false) };
        if TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            return Ok(false);
        }
        self.pod.postgres.rewind(&files::peer(port, &self.pod.name)).await?;
        self.pod.postgres.make_standby()?;
        self.write_files(cluster).await?;
        Ok(true)
    }

    async fn set_current(&self) -> Result<(), String> {
        let now = micro_timestamp();
        self.patch_status(
            json!({ "currentPrimary": self.pod.name, "currentPrimaryTimestamp": now }),
        )
        .await
    }

    /// A primary that takes over what it already was needs the lease before it starts (since 1.30.1).
    fn may_start(&self, cluster: Cluster<'_>) -> bool {
        let primary = !self.pod.postgres.is_standby() && !cluster.is_replica();
        self.version.starts_early()
            || !primary
            || cluster.target() != self.pod.name
            || self.lease.want()
    }

    /// A demotion, the manager's part: the fenced primary becomes a standby of another Cluster.
    async fn designate(&mut self, cluster: Cluster<'_>) -> Result<(), String> {
        let asked = cluster.is_replica() && cluster.condition(TRANSITION) == Some("False");
        let ready = self.pod.state().fenced && self.child.is_none();
        if !asked || !ready || cluster.current() != self.pod.name {
            return Ok(());
        }
        self.pod.postgres.make_standby()?;
        self.follow(cluster)?;
        let mut object = cluster.0.clone();
        let status = &mut object["status"];
        status["currentPrimary"] = self.pod.name.as_str().into();
        status["currentPrimaryTimestamp"] = micro_timestamp().into();
        let message = "Instance Manager has completed the DesignatedPrimary transition";
        set_condition(status, TRANSITION, "True", "TransitionCompleted", message);
        self.client.update_status(&CLUSTERS, &object).await.map(|_| ()).map_err(told)
    }

    async fn fencing(&mut self, cluster: Cluster<'_>) -> Result<Option<Next>, String> {
        let wanted = cluster.is_fenced(&self.pod.name);
        let is = self.pod.state().fenced;
        if wanted && !is {
            {
                let mut state = self.pod.state();
                (state.fenced, state.might_be_unavailable) = (true, true);
            }
            self.pod.tell("fenced");
            self.stop_fast_immediate(cluster).await;
            return Ok(Some(Next::In(self.times.seconds(1))));
        }
        if !wanted && is {
            self.pod.tell("the fence is lifted");
            self.pod.state().fenced = false;
            let left = self.pod.knobs().unfences_in_vain.checked_sub(1);
            if let Some(left) = left {
                self.pod.knobs().unfences_in_vain = left;
                return Err("PostgreSQL does not start".to_owned());
            }
            self.start()?;
            // One that does not start now stays down: nothing starts it again but another fence.
            self.wait_up().await?;
            self.pod.state().might_be_unavailable = false;
            self.pause = Some(Instant::now() + self.times.seconds(2 * PROBE));
            return Ok(Some(Next::In(self.times.seconds(1))));
        }
        Ok(None)
    }

    /// Who is to act does: with the lease, and with the token if there is one.
    async fn primary(&mut self, cluster: Cluster<'_>) -> Result<Option<Next>, String> {
        let own = self.pod.name.as_str();
        if cluster.target() != own {
            return Ok(None);
        }
        if cluster.is_replica() {
            if cluster.current() != own && self.pod.postgres.is_standby() {
                self.set_current().await?;
            }
            return Ok(None);
        }
        if self.version.has_leases() && !self.lease.want() {
            self.pod.tell("Primary lease not yet acquired, retrying");
            return Ok(Some(Next::In(self.times.seconds(1))));
        }
        if self.pod.postgres.is_standby()
            && let Some(wait) = self.promote(cluster).await?
        {
            return Ok(Some(wait));
        }
        if cluster.current() != own {
            self.set_current().await?;
        }
        if cluster.token_is_pending() {
            self.patch_status(json!({ "lastPromotionToken": cluster.token() })).await?;
        }
        Ok(None)
    }

    async fn promote(&self, cluster: Cluster<'_>) -> Result<Option<Next>, String> {
        let postgres = &self.pod.postgres;
        if cluster.token_is_pending() {
            postgres.sql("CHECKPOINT").await?;
            if self.judge(cluster).await? != Verdict::Right {
                self.pod.tell("Waiting for promotion token to be verified");
                return Ok(Some(Next::In(self.times.seconds(10))));
            }
        }
        let moves = cluster.current() != self.pod.name;
        if moves && postgres.sql("select count(*) from pg_stat_wal_receiver").await? != "0" {
            return Ok(Some(Next::In(self.times.seconds(1))));
        }
        self.pod.tell("promoted");
        postgres.promote().await?;
        postgres.sql("CHECKPOINT").await?;
        Ok(None)
    }

    async fn old_primary(&mut self, cluster: Cluster<'_>) -> Option<Next> {
        let target = cluster.target();
        if self.pod.postgres.is_standby() || target.is_empty() || target == self.pod.name {
            return None;
        }
        self.pod.tell(format!("{target} is to act, no longer this one"));
        self.stop_fast_immediate(cluster).await;
        Some(Next::Exit(Exit::Demoted))
    }

    async fn restart_in_place(&mut self, cluster: Cluster<'_>) -> Result<(), String> {
        let asked = cluster.text("/status/phase") == RESTART;
        if !asked || cluster.current() != self.pod.name || cluster.current() != cluster.target() {
            return Ok(());
        }
        self.pod.tell("restarted in place");
        self.stop_fast_immediate(cluster).await;
        self.start()?;
        self.wait_up().await?;
        let mut status = cluster.0["status"].clone();
        set_condition(&mut status, "Ready", "True", "ClusterIsReady", "Cluster is Ready");
        self.patch_status(json!({
            "phase": super::super::cluster::HEALTHY,
            "phaseReason": "Primary instance restarted in-place",
            "conditions": status["conditions"],
        }))
        .await
    }
}

fn told(failure: Failure) -> String {
    format!("{} {}", failure.code, failure.message)
}
