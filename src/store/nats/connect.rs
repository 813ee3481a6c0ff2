//! How a connection is made, and what becomes known about it afterwards.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Auth as Shown, AuthError, Client, ClientError, ConnectOptions, Event};
use async_nats::{ServerAddr, ServerError};
use tokio::sync::watch;

use super::{Auth, Settings};
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
    /// The server's word that it does not let us in; cleared once it did.
    pub(super) refused: Option<String>,
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

    /// Begins to connect; goes on trying for ever in the background.
    pub(super) async fn begin(&self) -> Result<Client, OpenError> {
        let Self { settings, pulse, tell, .. } = self;
        let (pulse, tell) = (Arc::clone(pulse), tell.clone());
        let mut options = authenticate(settings.auth.clone())
            .name(&self.name)
            .custom_inbox_prefix(&self.inbox)
            .ping_interval(settings.ping_interval)
            .connection_timeout(settings.connect_timeout)
            .reconnect_delay_callback(reconnect_delay)
            .retry_on_initial_connect()
            .retain_servers_order()
            .client_capacity(QUEUE)
            .subscription_capacity(ARRIVALS)
            .event_callback(move |event| {
                note(&tell, &pulse, &event);
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
        let client = options.connect(self.servers.clone()).await;
        client.map_err(|e| OpenError::Unavailable(format!("cannot connect to NATS: {e}")))
    }
}

/// 50 ms more at each attempt up to half a second, and up to a quarter more, so that the agents of
/// a fleet do not knock all at once.
fn reconnect_delay(attempt: usize) -> Duration {
    trial::check("nats connection");
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
        Event::ServerError(ServerError::AuthorizationViolation) => refused(tell, pulse, event),
        Event::ServerError(ServerError::Other(text)) => {
            pulse.trouble(text);
            if text.to_lowercase().starts_with("permissions violation") {
                tell.send_modify(|news| {
                    news.denied.clone_from(text);
                    news.denials += 1;
                });
            }
        }
        Event::ClientError(ClientError::Other(text)) => {
            let lower = text.to_lowercase();
            if lower.contains("authorization") || lower.contains("signing") {
                refused(tell, pulse, event);
            } else {
                pulse.trouble(text);
            }
        }
        Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
            pulse.hint(Hint::Resync);
        }
        Event::LameDuckMode
        | Event::Draining
        | Event::ClientError(ClientError::MaxReconnects | ClientError::ServerNotInPool) => {
            tracing::debug!(%event, "nats");
        }
    }
}

fn refused(tell: &watch::Sender<News>, pulse: &Pulse, event: &Event) {
    pulse.trouble(&event.to_string());
    tell.send_modify(|news| news.refused = Some(event.to_string()));
}

fn authenticate(auth: Auth) -> ConnectOptions {
    match auth {
        Auth::None => ConnectOptions::new(),
        Auth::UserPassword { .. } | Auth::Token(_) | Auth::Nkey(_) | Auth::Credentials(_) => {
            ConnectOptions::with_auth_callback(move |nonce| {
                std::future::ready(show(&auth, &nonce).map_err(AuthError::new))
            })
        }
    }
}

/// What we show; the files are small and read at every connection.
fn show(auth: &Auth, nonce: &[u8]) -> Result<Shown, String> {
    let mut shown = Shown::new();
    match auth {
        Auth::None => {}
        Auth::UserPassword { user, password_file } => {
            shown.username = Some(user.clone());
            shown.password = Some(secret(password_file)?);
        }
        Auth::Token(file) => shown.token = Some(secret(file)?),
        Auth::Nkey(file) => {
            let (key, signature) = sign(&secret(file)?, nonce, file)?;
            shown.nkey = Some(key);
            shown.signature = Some(signature);
        }
        Auth::Credentials(file) => {
            let text = secret(file)?;
            let mut parts = text.lines().skip_while(|line| !line.starts_with("-----BEGIN"));
            let jwt = parts.nth(1).map(str::trim);
            let mut parts = parts.skip_while(|line| !line.starts_with("-----BEGIN"));
            let seed = parts.nth(1).map(str::trim);
            let (Some(jwt), Some(seed)) = (jwt, seed) else {
                return Err(format!("{} holds no JWT and seed", file.display()));
            };
            shown.jwt = Some(jwt.to_owned());
            shown.signature = Some(sign(seed, nonce, file)?.1);
        }
    }
    Ok(shown)
}

fn secret(file: &Path) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn sign(seed: &str, nonce: &[u8], file: &Path) -> Result<(String, Vec<u8>), String> {
    let about = |error: nkeys::error::Error| format!("{}: {error}", file.display());
    let pair = nkeys::KeyPair::from_seed(seed).map_err(about)?;
    Ok((pair.public_key(), pair.sign(nonce).map_err(about)?))
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

    #[test]
    fn secrets_are_read_again_and_credentials_taken_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        let auth = Auth::UserPassword { user: "u".to_owned(), password_file: file.clone() };
        assert!(show(&auth, b"").is_err());
        for password in ["one", "two"] {
            fs::write(&file, format!("{password}\n")).unwrap();
            assert_eq!(show(&auth, b"").unwrap().password.as_deref(), Some(password));
        }
        let pair = nkeys::KeyPair::new_user();
        let seed = pair.seed().unwrap();
        fs::write(&file, &seed).unwrap();
        assert_eq!(show(&Auth::Nkey(file.clone()), b"n").unwrap().nkey, Some(pair.public_key()));
        let text = format!(
            "-----BEGIN NATS USER JWT-----\nabc\n------END NATS USER JWT------\n\nsecret\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        fs::write(&file, text).unwrap();
        let shown = show(&Auth::Credentials(file.clone()), b"n").unwrap();
        assert_eq!((shown.jwt.as_deref(), shown.signature.is_some()), (Some("abc"), true));
        fs::write(&file, "nonsense").unwrap();
        assert!(show(&Auth::Credentials(file), b"n").is_err());
    }
}
