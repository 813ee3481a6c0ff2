//! Owns the agent: one loop that takes in whatever happens next, reads the clock once, steps the
//! core, and starts what it asks for.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::clock;
use super::executor::Executor;
use super::peers::{Asked, Peers};
use super::recorder::Recorder;
use super::recording::Recording;
use crate::core::event::{Effect, Event, Exit, Guard, Observation, WatchdogStatus};
use crate::core::promise::PromiseAnswer;
use crate::core::status::Status;
use crate::core::{Agent, Deadline};
use crate::database::Database;
use crate::hooks::Hooks;
use crate::store::{Hint, Store};

/// Limit of one look at the database: beyond it the database is slow, not dead.
const OBSERVE_LIMIT: Duration = Duration::from_secs(1);

/// How long operations may take to end once the agent is done.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// The watchdog as the driver sees it.
pub trait Watchdog: std::fmt::Debug {
    /// Tells it; returns at once.
    fn guard(&self, guard: Guard);
    /// Its state, watched.
    fn status(&self) -> watch::Receiver<WatchdogStatus>;
}

/// What a driver works with.
#[derive(Debug)]
pub struct Parts {
    /// The core.
    pub agent: Agent,
    /// Runs its effects.
    pub executor: Executor,
    /// The member's database.
    pub database: Arc<dyn Database>,
    /// The store, once it could be opened.
    pub store: watch::Receiver<Option<Arc<dyn Store>>>,
    /// The watchdog, unless it is off.
    pub watchdog: Option<Box<dyn Watchdog>>,
    /// Orders from signals.
    pub orders: mpsc::Receiver<Event>,
    /// The way to the other agents.
    pub peers: Arc<Peers>,
    /// What they ask.
    pub asked: mpsc::Receiver<Asked>,
    /// The operator's programs.
    pub hooks: Arc<Hooks>,
    /// Where the status is shown.
    pub status: watch::Sender<Arc<Status>>,
    /// Logs and metrics.
    pub recorder: Recorder,
    /// What is kept to be replayed, unless nothing is.
    pub recording: Option<Recording>,
}

/// What the loop waits for.
#[expect(clippy::large_enum_variant, reason = "only one exists at a time")]
enum Wake {
    Event(Event),
    Asked(Asked),
    Hint,
    StoreOpened,
    Observed(Observation),
    Blind,
    Died,
    Time,
}

type Died = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The loop's own things.
struct Driver {
    parts: Parts,
    observing: Option<JoinHandle<Observation>>,
    observe_at: crate::core::time::Instant,
    died: Died,
    hints: Option<broadcast::Receiver<Hint>>,
    watchdog: watch::Receiver<WatchdogStatus>,
    /// Questions of peers that the core has not answered yet; it does within the step.
    questions: BTreeMap<u64, oneshot::Sender<PromiseAnswer>>,
    asked: u64,
    /// Keeps the receiver above open when nobody speaks for a watchdog.
    quiet: Option<watch::Sender<WatchdogStatus>>,
}

/// Runs the agent until it may stop; says why it did, and whether the database is known to be down.
pub async fn run(parts: Parts) -> (Exit, bool) {
    let mut driver = Driver::new(parts);
    loop {
        let wake = driver.next().await;
        let now = clock::now();
        let event = driver.event(wake);
        driver.parts.recorder.event(now, &event);
        let effects = driver.step(now, event);
        if let Some(exit) = driver.start(now, effects) {
            driver.publish();
            driver.parts.executor.close(CLOSE_LIMIT).await;
            if let Some(recording) = driver.parts.recording.take() {
                recording.close(CLOSE_LIMIT).await;
            }
            let look = driver.parts.database.observe(CLOSE_LIMIT).await;
            return (exit, !look.process.is_running());
        }
        driver.publish();
    }
}

impl Driver {
    fn new(parts: Parts) -> Self {
        let died = watch_for_death(&parts.database);
        let (watchdog, quiet) = match &parts.watchdog {
            Some(watchdog) => (watchdog.status(), None),
            None => {
                let (sender, receiver) = watch::channel(WatchdogStatus::Down);
                (receiver, Some(sender))
            }
        };
        let mut driver = Self {
            parts,
            observing: None,
            observe_at: clock::now(),
            died,
            hints: None,
            watchdog,
            questions: BTreeMap::new(),
            asked: 0,
            quiet,
        };
        driver.watchdog.mark_changed();
        driver.parts.store.mark_changed();
        driver
    }

    /// Waits for whatever happens first. Orders and completions come before looks and time.
    async fn next(&mut self) -> Wake {
        let now = clock::now();
        if self.observing.is_none() && now >= self.observe_at {
            self.observe();
        }
        let time = self.next_time();
        let Self { parts, observing, died, hints, watchdog, quiet, .. } = self;
        tokio::select! {
            biased;
            Some(order) = parts.orders.recv() => Wake::Event(order),
            () = died => Wake::Died,
            status = news(watchdog, quiet) => Wake::Event(Event::Watchdog(status)),
            event = parts.executor.next() => Wake::Event(event),
            Some(asked) = parts.asked.recv() => Wake::Asked(asked),
            Ok(()) = parts.store.changed() => Wake::StoreOpened,
            () = hint(hints) => Wake::Hint,
            observation = finished(observing) => match observation {
                Some(observation) => Wake::Observed(observation),
                None => Wake::Blind,
            },
            () = tokio::time::sleep(time) => Wake::Time,
        }
    }

    /// Time to the core's deadline or the next look. Timers count by another clock than the core:
    /// it is the core that compares its own reading with the deadline.
    fn next_time(&self) -> Duration {
        let now = clock::now();
        let deadline = self.parts.agent.deadline().map(|Deadline { at, .. }| at);
        let look = self.observing.is_none().then_some(self.observe_at);
        let at = [deadline, look].into_iter().flatten().min();
        at.map_or(Duration::from_secs(1), |at| at.since(now))
    }

    fn event(&mut self, wake: Wake) -> Event {
        match wake {
            Wake::Event(event) => {
                if matches!(event, Event::Acted(..)) {
                    // Whatever an observation under way saw was before the action ended.
                    self.abandon_look();
                    self.died = watch_for_death(&self.parts.database);
                }
                event
            }
            Wake::Asked(Asked { request, reply }) => {
                self.asked += 1;
                self.questions.insert(self.asked, reply);
                Event::PromiseAsked(self.asked, request)
            }
            Wake::Hint => Event::Changed,
            Wake::StoreOpened => {
                let store = self.parts.store.borrow_and_update();
                self.hints = store.as_ref().map(|store| store.changes());
                Event::Changed
            }
            Wake::Observed(observation) => {
                self.observing = None;
                self.observe_at = clock::now() + self.parts.agent.policy().heartbeat_interval;
                Event::Observed(observation)
            }
            Wake::Blind => {
                self.observe_at = clock::now() + self.parts.agent.policy().heartbeat_interval;
                Event::Tick
            }
            Wake::Died => {
                self.abandon_look();
                self.died = watch_for_death(&self.parts.database);
                Event::Died
            }
            Wake::Time => Event::Tick,
        }
    }

    /// Steps the core, and has it recorded.
    fn step(&mut self, now: crate::core::time::Instant, event: Event) -> Vec<Effect> {
        let Parts { agent, recording, .. } = &mut self.parts;
        let begun = recording.as_ref().and_then(|recording| recording.begin(agent, now, &event));
        let effects = agent.step(now, event);
        if let Some(recording) = recording {
            recording.end(begun, &effects);
        }
        effects
    }

    fn observe(&mut self) {
        let database = Arc::clone(&self.parts.database);
        self.observing =
            Some(tokio::task::spawn(async move { database.observe(OBSERVE_LIMIT).await }));
    }

    fn abandon_look(&mut self) {
        if let Some(look) = self.observing.take() {
            look.abort();
        }
        self.observe_at = clock::now();
    }

    /// Starts what the core asked for; returns why to stop when it asked for that.
    fn start(&mut self, now: crate::core::time::Instant, effects: Vec<Effect>) -> Option<Exit> {
        let mut exit = None;
        for effect in effects {
            self.parts.recorder.effect(now, &effect);
            match effect {
                Effect::Read(op, limit) => {
                    let store = self.parts.store.borrow().clone();
                    self.parts.executor.read(op, store, limit);
                }
                Effect::Write(op, write, limit) => {
                    let store = self.parts.store.borrow().clone();
                    self.parts.executor.write(op, store, write, limit);
                }
                Effect::Act(op, action, epoch, limit) => {
                    let right = self.parts.agent.writable_until();
                    self.parts.executor.act(op, action, epoch, limit, right);
                }
                Effect::BeforePromote(op, transition, limit) => {
                    let Parts { executor, hooks, .. } = &mut self.parts;
                    executor.before_promote(op, hooks, transition, limit);
                }
                Effect::Cancel(op) => self.parts.executor.cancel(op),
                Effect::EpochEnded(epoch) => self.parts.executor.epoch_ended(epoch),
                Effect::Observe => self.abandon_look(),
                Effect::Remember(op, floor) => self.parts.executor.remember(op, floor),
                Effect::Guard(guard) => {
                    if let Some(watchdog) = &self.parts.watchdog {
                        watchdog.guard(guard);
                    }
                }
                Effect::AskPromises(request, peers, limit) => {
                    for (member, address) in peers {
                        let request = request.clone();
                        self.parts.executor.ask(&self.parts.peers, member, address, request, limit);
                    }
                }
                Effect::Promise(number, answer) => {
                    if let Some(reply) = self.questions.remove(&number) {
                        // Whoever asked may have gone.
                        drop(reply.send(answer));
                    }
                }
                Effect::Report(report) => {
                    let store = self.parts.store.clone();
                    self.parts.executor.report(store, *report);
                }
                Effect::Became(transition) => self.parts.hooks.tell(&transition),
                Effect::Alarm(_) => {}
                Effect::Exit(why) => exit = Some(why),
            }
        }
        exit
    }

    fn publish(&mut self) {
        let status = Arc::new(self.parts.agent.status());
        self.parts.recorder.status(clock::now(), &status);
        self.parts.status.send_replace(status);
    }
}

fn watch_for_death(database: &Arc<dyn Database>) -> Died {
    let database = Arc::clone(database);
    Box::pin(async move { database.died().await })
}

/// The watchdog's next state. When its keeper has ended nobody speaks for it any more: it is down.
async fn news(
    watchdog: &mut watch::Receiver<WatchdogStatus>,
    quiet: &mut Option<watch::Sender<WatchdogStatus>>,
) -> WatchdogStatus {
    match watchdog.changed().await {
        Ok(()) => *watchdog.borrow_and_update(),
        Err(_) => {
            tracing::error!("the watchdog's keeper has ended");
            let (sender, gone) = watch::channel(WatchdogStatus::Down);
            *watchdog = gone;
            *quiet = Some(sender);
            WatchdogStatus::Down
        }
    }
}

/// The next hint; missed ones count as one. Pending without a store.
async fn hint(hints: &mut Option<broadcast::Receiver<Hint>>) {
    let Some(receiver) = hints else { return std::future::pending().await };
    match receiver.recv().await {
        Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
            // One read answers all that are waiting.
            while receiver.try_recv().is_ok() {}
        }
        Err(broadcast::error::RecvError::Closed) => {
            *hints = None;
            std::future::pending::<()>().await;
        }
    }
}

/// The look under way, or `None` when it broke; pending without one.
async fn finished(observing: &mut Option<JoinHandle<Observation>>) -> Option<Observation> {
    let Some(look) = observing else { return std::future::pending().await };
    match look.await {
        Ok(observation) => Some(observation),
        Err(error) => {
            tracing::error!(%error, "look at the database broke");
            *observing = None;
            None
        }
    }
}
