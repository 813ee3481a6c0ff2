//! Requests over one connection, each with a deadline. Replies are sorted out here and not by the
//! client library, which keeps an entry for ever for each request that is never answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch};
use tokio::time::{Instant as Deadline, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Settings;
use super::connect::{Connector, News};
use crate::core::ids::{ClusterId, MemberId};
use crate::store::pulse::Pulse;
use crate::store::{OpenError, ReadError, Rejection};
use crate::supervise::{self, End};

/// The oldest server whose promises we count on: before it, two writers could win around a change
/// of leader.
const OLDEST_SERVER: (u64, u64) = (2, 11);

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// It was not given to the connection, and never will be.
    NotSent(String),
    /// The server has nobody to answer it: no leader right now.
    NobodyThere,
    /// The server does not let us do this, or not in at all: somebody has to mend it.
    Denied(Rejection),
    /// It may have arrived.
    Lost(String),
}

type Replies = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Message>>>>;

/// The name in logs of what sorts out replies.
const NAME: &str = "nats replies";

/// How long one run of it tries to connect anew.
const ANEW: Duration = Duration::from_secs(60);

/// The way to the servers: one connection, and another one when the client library loses it.
#[derive(Debug)]
pub(super) struct Link {
    line: Arc<Mutex<Line>>,
    news: watch::Receiver<News>,
    replies: Replies,
    asked: AtomicU64,
    _sorter: AbortOnDropHandle<()>,
}

/// One connection.
#[derive(Clone, Debug)]
struct Line {
    client: Client,
    inbox: String,
}

impl Line {
    /// Connects until `deadline`, and listens for replies.
    async fn open(
        connector: &Connector,
        deadline: Deadline,
    ) -> Result<(Self, Subscriber), OpenError> {
        let client = connector.connect(deadline).await?;
        let inbox = client.new_inbox();
        let arrivals = client.subscribe(format!("{inbox}.*")).await;
        let arrivals = arrivals.map_err(|error| OpenError::Unavailable(error.to_string()))?;
        Ok((Self { client, inbox }, arrivals))
    }
}

/// Forgets a request that is no longer waited for.
struct Waiting<'a> {
    replies: &'a Replies,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Link {
    /// Connects, waiting until `deadline`.
    pub(super) async fn connect(
        cluster: &ClusterId,
        member: &MemberId,
        settings: &Settings,
        pulse: Arc<Pulse>,
        deadline: Deadline,
    ) -> Result<Self, OpenError> {
        let connector = Arc::new(Connector::new(cluster, member, settings, pulse)?);
        let news = connector.news();
        let (line, arrivals) = Line::open(&connector, deadline).await?;
        let line = Arc::new(Mutex::new(line));
        let replies = Replies::default();
        let sorter = Arc::new(AsyncMutex::new(Sorter {
            connector,
            line: Arc::clone(&line),
            arrivals: Some(arrivals),
            replies: Arc::clone(&replies),
        }));
        let sorter = supervise::keep(NAME, move || {
            let sorter = Arc::clone(&sorter);
            async move { sorter.lock().await.run().await }
        });
        let link = Self { line, news, replies, asked: AtomicU64::new(0), _sorter: sorter };
        link.connected(deadline).await.map_err(ReadError::from)?;
        link.check_server()?;
        Ok(link)
    }

    /// Version of the server connected to.
    pub(super) fn version(&self) -> String {
        self.line().client.server_info().version
    }

    fn line(&self) -> Line {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the server is one that we may count on.
    pub(super) fn check_server(&self) -> Result<(), Rejection> {
        check_version(&self.version())
    }

    /// What the connection tells about itself.
    pub(super) fn news(&self) -> watch::Receiver<News> {
        self.news.clone()
    }

    /// Listens to a subject; the client library subscribes again after each reconnect. Ends only
    /// with the connection itself: then subscribe again.
    pub(super) async fn subscribe(&self, subject: String) -> Result<Subscriber, Unanswered> {
        let subscribed = self.line().client.subscribe(subject).await;
        subscribed.map_err(|error| Unanswered::NotSent(error.to_string()))
    }

    /// Waits until connected.
    pub(super) async fn connected(&self, deadline: Deadline) -> Result<(), Unanswered> {
        let mut news = self.news.clone();
        let connected = timeout_at(deadline, news.wait_for(|news| news.connected)).await;
        if matches!(connected, Ok(Ok(_))) {
            return Ok(());
        }
        Err(not_connected(&self.news.borrow()))
    }

    /// Sends `payload` and waits for the answer until `deadline`. Nothing is handed to a broken
    /// connection: it would be kept, and sent after the next reconnect.
    pub(super) async fn request(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Vec<u8>,
        deadline: Deadline,
    ) -> Result<Message, Unanswered> {
        let mut news = self.news.clone();
        let before = news.borrow_and_update().clone();
        let line = self.line();
        if !before.connected || line.client.connection_state() != State::Connected {
            return Err(not_connected(&before));
        }
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        let _waiting = Waiting { replies: &self.replies, number };
        let inbox = format!("{}.{number}", line.inbox);
        let publish = line.client.publish_with_reply_and_headers(
            subject.to_owned(),
            inbox,
            headers,
            payload.into(),
        );
        match timeout_at(deadline, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Unanswered::NotSent(error.to_string())),
            Err(_) => return Err(Unanswered::NotSent("the connection is busy".to_owned())),
        }
        let answer = timeout_at(deadline, async {
            tokio::select! {
                biased;
                reply = reply => reply.map_err(|_| Unanswered::Lost("closed".to_owned())),
                why = self.broken(&mut news, &before, subject, &line.inbox) => Err(why),
            }
        });
        let message = answer.await.unwrap_or_else(|_| Err(Unanswered::Lost("no answer".into())))?;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(Unanswered::NobodyThere);
        }
        Ok(message)
    }

    /// Sends `payload`, unless the connection is broken.
    pub(super) async fn publish(
        &self,
        subject: String,
        payload: Vec<u8>,
    ) -> Result<(), Unanswered> {
        let client = self.line().client;
        if client.connection_state() != State::Connected {
            return Err(Unanswered::NotSent("not connected".to_owned()));
        }
        let published = client.publish(subject, payload.into()).await;
        published.map_err(|error| Unanswered::NotSent(error.to_string()))
    }

    /// Ends when no answer can come any more.
    async fn broken(
        &self,
        news: &mut watch::Receiver<News>,
        before: &News,
        subject: &str,
        inbox: &str,
    ) -> Unanswered {
        loop {
            if news.changed().await.is_err() {
                return Unanswered::Lost("closed".to_owned());
            }
            let now = news.borrow_and_update();
            if now.denials != before.denials
                && (now.denied.contains(&format!("\"{subject}\"")) || now.denied.contains(inbox))
            {
                return Unanswered::Denied(Rejection::Permission(now.denied.clone()));
            }
            if now.changes != before.changes {
                return Unanswered::Lost("the connection broke".to_owned());
            }
        }
    }
}

fn not_connected(news: &News) -> Unanswered {
    match &news.refused {
        Some(refused) => Unanswered::Denied(refused.clone()),
        None if news.error.is_empty() => Unanswered::NotSent("not connected".to_owned()),
        None => Unanswered::NotSent(format!("not connected: {}", news.error)),
    }
}

/// Hands replies to those who wait for them.
struct Sorter {
    connector: Arc<Connector>,
    line: Arc<Mutex<Line>>,
    /// Outlives a run that panics; gone with the connection.
    arrivals: Option<Subscriber>,
    replies: Replies,
}

impl Sorter {
    /// Ends when the connection's own task in the client library has ended, which mere loss of a
    /// server never does. The next run, after a pause in which nothing of the old one is left to
    /// come, connects anew.
    async fn run(&mut self) -> End {
        if self.arrivals.is_none() {
            match Line::open(&self.connector, Deadline::now() + ANEW).await {
                Ok((line, arrivals)) => {
                    *self.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
                    self.arrivals = Some(arrivals);
                }
                Err(error) => return End::Lost(error.to_string()),
            }
        }
        if let Some(arrivals) = &mut self.arrivals {
            let inbox = self.line.lock().unwrap_or_else(PoisonError::into_inner).inbox.len();
            while let Some(message) = arrivals.next().await {
                sort(message, inbox, &self.replies);
            }
        }
        self.arrivals = None;
        self.connector.gone();
        End::Lost("the connection's task ended".to_owned())
    }
}

/// Whether a server of this version is one that we may count on.
pub(super) fn check_version(version: &str) -> Result<(), Rejection> {
    let mut parts = version.split(['.', '-']).map_while(|part| part.parse::<u64>().ok());
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found >= OLDEST_SERVER {
        return Ok(());
    }
    let (major, minor) = OLDEST_SERVER;
    Err(Rejection::Other(format!(
        "the NATS server has version {version}, which can lose writes; upgrade it to \
         {major}.{minor} or later, best 2.15 or later"
    )))
}

fn sort(message: Message, inbox: usize, replies: &Replies) {
    let number = message.subject.get(inbox + 1..).and_then(|text| text.parse().ok());
    let waiting = number.and_then(|number: u64| {
        replies.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    });
    if let Some(waiting) = waiting {
        let _gone = waiting.send(message);
    }
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(text) | Self::Lost(text) => f.write_str(text),
            Self::Denied(rejection) => rejection.fmt(f),
            Self::NobodyThere => f.write_str("no leader answers"),
        }
    }
}

impl From<Unanswered> for ReadError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Denied(rejection) => Self::Rejected(rejection),
            other @ (Unanswered::NotSent(_) | Unanswered::NobodyThere | Unanswered::Lost(_)) => {
                Self::Unavailable(other.to_string())
            }
        }
    }
}
