//! The lease of a Cluster's primary: taken before acting as one, kept through fences and demotions,
//! given back when the manager ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::api::admission::Lease as Seconds;
use super::super::api::client::Client;
use super::super::api::failure::Failure;
use super::super::api::resource::{CLUSTERS, LEASES};
use super::super::api::store::micro_timestamp;
use super::super::cluster::Cluster;
use super::super::times::Times;

#[derive(Default)]
struct Flags {
    wanted: AtomicBool,
    held: AtomicBool,
    lost: AtomicBool,
}

/// The lease as one manager has it.
pub(crate) struct Lease {
    flags: Arc<Flags>,
    keeper: Keeper,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Keeper {
    client: Client,
    cluster: String,
    own: String,
    times: Times,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lease {
    /// Wants nothing yet.
    pub(crate) fn new(client: &Client, cluster: &str, own: &str, times: Times) -> Self {
        let keeper = Keeper {
            client: client.clone(),
            cluster: cluster.to_owned(),
            own: own.to_owned(),
            times,
        };
        let flags = Arc::new(Flags::default());
        let task = tokio::spawn(keeper.clone().keep(Arc::clone(&flags)));
        Self { flags, keeper, task }
    }

    /// Asks for it, if that was not done; whether it is held.
    pub(crate) fn want(&self) -> bool {
        self.flags.wanted.store(true, Ordering::Relaxed);
        self.flags.held.load(Ordering::Relaxed)
    }

    /// Whether it was held and somebody else has it now.
    pub(crate) fn is_lost(&self) -> bool {
        self.flags.lost.load(Ordering::Relaxed)
    }

    /// Gives it back, if it is held.
    pub(crate) async fn release(&self) {
        self.task.abort();
        if !self.flags.held.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut lease) = self.keeper.client.get(&LEASES, &self.keeper.cluster).await else {
            return;
        };
        if lease["spec"]["holderIdentity"] == self.keeper.own.as_str() {
            lease["spec"]["holderIdentity"] = "".into();
            lease["spec"]["leaseDurationSeconds"] = self.keeper.seconds().released.into();
            lease["spec"]["renewTime"] = micro_timestamp().into();
            let _ = self.keeper.client.update(&LEASES, &lease).await;
        }
    }
}

impl Keeper {
    fn seconds(&self) -> Seconds {
        let cluster = self.client.cached(&CLUSTERS, &self.cluster).unwrap_or(Value::Null);
        Seconds::of(Cluster(&cluster))
    }

    async fn keep(self, flags: Arc<Flags>) {
        let mut seen: Option<(Value, Instant)> = None;
        loop {
            if flags.wanted.load(Ordering::Relaxed)
                && let Ok(held) = self.try_once(&mut seen).await
            {
                let before = flags.held.swap(held, Ordering::Relaxed);
                if before && !held {
                    flags.lost.store(true, Ordering::Relaxed);
                }
            }
            let quick = !flags.wanted.load(Ordering::Relaxed);
            let pause = self.times.seconds(self.seconds().retry);
            sleep(if quick { pause / 10 } else { pause }).await;
        }
    }

    /// One try to take or renew it; whether it is ours. Errors say nothing.
    async fn try_once(&self, seen: &mut Option<(Value, Instant)>) -> Result<bool, Failure> {
        let mut lease = self.client.get(&LEASES, &self.cluster).await?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        let seconds = self.seconds();
        if !holder.is_empty() && holder != self.own {
            match seen {
                Some((record, since)) if *record == lease["spec"] => {
                    if since.elapsed() < self.times.seconds(seconds.duration) {
                        return Ok(false);
                    }
                }
                _ => {
                    *seen = Some((lease["spec"].clone(), Instant::now()));
                    return Ok(false);
                }
            }
        }
        let spec = &mut lease["spec"];
        if !spec.is_object() {
            *spec = json!({});
        }
        let now = micro_timestamp();
        if holder != self.own {
            spec["holderIdentity"] = self.own.as_str().into();
            spec["acquireTime"] = now.as_str().into();
            let transitions = spec["leaseTransitions"].as_u64().unwrap_or(0);
            spec["leaseTransitions"] = (transitions + 1).into();
        }
        spec["leaseDurationSeconds"] = seconds.duration.into();
        spec["renewTime"] = now.into();
        self.client.update(&LEASES, &lease).await?;
        Ok(true)
    }
}
