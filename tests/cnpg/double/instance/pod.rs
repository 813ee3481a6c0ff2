//! One pod: what is true of it, what tests break in it, what it says of itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::super::api::client::Link;
use super::super::token::lsn;
use super::postgres::Postgres;

/// What has to happen before the container of PostgreSQL is started: the startup probe of a sidecar.
#[derive(Debug, Clone, Default)]
pub(crate) enum Gate {
    /// Nothing: there is no sidecar.
    #[default]
    None,
    /// `GET` of this URL has to answer 200.
    Url(String),
    /// This file has to be there.
    File(PathBuf),
}

/// What tests break in a pod, and what they set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knobs {
    /// The sidecar's startup probe; asked when the pod starts, not when its container is restarted.
    pub(crate) gate: Gate,
    /// The machine is gone: every process of it, and nothing is reported any more.
    pub(crate) node_down: bool,
    /// Neither operator nor other pods reach it.
    pub(crate) unreachable: bool,
    /// Its manager makes no pass, as when one of its statements does not come back; PostgreSQL, lease and
    /// probes go on.
    pub(crate) manager_hangs: bool,
    /// So many starts of PostgreSQL fail that follow the end of a fence.
    pub(crate) unfences_in_vain: u32,
    /// A fast stop does not come to an end, and an immediate one follows.
    pub(crate) fast_stop_fails: bool,
    /// The checkpoint before a stop takes so much longer; clients go on writing.
    pub(crate) checkpoint_takes: Duration,
}

/// What is true of a pod.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct State {
    /// The instance manager runs.
    pub(crate) container: bool,
    /// Why it does not.
    pub(crate) waiting: String,
    /// So often its container was restarted.
    pub(crate) restarts: u32,
    /// The manager's own flag; `cnpg_collector_fencing_on`.
    pub(crate) fenced: bool,
    /// PostgreSQL may be down without an end of the manager.
    pub(crate) might_be_unavailable: bool,
    /// A postmaster of the manager runs; without one `/readyz` says `instance is not ready yet`.
    pub(crate) session: bool,
    /// `cnpg_collector_up`: keeps its last value while fenced.
    pub(crate) collector_up: bool,
    /// The liveness probe has failed for good: the container is to be restarted.
    pub(crate) isolated: bool,
    /// The pod's Ready condition.
    pub(crate) ready: bool,
    /// The postmaster.
    pub(crate) pid: Option<u32>,
    /// What the manager has to say, the newest last.
    pub(crate) told: Vec<String>,
}

/// What `/pg/status` says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Report {
    /// Whether it is a primary; by its data when it does not answer.
    pub(crate) is_primary: bool,
    /// Its timeline, when it answers.
    pub(crate) timeline: Option<u64>,
    /// Its system identifier, when it answers.
    pub(crate) system: Option<String>,
    /// What it received.
    pub(crate) received: u64,
    /// What it replayed.
    pub(crate) replayed: u64,
    /// Whether its WAL receiver runs.
    pub(crate) receiver: bool,
    /// A setting waits for a restart.
    pub(crate) pending_restart: bool,
    /// `mightBeUnavailable`.
    pub(crate) masked: bool,
}

/// One pod.
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: String,
    /// Where its volumes are: `pgdata` and `run`.
    pub(crate) dir: PathBuf,
    /// Its PostgreSQL.
    pub(crate) postgres: Postgres,
    /// Its way to the API server.
    pub(crate) link: Arc<Link>,
    knobs: Mutex<Knobs>,
    state: Mutex<State>,
}

const REPORT: &str = "select concat_ws('|', pg_is_in_recovery(), (pg_control_checkpoint()).timeline_id, \
    (pg_control_system()).system_identifier, coalesce(pg_last_wal_receive_lsn(), '0/0'), \
    coalesce(pg_last_wal_replay_lsn(), '0/0'), (select count(*) from pg_stat_wal_receiver), \
    (select count(*) from pg_settings where pending_restart))";

impl Pod {
    /// A pod with a port and a directory of its own below `parent`.
    pub(crate) fn new(name: &str, parent: &Path, port: u16) -> std::io::Result<Self> {
        let dir = parent.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(Self {
            name: name.to_owned(),
            postgres: Postgres::new(&dir, port)?,
            dir,
            link: Arc::default(),
            knobs: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// What is broken in it.
    pub(crate) fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is true of it.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the manager has to say.
    pub(crate) fn tell(&self, text: impl Into<String>) {
        let text = text.into();
        let mut state = self.state();
        if state.told.last() != Some(&text) {
            state.told.push(text);
        }
    }

    /// Whether somebody on the network gets through to its manager.
    pub(crate) fn is_reachable(&self) -> bool {
        let knobs = self.knobs();
        let broken = knobs.unreachable || knobs.node_down;
        drop(knobs);
        !broken && self.state().container
    }

    /// What its manager answers who polls it; None: nothing.
    pub(crate) async fn report(&self) -> Option<Report> {
        if !self.is_reachable() {
            return None;
        }
        let masked = self.state().might_be_unavailable;
        match self.postgres.sql(REPORT).await {
            Ok(line) => {
                self.state().collector_up = true;
                read(&line).map(|report| Report { masked, ..report })
            }
            Err(_) if masked => {
                let is_primary = self.postgres.exists() && !self.postgres.is_standby();
                Some(Report { is_primary, masked, ..Report::default() })
            }
            Err(_) => None,
        }
    }
}

fn read(line: &str) -> Option<Report> {
    let fields: Vec<&str> = line.split('|').collect();
    let [recovery, timeline, system, received, replayed, receivers, pending] = fields.as_slice()
    else {
        return None;
    };
    Some(Report {
        is_primary: *recovery == "f",
        timeline: timeline.parse().ok(),
        system: Some((*system).to_owned()),
        received: lsn(received)?,
        replayed: lsn(replayed)?,
        receiver: *receivers != "0",
        pending_restart: *pending != "0",
        masked: false,
    })
}
