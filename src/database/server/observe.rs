//! Looking at the instance: processes, files, and a question by SQL that is never asked twice at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::files::{Files, Main, look_at_files, stopped};
use super::look::{Asker, Seen};
use super::probe::{Probe, ProbeResult};
use super::process::pid_file_status;
use super::sql::Trouble;
use super::wait;
use crate::core::event::{Condition, Observation, Process};
use crate::core::ids::{Lsn, TimelineId};

/// A primary with less free space than this is about to stop at its next WAL file.
const LITTLE_SPACE: u64 = 1024 * 1024;

/// An answer, and the connection it came by while that is good.
type Asked = (Option<Arc<Asker>>, Result<Seen, Trouble>);

/// What is kept from look to look.
#[derive(Debug, Default)]
pub(in crate::database) struct Watcher {
    asker: Option<Arc<Asker>>,
    asking: Option<JoinHandle<Asked>>,
    asked_at: Option<Instant>,
    probe: Probe,
    patience: Patience,
    frozen: Patience,
    /// The postmaster last seen and what it said.
    known: Option<(i32, Option<Seen>)>,
    files: Option<oneshot::Receiver<Files>>,
    last_files: Option<Files>,
}

/// How long nothing was answered, counted only while somebody was there to hear it: a frozen agent
/// must not take its own silence for the database's.
#[derive(Debug, Default)]
pub(in crate::database) struct Patience {
    last: Option<Instant>,
    silent: Duration,
}

impl Patience {
    fn tick(&mut self, step_limit: Duration) {
        let now = Instant::now();
        let step = self.last.map_or(Duration::ZERO, |last| now - last);
        self.silent += step.min(step_limit);
        self.last = Some(now);
    }

    fn answered(&mut self) {
        self.silent = Duration::ZERO;
    }

    /// Counts while `silent` is so, and begins anew when it is not.
    fn tick_while(&mut self, silent: bool, step_limit: Duration) {
        self.tick(step_limit);
        if !silent {
            self.answered();
        }
    }
}

/// Looks once, within `limit`.
pub(in crate::database) async fn observe(server: &Arc<Server>, limit: Duration) -> Observation {
    let end = Instant::now() + limit;
    let mut watcher = server.watcher.lock().await;
    let step_limit = (limit * 2).max(Duration::from_secs(1));
    watcher.patience.tick(step_limit);
    let required = server.required.load(Ordering::Relaxed);
    let (files, fresh) = watcher.files(server, end).await;
    let mut seen = Observation { required, ..blank(Process::Running, Condition::Slow) };
    match files {
        Files::Running { main, free } => {
            if fresh {
                watcher.frozen.tick_while(main.frozen, step_limit);
            }
            running(server, &mut watcher, main, free, fresh, end, &mut seen).await
        }
        Files::Absent
        | Files::Unusable(_)
        | Files::Stopped { .. }
        | Files::Remnants(_)
        | Files::Unclear(_) => {
            watcher.forget();
            stopped(server, files, end, &mut seen).await;
        }
    }
    seen
}

fn blank(process: Process, condition: Condition) -> Observation {
    Observation {
        process,
        condition,
        system: None,
        timeline: TimelineId(0),
        lsn: Lsn(0),
        replayed: Lsn(0),
        streaming: false,
        upstream: None,
        required: false,
        deputy_of: None,
        hindered: None,
        doubtful: None,
        standbys: Vec::new(),
    }
}

impl Watcher {
    fn forget(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        self.asker = None;
        self.probe = Probe::default();
        self.known = None;
        self.patience.answered();
        self.frozen.answered();
    }

    /// Looks at processes and files where it may block; what was seen last when it does.
    async fn files(&mut self, server: &Arc<Server>, end: Instant) -> (Files, bool) {
        let mut pending = match self.files.take() {
            Some(pending) => pending,
            None => {
                let (answer, pending) = oneshot::channel();
                let server = Arc::clone(server);
                tokio::task::spawn_blocking(move || {
                    // The observer may have stopped waiting.
                    let _ = answer.send(look_at_files(&server));
                });
                pending
            }
        };
        match tokio::time::timeout_at(end, &mut pending).await {
            Ok(Ok(files)) => {
                self.last_files = Some(files.clone());
                (files, true)
            }
            Ok(Err(_)) => (Files::Unclear("the look at the files ended early".to_owned()), true),
            Err(_) => {
                self.files = Some(pending);
                let text = "the data directory does not answer: is its disk hanging?".to_owned();
                (self.last_files.clone().unwrap_or(Files::Unclear(text)), false)
            }
        }
    }

    /// Asks the server, or goes on waiting for the answer to the question asked before.
    async fn ask(&mut self, server: &Arc<Server>, until: Instant) -> Option<Result<Seen, Trouble>> {
        // One connection may be stuck while the server is not: give up on it in time for another try.
        // Later tries are rarer, as each takes one of the server's connections.
        let hung_after = server.place.at.hung_after;
        let limit = if self.patience.silent < hung_after { hung_after / 3 } else { hung_after };
        let stuck = self.asked_at.is_some_and(|at| at.elapsed() > limit);
        if stuck && let Some(asking) = self.asking.take_if(|asking| !asking.is_finished()) {
            asking.abort();
            self.asker = None;
        }
        let asker = self.asker.take_if(|asker| asker.session.is_open());
        let asking = self.asking.get_or_insert_with(|| {
            self.asked_at = Some(Instant::now());
            tokio::spawn(ask(Arc::clone(server), asker.clone()))
        });
        let mut done = tokio::time::timeout_at(until, &mut *asking).await.ok();
        if done.is_none() {
            // After a freeze of the agent the time is up before the answer was even read.
            done = timeout(Duration::from_millis(5), &mut *asking).await.ok();
        }
        let done = done?;
        self.asking = None;
        match done {
            Ok((asker, result)) => {
                self.asker = asker;
                Some(result)
            }
            Err(error) => Some(Err(Trouble::Lost(format!("the question ended: {error}")))),
        }
    }
}

async fn ask(
    server: Arc<Server>,
    asker: Option<Arc<Asker>>,
) -> (Option<Arc<Asker>>, Result<Seen, Trouble>) {
    if let Some(asker) = asker {
        let result = asker.ask().await;
        match &result {
            // A broken connection says nothing about the server: ask again on a new one.
            Err(Trouble::Lost(_)) => {}
            _ => return (Some(asker), result),
        }
    }
    match Asker::open(&server.place).await {
        Ok(asker) => {
            let result = asker.ask().await;
            if result.as_ref().is_ok_and(|seen| seen.in_recovery) {
                wait::keep_ready(&server).await;
            }
            (Some(Arc::new(asker)), result)
        }
        Err(trouble) => (None, Err(trouble)),
    }
}

async fn running(
    server: &Arc<Server>,
    watcher: &mut Watcher,
    main: Main,
    free: u64,
    fresh: bool,
    end: Instant,
    seen: &mut Observation,
) {
    let pid = main.pid;
    if watcher.known.as_ref().is_none_or(|(known, _)| *known != pid) {
        watcher.forget();
        watcher.known = Some((pid, None));
    }
    if server.role_changed.swap(false, Ordering::Relaxed) {
        watcher.known = Some((pid, None));
    }
    let answer = watcher.ask(server, end).await;
    if answer
        .as_ref()
        .is_some_and(|answer| answer.as_ref().map_or_else(Trouble::is_answer, |_| true))
    {
        watcher.patience.answered();
    }
    // Sessions that exist go on under a frozen postmaster, ours too: they cannot tell. A connection of
    // its own would not either, as one that gets none may have come upon a full server or a slow fork.
    let frozen = watcher.frozen.silent;
    let hung_after = server.place.at.hung_after;
    let silent = watcher.patience.silent;
    let mut condition = match &answer {
        Some(Ok(_)) if fresh => Condition::Ok,
        Some(Ok(_)) => Condition::Slow,
        Some(Err(trouble)) => condition_of(server, trouble, silent, hung_after),
        None if silent >= hung_after => Condition::Hung(format!("no answer for {silent:?}")),
        None => Condition::Slow,
    };
    if let Some(Ok(answer)) = answer {
        server.launcher.ready();
        if !answer.in_recovery && free < LITTLE_SPACE {
            condition = Condition::DiskFull(format!("{free} bytes of disk space left"));
        }
        remember(&mut watcher.known, pid, answer);
    }
    if let Some((_, Some(last))) = &watcher.known {
        if last.in_recovery {
            watcher.probe = Probe::default();
        } else {
            let step_limit = Duration::from_secs(1);
            condition = match watcher.probe.check(server, step_limit).await {
                ProbeResult::Fine => condition,
                ProbeResult::DiskFull(text) => Condition::DiskFull(text),
                ProbeResult::Hung(text) => Condition::Hung(text),
            };
        }
        fill(seen, last);
    } else if matches!(condition, Condition::ConnectionsExhausted | Condition::Denied(_)) {
        by_control_file(server, end, seen).await;
    }
    if frozen >= hung_after
        && matches!(condition, Condition::Ok | Condition::Slow | Condition::Hung(_))
    {
        condition = Condition::Hung(format!(
            "the postmaster (process {pid}) has been stopped by a signal for {frozen:?}: \
             it takes no new connections; `kill -CONT {pid}` lets it go on"
        ));
    }
    seen.condition = condition;
}

/// What a server is that is up and lets nobody in who could ask: it says so in its control file.
async fn by_control_file(server: &Arc<Server>, end: Instant, seen: &mut Observation) {
    let cancel = CancellationToken::new();
    let read = server.control.read(&server.place, &cancel);
    let Ok(Ok(control)) = tokio::time::timeout_at(end, read).await else { return };
    seen.process =
        if control.in_recovery() { Process::RunningStandby } else { Process::RunningPrimary };
    seen.system = Some(control.system);
    seen.timeline = control.timeline;
    seen.lsn = control.end();
    seen.replayed = seen.lsn;
}

/// Keeps what was said; a standby's timeline does not go back when its receiver ends.
fn remember(known: &mut Option<(i32, Option<Seen>)>, pid: i32, mut answer: Seen) {
    if let Some((_, Some(last))) = known
        && last.in_recovery
        && answer.in_recovery
    {
        answer.timeline = answer.timeline.max(last.timeline);
    }
    *known = Some((pid, Some(answer)));
}

fn fill(seen: &mut Observation, last: &Seen) {
    seen.process = if last.in_recovery { Process::RunningStandby } else { Process::RunningPrimary };
    seen.system = last.system;
    seen.timeline = last.timeline;
    seen.lsn = last.lsn;
    seen.replayed = last.replayed;
    seen.streaming = last.streaming;
    seen.upstream.clone_from(&last.upstream);
    seen.standbys.clone_from(&last.standbys);
}

fn condition_of(
    server: &Server,
    trouble: &Trouble,
    silent: Duration,
    hung_after: Duration,
) -> Condition {
    let status = pid_file_status(&server.place).unwrap_or_default();
    match trouble {
        Trouble::NotReady if status == "stopping" => Condition::Stopping,
        Trouble::NotReady => Condition::Starting,
        Trouble::Exhausted => Condition::ConnectionsExhausted,
        Trouble::Denied(text) | Trouble::Answered(text) => Condition::Denied(text.clone()),
        Trouble::DiskFull(text) => Condition::DiskFull(text.clone()),
        Trouble::NotListening(_) if status == "stopping" => Condition::Stopping,
        // Somebody removed the socket of a running server.
        Trouble::NotListening(text) if status == "ready" => Condition::Denied(text.clone()),
        Trouble::NotListening(_) => Condition::Starting,
        Trouble::Lost(_) if status == "stopping" => Condition::Stopping,
        Trouble::Lost(text) if silent >= hung_after => Condition::Hung(text.clone()),
        Trouble::Lost(_) => Condition::Slow,
    }
}
