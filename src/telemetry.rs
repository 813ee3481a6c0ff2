//! Logs: text on a terminal, JSON otherwise; values as fields, not in the message.
//!
//! ERROR: the agent cannot do its work. WARN: somebody should look (every alarm). INFO: what changed.
//! DEBUG: what was tried.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;
use crate::core::event::{Alarm, Transition};
use crate::core::ids::MemberId;

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is not understood.
    #[error("log level {level:?} is not a filter: {why}")]
    Level {
        /// As read.
        level: String,
        /// The rule it broke.
        why: tracing_subscriber::filter::ParseError,
    },
    /// Logging is set up already.
    #[error("logging is set up already")]
    AlreadySet,
    /// Logging is gone.
    #[error("logging has ended")]
    Gone,
}

/// Changes the level of running logs.
#[derive(Clone, Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// From now on log what `level` says: a word or a filter.
    ///
    /// # Errors
    /// `level` is not understood; nothing is changed then.
    pub fn set_level(&self, level: &str) -> Result<(), Error> {
        self.filter.reload(filter(level)?).map_err(|_| Error::Gone)
    }
}

/// Sets up the logs of this process, on standard error.
///
/// # Errors
/// `level` is not understood, or logs were set up before.
pub fn init(format: LogFormat, level: &str) -> Result<Telemetry, Error> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let terminal = std::io::stderr().is_terminal();
    let as_text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if as_text {
        lines.with_ansi(terminal).boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|_| Error::AlreadySet)?;
    Ok(Telemetry { filter: handle })
}

/// Logs one transition; the only place that does. `boottime` is the boot clock in seconds, so that
/// lines of several agents of one machine can be compared.
pub fn transition(member: &MemberId, transition: &Transition, boottime: f64) {
    tracing::info!(
        %member,
        from = transition.from.name(),
        to = transition.to.name(),
        reason = transition.reason.name(),
        epoch = transition.epoch.0,
        boottime,
        "transition"
    );
}

/// Logs one alarm; the only place that does.
pub fn alarm(member: &MemberId, alarm: Alarm) {
    tracing::warn!(%member, alarm = alarm.name(), "alarm");
}

/// The NATS library logs each try to connect: what it finds is told by the store instead.
fn filter(level: &str) -> Result<EnvFilter, Error> {
    // Both log each failed try, which is said in our own words.
    let quiet = ["async_nats", "kube_client"].into_iter().filter(|name| !level.contains(name));
    let quiet: String = quiet.map(|name| format!(",{name}=off")).collect();
    EnvFilter::try_new(format!("{level}{quiet}"))
        .map_err(|why| Error::Level { level: level.to_owned(), why })
}
