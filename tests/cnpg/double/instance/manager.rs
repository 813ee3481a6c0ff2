//! The instance manager: the process that runs PostgreSQL in a pod. It lives as long as its postmaster,
//! unless it has fenced that itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::api::client::Client;
use super::super::api::resource::CLUSTERS;
use super::super::cluster::Cluster;
use super::super::times::Times;
use super::super::world::{Version, World};
use super::lease::Lease;
use super::pod::Pod;
use super::postmaster::Postmaster;

/// How often a manager looks whether its cache has something new.
const TICK: Duration = Duration::from_millis(20);
/// The longest wait for a process that was told to end.
const END: Duration = Duration::from_secs(20);
/// The longest wait for a server that starts.
const START: Duration = Duration::from_secs(30);

/// What failed is tried again after this part of a second, then after twice as long each time, for so many times at
/// most, and at the latest after so many seconds: as every controller built on controller-runtime does.
const FIRST_RETRY: u32 = 200;
const RETRIES: u32 = 18;
const LONGEST_RETRY: u32 = 1000;

/// Why a manager ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was told to.
    Stopped,
    /// PostgreSQL ended, and nobody had told it to.
    PostgresEnded,
    /// It was the primary, and another one is to be.
    Demoted,
    /// Another one has the lease.
    LeaseLost,
    /// Its liveness probe failed: nobody is reached any more.
    Isolated,
}

/// When the next pass is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When something changes.
    Idle,
    /// At the latest after this time.
    In(Duration),
    /// Never: it ends.
    Exit(Exit),
}

/// One run of the manager.
pub(crate) struct Manager {
    pub(super) pod: Arc<Pod>,
    pub(super) client: Client,
    pub(super) cluster: String,
    pub(super) times: Times,
    pub(super) version: Version,
    pub(super) lease: Lease,
    pub(super) child: Option<Postmaster>,
    pub(super) initialized: bool,
    pub(super) started: bool,
    pub(super) pause: Option<Instant>,
}

impl Manager {
    /// Of `pod`, an instance of `cluster`.
    pub(crate) fn new(pod: &Arc<Pod>, world: &Arc<World>, cluster: &str) -> Self {
        let client = world.client(&format!("instance-manager:{}", pod.name), &pod.link);
        Self {
            lease: Lease::new(&client, cluster, &pod.name, world.times),
            pod: Arc::clone(pod),
            client,
            cluster: cluster.to_owned(),
            times: world.times,
            version: world.version,
            child: None,
            initialized: false,
            started: false,
            pause: None,
        }
    }

    /// Runs until it ends.
    pub(crate) async fn run(mut self, stop: &CancellationToken) -> Exit {
        {
            let mut state = self.pod.state();
            state.container = true;
            state.waiting.clear();
            (state.fenced, state.might_be_unavailable, state.session) = (false, false, false);
        }
        let exit = tokio::select! {
            exit = self.work() => exit,
            () = stop.cancelled() => Exit::Stopped,
        };
        self.pod.tell(format!("the instance manager ends: {exit:?}"));
        if self.pod.knobs().node_down {
            self.kill().await;
        } else {
            self.stop_smart_then_fast().await;
            if exit != Exit::PostgresEnded {
                self.lease.release().await;
            }
        }
        let mut state = self.pod.state();
        (state.container, state.session, state.pid) = (false, false, None);
        drop(state);
        exit
    }

    async fn work(&mut self) -> Exit {
        // Nothing starts before the API server has said what is to be.
        while self.client.get(&CLUSTERS, &self.cluster).await.is_err() {
            self.pod.tell("the API server does not answer");
            sleep(self.times.seconds(1)).await;
        }
        let mut failures = 0;
        loop {
            let version = self.client.cached_version(&CLUSTERS, &self.cluster);
            let next = match self.pass().await {
                Ok(next) => {
                    failures = 0;
                    next
                }
                Err(error) => {
                    self.pod.tell(error);
                    let again = self.times.seconds(1) / FIRST_RETRY * 2_u32.pow(failures);
                    failures = (failures + 1).min(RETRIES);
                    Next::In(again.min(self.times.seconds(LONGEST_RETRY)))
                }
            };
            let due = match next {
                Next::Exit(exit) => return exit,
                Next::In(wait) => Instant::now() + wait,
                Next::Idle => Instant::now() + self.times.seconds(30),
            };
            if let Some(exit) = self.wait(due, version).await {
                return exit;
            }
        }
    }

    async fn wait(&mut self, due: Instant, version: Option<String>) -> Option<Exit> {
        loop {
            if self.lease.is_lost() {
                return Some(Exit::LeaseLost);
            }
            if std::mem::take(&mut self.pod.state().isolated) {
                return Some(Exit::Isolated);
            }
            if let Some(child) = &self.child
                && let Some(status) = child.ended()
            {
                self.pod.tell(format!("PostgreSQL ended: {status}"));
                self.child = None;
                let mut state = self.pod.state();
                (state.session, state.pid) = (false, None);
                if !state.fenced && !state.might_be_unavailable {
                    return Some(Exit::PostgresEnded);
                }
            }
            let paused = self.pause.is_some_and(|until| Instant::now() < until)
                || self.pod.knobs().manager_hangs;
            let news = self.client.cached_version(&CLUSTERS, &self.cluster) != version;
            if !paused && (news || Instant::now() >= due) {
                return None;
            }
            sleep(TICK).await;
        }
    }

    /// Starts PostgreSQL and does not wait for it.
    pub(super) fn start(&mut self) -> Result<(), String> {
        let child = Postmaster::new(self.pod.postgres.start()?);
        let mut state = self.pod.state();
        state.pid = child.pid;
        state.session = true;
        drop(state);
        self.child = Some(child);
        self.started = true;
        Ok(())
    }

    /// Waits until it answers.
    pub(super) async fn wait_up(&mut self) -> Result<(), String> {
        let due = Instant::now() + START;
        loop {
            let Err(error) = self.pod.postgres.sql("select 1").await else { return Ok(()) };
            let ended = match &self.child {
                Some(child) => child.ended(),
                None => return Err("PostgreSQL does not run".to_owned()),
            };
            if let Some(status) = ended {
                self.ended();
                return Err(format!("PostgreSQL ended at its start: {status}"));
            }
            if Instant::now() > due {
                return Err(format!("PostgreSQL does not start: {error}"));
            }
            sleep(TICK).await;
        }
    }

    fn ended(&mut self) {
        self.child = None;
        let mut state = self.pod.state();
        (state.session, state.pid) = (false, None);
    }

    /// A stop as CloudNativePG does it before a fence or a switchover: a checkpoint without a limit while
    /// clients go on, then fast for as long as `switchoverDelay` says, then immediate.
    pub(super) async fn stop_fast_immediate(&mut self, cluster: Cluster<'_>) {
        if self.child.is_none() {
            return;
        }
        let knobs = self.pod.knobs().clone();
        if !self.pod.postgres.is_standby() {
            sleep(knobs.checkpoint_takes).await;
            let _ = self.pod.postgres.ask("CHECKPOINT", END).await;
        }
        let delay = self.times.whole(cluster.seconds("switchoverDelay", 3600));
        let fast = if knobs.fast_stop_fails {
            Err("the fast stop does not come to an end".to_owned())
        } else {
            self.pod.postgres.stop("fast", delay).await
        };
        if let Err(error) = fast {
            self.pod.tell(error);
            let _ = self.pod.postgres.stop("immediate", 60).await;
        }
        self.reap().await;
    }

    /// A stop as CloudNativePG does it when its pod goes or is isolated: sessions that are open go on
    /// writing for as long as `smartShutdownTimeout` says.
    async fn stop_smart_then_fast(&mut self) {
        if self.child.is_none() {
            return;
        }
        let object = self.client.cached(&CLUSTERS, &self.cluster).unwrap_or_default();
        let cluster = Cluster(&object);
        let (smart, stop) =
            (cluster.seconds("smartShutdownTimeout", 180), cluster.seconds("stopDelay", 1800));
        if smart > 0 && stop > smart {
            let _ = self.pod.postgres.stop("smart", self.times.whole(smart)).await;
        }
        if self.child.as_ref().is_some_and(|child| child.ended().is_none()) {
            let _ = self.pod.postgres.stop("fast", self.times.whole(stop).min(END.as_secs())).await;
        }
        self.reap().await;
    }

    /// Waits for the end of the postmaster; kills it when that does not come.
    async fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && timeout(END, child.wait()).await.is_err()
        {
            child.kill().await;
        }
        self.ended();
    }

    async fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().await;
        }
        self.ended();
    }
}
