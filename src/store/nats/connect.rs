//! How a connection is made, and what becomes known about it afterwards.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::watch;
use tokio::time::{Instant as Deadline, sleep, timeout_at};

use super::Settings;
use super::identity::authenticate;
use super::refusal::refusal;
use crate::core::ids::{ClusterId, MemberId};
use crate::store::pulse::{Pulse, boot_time};
use crate::store::{Hint, OpenError, Rejection};
use crate::supervise::trial;

/// Operations that may wait for the connection to take them.
const QUEUE: usize = 64;

/// Replies and hints that may wait for us.
const ARRIVALS: usize = 1024;

/// What the connection told about itself.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// It stands.
    pub(super) connected: bool,
    /// Times it was made or lost.
    pub(super) changes: u64,
    /// While it does not: what somebody has to mend first.
    pub(super) refused: Option<Rejection>,
    /// While it does not: why the last try failed.
    pub(super) error: String,
    /// The server's last word on something we may not do.
    pub(super) denied: String,
    /// Times something was denied.
    pub(super) denials: u64,
}

/// Makes connections for one store.
#[derive(Debug)]
pub(super) struct Connector {
    name: String,
    inbox: String,
    servers: Vec<ServerAddr>,
    settings: Settings,
    pulse: Arc<Pulse>,
    tell: watch::Sender<News>,
}

impl Connector {
    /// Connects nowhere yet.
    pub(super) fn new(
        cluster: &ClusterId,
        member: &MemberId,
        settings: &Settings,
        pulse: Arc<Pulse>,
    ) -> Result<Self, OpenError> {
        let rejected = |text: String| OpenError::Rejected(Rejection::Other(text));
        if settings.tls_certificate_file.is_some() != settings.tls_key_file.is_some() {
            return Err(rejected(
                "a client certificate needs both its file and its key: set \
                 store.nats.tls_certificate_file and store.nats.tls_key_file"
                    .to_owned(),
            ));
        }
        let address = |text: &String| {
            let address = text.parse::<ServerAddr>();
            address.map_err(|e| rejected(format!("{text:?} is no address of a server: {e}")))
        };
        Ok(Self {
            name: format!("harmony-agent {cluster} {member}"),
            inbox: format!("_INBOX_{cluster}_{member}"),
            servers: settings.servers.iter().map(address).collect::<Result<_, _>>()?,
            settings: settings.clone(),
            pulse,
            tell: watch::Sender::new(News::default()),
        })
    }

    /// What all its connections tell, one after the other.
    pub(super) fn news(&self) -> watch::Receiver<News> {
        self.tell.subscribe()
    }

    /// Says that the connection before is gone, however it went.
    pub(super) fn gone(&self) {
        note(&self.tell, &self.pulse, &Event::Closed);
    }

    /// Connects, trying until `deadline`.
    pub(super) async fn connect(&self, deadline: Deadline) -> Result<Client, OpenError> {
        let mut error = "no time left".to_owned();
        for attempt in 1.. {
            match timeout_at(deadline, self.options().connect(self.servers.clone())).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(failed)) => error = failed.to_string(),
                Err(_) => break,
            }
            self.failed(&error);
            if timeout_at(deadline, sleep(pause(attempt))).await.is_err() {
                break;
            }
        }
        Err(match refusal(&self.settings, &error) {
            Some(rejection) => OpenError::Rejected(rejection),
            None => {
                let servers = self.settings.servers.join(", ");
                OpenError::Unavailable(format!("cannot connect to {servers}: {error}"))
            }
        })
    }

    /// A try to connect came to nothing.
    fn failed(&self, error: &str) {
        failed(&self.tell, &self.pulse, &self.settings, error);
    }

    fn options(&self) -> ConnectOptions {
        let Self { settings, pulse, tell, .. } = self;
        let (told, telling) =
            ((tell.clone(), Arc::clone(pulse)), (tell.clone(), Arc::clone(pulse)));
        let known = settings.clone();
        let mut options = authenticate(settings.auth.clone())
            .name(&self.name)
            .custom_inbox_prefix(&self.inbox)
            .ping_interval(settings.ping_interval)
            .connection_timeout(settings.connect_timeout)
            .reconnect_delay_callback(reconnect_delay)
            // Chooses nothing: only here the library tells why a server could not be reached.
            .reconnect_to_server_callback(move |servers, _| {
                let errors: Vec<_> = servers.into_iter().filter_map(|s| s.last_error).collect();
                if let Some(error) = worst(&known, &errors) {
                    failed(&told.0, &told.1, &known, error);
                }
                std::future::ready(None)
            })
            .retain_servers_order()
            .client_capacity(QUEUE)
            .subscription_capacity(ARRIVALS)
            .event_callback(move |event| {
                note(&telling.0, &telling.1, &event);
                std::future::ready(())
            });
        if let Some(file) = &settings.tls_ca_file {
            options = options.add_root_certificates(file.clone()).require_tls(true);
        }
        if let (Some(certificate), Some(key)) =
            (&settings.tls_certificate_file, &settings.tls_key_file)
        {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        options
    }
}

/// 50 ms more at each attempt up to half a second, and up to a quarter more, so that the agents of
/// a fleet do not knock all at once.
fn reconnect_delay(attempt: usize) -> Duration {
    trial::check("nats connection");
    pause(attempt)
}

fn pause(attempt: usize) -> Duration {
    let step = u64::try_from(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    let delay = step.saturating_mul(50).min(500);
    Duration::from_millis(delay + jitter(delay / 4))
}

/// Something between zero and `most`.
pub(super) fn jitter(most: u64) -> u64 {
    boot_time().as_nanos() / 1_000 % (most + 1)
}

fn note(tell: &watch::Sender<News>, pulse: &Pulse, event: &Event) {
    match event {
        Event::Connected => {
            tell.send_modify(|news| {
                news.connected = true;
                news.changes += 1;
                news.refused = None;
                news.error.clear();
            });
            pulse.connected(true);
            pulse.hint(Hint::Resync);
        }
        Event::Disconnected | Event::Closed => {
            tell.send_modify(|news| {
                news.connected = false;
                news.changes += 1;
            });
            pulse.connected(false);
            pulse.trouble("connection lost");
            pulse.hint(Hint::Resync);
        }
        Event::ServerError(ServerError::Other(text)) => {
            pulse.trouble(text);
            if text.to_lowercase().starts_with("permissions violation") {
                tell.send_modify(|news| {
                    news.denied.clone_from(text);
                    news.denials += 1;
                });
            }
        }
        Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
            pulse.hint(Hint::Resync);
        }
        Event::LameDuckMode
        | Event::Draining
        | Event::ServerError(ServerError::AuthorizationViolation)
        | Event::ClientError(_) => tracing::debug!(%event, "nats"),
    }
}

/// A try to connect came to nothing.
fn failed(tell: &watch::Sender<News>, pulse: &Pulse, settings: &Settings, error: &str) {
    let refused = refusal(settings, error);
    match &refused {
        Some(refused) => pulse.trouble(&refused.to_string()),
        None => pulse.trouble(&format!("cannot connect: {error}")),
    }
    tell.send_if_modified(|news| {
        if !news.connected {
            news.refused = refused;
            error.clone_into(&mut news.error);
        }
        false
    });
}

/// Of the errors of several servers the one that somebody has to mend, else the last.
fn worst<'a>(settings: &Settings, errors: &'a [String]) -> Option<&'a String> {
    let refused = errors.iter().find(|error| refusal(settings, error).is_some());
    refused.or(errors.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_short() {
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        for attempt in [2, 5, 11, 1_000_000, usize::MAX] {
            let delay = reconnect_delay(attempt);
            assert!(delay >= Duration::from_millis(50), "{attempt}: {delay:?}");
            assert!(delay <= Duration::from_millis(625), "{attempt}: {delay:?}");
        }
    }
}
