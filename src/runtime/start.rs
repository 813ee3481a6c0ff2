//! Puts an agent together from its configuration and runs it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::clock;
use super::driver::{self, Parts, Watchdog};
use super::executor::Executor;
use super::peers::{Peers, Way};
use super::recorder::Recorder;
use super::recording::Recording;
use super::reload::Reloader;
use super::show::{self, Setting};
use super::state_dir::{StateDir, StateDirError};
use super::watchdog::client;
use crate::config::{self, Config, Effective, Loaded};
use crate::core::event::{Event, Exit, Guard, WatchdogStatus};
use crate::core::ids::{BootId, ClusterId, InvalidId, MemberId};
use crate::core::policy::WatchdogMode;
use crate::core::status::Status;
use crate::core::{Agent, Identity};
use crate::database::cnpg::Cnpg;
use crate::database::local::Local;
use crate::database::{Database, Progress, SetupError};
use crate::hooks::Hooks;
use crate::http::{self, view::StoreView};
use crate::metrics::Metrics;
use crate::store::{self, OpenError, Store};
use crate::supervise::{self, End};
use crate::telemetry::Telemetry;

/// Limit of one try to open the store.
const OPEN_LIMIT: Duration = Duration::from_secs(3);

/// Time between two tries to open a store that did not answer; longer when it refused.
const OPEN_AGAIN: Duration = Duration::from_millis(200);

/// How long the start waits for the watchdog: a former one may hold a deadline that we must know.
const WATCHDOG_LIMIT: Duration = Duration::from_millis(300);

/// Where an agent comes from.
pub struct Inputs {
    /// The checked configuration.
    pub config: Config,
    /// Every key of it that has a value.
    pub effective: Vec<Effective>,
    /// Reads it again, for SIGHUP.
    pub reload: Box<dyn Fn() -> Result<Loaded, String> + Send + Sync>,
    /// Changes the level of logs.
    pub telemetry: Telemetry,
    /// This program, for the watchdog process.
    pub program: PathBuf,
}

impl std::fmt::Debug for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inputs").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Why an agent could not start, or stopped on its own.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The database's settings or programs.
    #[error(transparent)]
    Database(#[from] SetupError),
    /// The HTTP listener.
    #[error("http.listen = {address}: {source}; choose an address and port that are free")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// A made-up name was refused.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// The database could not be stopped in time.
    #[error(
        "told to stop, but PostgreSQL could not be proven down within timing.shutdown_timeout; the watchdog ends it at the end of the lease: check that it did"
    )]
    Overdue,
    /// Another agent with this member name is alive.
    #[error("{0}; give every member a name of its own")]
    NameTaken(String),
}

/// Runs the agent until it was told to stop and is done.
///
/// # Errors
/// It could not start, or must not go on.
pub async fn run(inputs: Inputs) -> Result<(), RunError> {
    let config = &inputs.config;
    let data_dir = config.database.data_dir();
    let state_dir =
        StateDir::open(&config.state_dir, data_dir, &config.cluster_id, &config.member)?;
    let floor = state_dir.read_floor()?;
    let listener = listen(config.http_listen)?;
    let database = open_database(&config.database).await?;
    let watchdog = start_watchdog(&inputs, &state_dir).await;
    let identity = Identity {
        member: config.member.clone(),
        boot: uuid::Uuid::new_v4().to_string().parse::<BootId>()?,
        instance: state_dir.instance().clone(),
        address: config.address.clone(),
    };
    let agent = Agent::new(identity.clone(), config.policy.clone(), floor, clock::now());
    let executor = Executor::new(identity, Arc::clone(&database), state_dir.floor_writer());
    let metrics = Metrics::new();
    let recorder = Recorder::new(config.member.clone(), metrics.clone());
    let hooks = start_hooks(config, &metrics);
    let (status, shown) = watch::channel(Arc::new(agent.status()));
    let store = open_store(config);
    let (peers, asked) = Peers::new(
        config.cluster_id.clone(),
        config.member.clone(),
        config.peers_secret_file.clone(),
        store.clone(),
    );
    let served = Arc::clone(&peers);
    for_ever("peer messages", move || Arc::clone(&served).serve());
    let shown = Shown {
        status: shown,
        progress: database.progress(),
        store: store.clone(),
        database: Arc::clone(&database),
    };
    serve(config, listener, metrics, &recorder, shown, Arc::clone(&peers));
    let leave = watchdog.clone();
    let recording = config.recording.clone().map(Recording::start);
    let parts = Parts {
        agent,
        executor,
        database,
        store,
        watchdog: watchdog.map(|client| Box::new(client) as Box<dyn Watchdog>),
        orders: orders(inputs)?,
        peers,
        asked,
        hooks: Arc::clone(&hooks),
        status,
        recorder,
        recording,
    };
    let (exit, down) = driver::run(parts).await;
    if down {
        // Nobody waits for this agent. A database that was left running needs the next one soon.
        hooks.finish().await;
    }
    if let Some(Handle(watchdog)) = leave.filter(|_| down) {
        // Nothing is left to guard: do not leave a process behind.
        if let Some(client) = Arc::into_inner(watchdog) {
            client.quit(WATCHDOG_LIMIT).await;
        }
    }
    match exit {
        Exit::Asked => Ok(()),
        Exit::Overdue => Err(RunError::Overdue),
        Exit::NameTaken(why) => Err(RunError::NameTaken(why)),
    }
}

/// The member's database, by its kind.
async fn open_database(database: &config::Database) -> Result<Arc<dyn Database>, RunError> {
    Ok(match database {
        config::Database::Local(settings) => Arc::new(Local::new(settings.clone())?),
        config::Database::Cnpg(settings) => {
            let site = Cnpg::new(settings.clone())?;
            site.check().await?;
            Arc::new(site)
        }
    })
}

/// Starts what runs the hooks.
fn start_hooks(config: &Config, metrics: &Metrics) -> Arc<Hooks> {
    let (cluster, member) = (config.cluster_id.clone(), config.member.clone());
    let hooks = Hooks::new(cluster, member, config.hooks.clone(), metrics.clone());
    let told = Arc::clone(&hooks);
    for_ever("hooks", move || Arc::clone(&told).serve());
    hooks
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, RunError> {
    let listener = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| RunError::Listen { address, source })
}

/// The watchdog's client, shared by the driver and the end of the program.
#[derive(Clone, Debug)]
struct Handle(Arc<client::Client>);

impl Watchdog for Handle {
    fn guard(&self, guard: Guard) {
        self.0.arm(guard);
    }

    fn status(&self) -> watch::Receiver<WatchdogStatus> {
        self.0.status()
    }
}

/// Starts the watchdog, or finds the one that a former agent left, unless it is off.
async fn start_watchdog(inputs: &Inputs, state_dir: &StateDir) -> Option<Handle> {
    if inputs.config.policy.watchdog == WatchdogMode::Off {
        return None;
    }
    let exe = inputs.program.clone();
    let socket = state_dir.watchdog_socket();
    let database = &inputs.config.database;
    let data_dir = database.data_dir().to_path_buf();
    let hold_port = database.port_to_hold();
    let client = client::Client::start(client::Settings { exe, socket, data_dir, hold_port });
    let mut status = client.status();
    let answered = status.wait_for(|status| *status != WatchdogStatus::Down);
    if timeout(WATCHDOG_LIMIT, answered).await.is_err() {
        tracing::warn!("the watchdog did not come up in time; going on without it for now");
    }
    Some(Handle(Arc::new(client)))
}

/// Opens the store in the background, for as long as it takes.
fn open_store(config: &Config) -> watch::Receiver<Option<Arc<dyn Store>>> {
    let (sender, receiver) = watch::channel(None);
    let (cluster, member) = (config.cluster_id.clone(), config.member.clone());
    let settings = match &config.store {
        config::Store::Sqlite(settings) => store::Settings::Sqlite(settings.clone()),
        config::Store::Nats(settings) => store::Settings::Nats(settings.clone()),
    };
    let sender = Arc::new(sender);
    for_ever("store opener", move || {
        keep_opening(cluster.clone(), member.clone(), settings.clone(), Arc::clone(&sender))
    });
    receiver
}

async fn keep_opening(
    cluster: ClusterId,
    member: MemberId,
    settings: store::Settings,
    sender: Arc<watch::Sender<Option<Arc<dyn Store>>>>,
) -> End {
    let mut said = String::new();
    while !sender.is_closed() {
        match store::open(&cluster, &member, &settings, OPEN_LIMIT).await {
            Ok(store) => {
                tracing::info!(capabilities = ?store.capabilities(), "store opened");
                sender.send_replace(Some(store));
                sender.closed().await;
                return End::Done;
            }
            Err(error) => {
                let text = error.to_string();
                if said != text {
                    tracing::warn!(error = text, "store not opened; trying again");
                    said = text;
                }
                let refused = matches!(error, OpenError::Rejected(_));
                sleep(if refused { OPEN_AGAIN * 10 } else { OPEN_AGAIN }).await;
            }
        }
    }
    End::Done
}

/// Keeps a service for as long as the program.
fn for_ever<F>(name: &'static str, service: impl FnMut() -> F + Send + 'static)
where
    F: Future<Output = End> + Send + 'static,
{
    drop(supervise::keep(name, service).detach());
}

/// What the status is made from.
struct Shown {
    status: watch::Receiver<Arc<Status>>,
    progress: watch::Receiver<Option<Progress>>,
    store: watch::Receiver<Option<Arc<dyn Store>>>,
    database: Arc<dyn Database>,
}

/// Shows status and metrics over HTTP.
fn serve(
    config: &Config,
    listener: std::net::TcpListener,
    metrics: Metrics,
    recorder: &Recorder,
    Shown { status: shown, progress, store, database }: Shown,
    peers: Arc<Peers>,
) {
    let setting = Setting {
        cluster: config.cluster_id.clone(),
        backend: config.store.backend().to_owned(),
        watchdog_wanted: config.policy.watchdog != WatchdogMode::Off,
        started: clock::now(),
        progress,
    };
    let beat = recorder.beat();
    let beat_age = move || {
        let beat = crate::core::time::Instant::from_nanos(beat.load(Ordering::Relaxed));
        clock::now().since(beat)
    };
    let told = shown.clone();
    let beat_limit = move || {
        let interval = told.borrow().timing.heartbeat_interval;
        interval.saturating_mul(4).max(Duration::from_secs(3))
    };
    let view = move || {
        let status = shown.borrow().clone();
        let opened = store.borrow().clone();
        show::view(&setting, &status, store_view(&setting, opened.as_deref()), clock::now())
    };
    let (view, beat_age, beat_limit) = (Arc::new(view), Arc::new(beat_age), Arc::new(beat_limit));
    let held_back = Arc::new(move || database.held_back());
    let peers = peers.takes_http().then_some(peers);
    let promise = peers.map(|peers| Arc::new(Questions(peers)) as Arc<dyn http::Questions>);
    let shared = http::Shared { view, beat_age, beat_limit, held_back, metrics, promise };
    for_ever("http listener", move || {
        let listener = listener.try_clone().and_then(TcpListener::from_std);
        let shared = shared.clone();
        async move {
            let served = match listener {
                Ok(listener) => http::serve(listener, shared, std::future::pending()).await,
                Err(error) => Err(error),
            };
            End::Lost(served.map_or_else(|error| error.to_string(), |()| "it ended".to_owned()))
        }
    });
}

/// Requests of peers that come over HTTP.
struct Questions(Arc<Peers>);

impl http::Questions for Questions {
    fn take(&self, payload: Vec<u8>) -> BoxFuture<'static, Option<Vec<u8>>> {
        let peers = Arc::clone(&self.0);
        Box::pin(async move { peers.take(&payload, Way::Http).await })
    }
}

fn store_view(setting: &Setting, store: Option<&dyn Store>) -> StoreView {
    let health = store.map(|store| store.health().borrow().clone());
    StoreView {
        connected: health.as_ref().is_some_and(|health| health.connected),
        trouble: match health {
            Some(health) => health.trouble,
            None => Some("not opened yet".to_owned()),
        },
        backend: setting.backend.clone(),
        incarnation: store.map(Store::incarnation),
    }
}

/// Signals as orders: SIGTERM and SIGINT stop the agent, SIGHUP reads the settings again.
fn orders(inputs: Inputs) -> Result<mpsc::Receiver<Event>, RunError> {
    // Listened to before anything else happens; a service that breaks listens again.
    let mut first = Some(Signals::listen().map_err(RunError::Signals)?);
    let (sender, receiver) = mpsc::channel(8);
    let inputs = Arc::new(inputs);
    for_ever("signals", move || {
        let signals = first.take().map_or_else(Signals::listen, Ok);
        take_orders(Arc::clone(&inputs), signals, sender.clone())
    });
    Ok(receiver)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn take_orders(
    inputs: Arc<Inputs>,
    signals: std::io::Result<Signals>,
    sender: mpsc::Sender<Event>,
) -> End {
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => return End::Lost(error.to_string()),
    };
    let mut on_sigterm = inputs.config.on_sigterm;
    let mut reloader = Reloader::new(&inputs);
    while !sender.is_closed() {
        let order = tokio::select! {
            _ = signals.terminate.recv() => Some(Event::Shutdown(on_sigterm)),
            _ = signals.interrupt.recv() => Some(Event::Shutdown(on_sigterm)),
            _ = signals.hangup.recv() => reloader.read().map(|config| {
                on_sigterm = config.on_sigterm;
                Event::Reconfigured(config.policy)
            }),
        };
        if let Some(order) = order
            && sender.send(order).await.is_err()
        {
            break;
        }
    }
    End::Done
}
