//! Messages between agents that do not go through the bucket: promises (`core::promise`), asked for
//! over the store's own connections and over HTTP at the same time, the first good answer counting.
//!
//! ```text
//!   executor ── ask ──┬─ store's messages ──┬──► the other agent's `serve` or POST /promise
//!                     └─ POST /promise ─────┘              │ Asked
//!   driver ◄── Event::PromiseAnswered                      ▼
//!                                                       driver ─► Event::PromiseAsked
//! ```

#[doc(hidden)]
pub mod decoders;
mod seal;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::said::Said;
use crate::core::ids::{ClusterId, MemberId};
use crate::core::promise::{PromiseAnswer, PromiseRequest};
use crate::core::records::Address;
use crate::http::client;
use crate::http::lookup::Lookups;
use crate::store::{Mail, Store};
use crate::supervise::End;
use seal::Seal;

/// Longest message taken, in bytes; ours are a few hundred.
pub const LONGEST_MESSAGE: usize = 4096;

/// Where a peer's HTTP listener takes requests.
pub const PATH: &str = "/promise";

/// How long a request waits for the driver to answer it.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Time between two tries to be reachable through the store.
const SERVE_AGAIN: Duration = Duration::from_millis(500);

/// A request that has arrived, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: PromiseRequest,
    /// Where the answer goes.
    pub reply: oneshot::Sender<PromiseAnswer>,
}

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the store.
    Store,
    /// To the HTTP listener.
    Http,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Http => "http",
        }
    }
}

type Stores = watch::Receiver<Option<Arc<dyn Store>>>;

/// One agent's way to its peers.
#[derive(Debug)]
pub struct Peers {
    seal: Seal,
    me: MemberId,
    store: Stores,
    asked: mpsc::Sender<Asked>,
    lookups: Lookups,
    /// Why members did not answer.
    unanswered: Said,
    /// Why messages were not answered, by the way they came.
    not_taken: Said,
}

impl Peers {
    /// The way of the agent of `me`. Requests of others come out of the receiver. HTTP is used only
    /// with a secret: without one anybody who reaches the listener could hold back a failover.
    pub fn new(
        cluster: ClusterId,
        me: MemberId,
        secret: Option<PathBuf>,
        store: Stores,
    ) -> (Arc<Self>, mpsc::Receiver<Asked>) {
        let (asked, requests) = mpsc::channel(16);
        let peers = Self {
            seal: Seal::new(cluster, secret),
            me,
            store,
            asked,
            lookups: Lookups::new(),
            unanswered: Said::default(),
            not_taken: Said::default(),
        };
        (Arc::new(peers), requests)
    }

    /// Whether requests are taken over HTTP.
    pub fn takes_http(&self) -> bool {
        self.seal.has_secret()
    }

    /// Asks `member` by every way there is, for at most `limit`. None, and a line in the log when
    /// the reason is another than before, when no answer came that can be trusted.
    pub async fn ask(
        &self,
        member: &MemberId,
        address: Address,
        request: PromiseRequest,
        limit: Duration,
    ) -> Option<PromiseAnswer> {
        let answer = self.ask_all_ways(member, address, request, limit).await;
        let why = answer.as_ref().err().map(String::as_str);
        if self.unanswered.is_news(member.as_str(), why) {
            tracing::warn!(%member, why, "promise not answered");
        }
        answer.ok()
    }

    async fn ask_all_ways(
        &self,
        member: &MemberId,
        address: Address,
        request: PromiseRequest,
        limit: Duration,
    ) -> Result<PromiseAnswer, String> {
        let payload = self.seal.request(&request).await?;
        let by_store = Box::pin(self.ask_by_store(member, payload.clone(), limit));
        let by_http = Box::pin(self.ask_by_http(address, payload, limit));
        // The reasons in one order, whichever came first: another text is another trouble.
        match select(by_store, by_http).await {
            Either::Left((Ok(answer), _)) | Either::Right((Ok(answer), _)) => Ok(answer),
            Either::Left((Err(store), http)) => http.await.map_err(|http| both(&store, &http)),
            Either::Right((Err(http), store)) => store.await.map_err(|store| both(&store, &http)),
        }
    }

    async fn ask_by_store(
        &self,
        member: &MemberId,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<PromiseAnswer, String> {
        let store = self.store.borrow().clone().ok_or("the store was never reached")?;
        let mail = store.mail().ok_or("this store carries no messages")?;
        let answer = timeout(limit, mail.request(member, payload, limit)).await;
        self.seal.open_answer(&answer.map_err(|_| "no answer by the store")??).await
    }

    async fn ask_by_http(
        &self,
        address: Address,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<PromiseAnswer, String> {
        if !self.takes_http() {
            return Err("no peers.secret_file for HTTP".to_owned());
        }
        let authority = address.http.ok_or("the member has no http.advertise")?;
        let (status, body) = client::post(&self.lookups, &authority, PATH, payload, limit).await?;
        if !status.is_success() {
            return Err(format!("http://{authority}{PATH}: {status}"));
        }
        self.seal.open_answer(&body).await
    }

    /// Takes one request as it arrived by `way`; the answer goes back by the same. None, and a line
    /// in the log when the reason is another than before, when it cannot be trusted or answered.
    pub async fn take(&self, payload: &[u8], way: Way) -> Option<Vec<u8>> {
        let answer = self.answer(payload).await;
        let why = answer.as_ref().err().map(String::as_str);
        if self.not_taken.is_news(way.name(), why) {
            tracing::warn!(way = way.name(), why, "message of a peer not answered");
        }
        answer.ok()
    }

    async fn answer(&self, payload: &[u8]) -> Result<Vec<u8>, String> {
        let request = self.seal.open_request(payload).await?;
        let (reply, answer) = oneshot::channel();
        // A driver that is stuck answers nobody; requests are not piled up for it.
        self.asked.try_send(Asked { request, reply }).map_err(|_| "the agent is busy")?;
        let answer = timeout(ANSWER_LIMIT, answer).await.map_err(|_| "the agent did not answer")?;
        self.seal.answer(&answer.map_err(|_| "the agent is stopping")?).await
    }

    /// Is reachable through the store for as long as the agent runs.
    pub async fn serve(self: Arc<Self>) -> End {
        let mut store = self.store.clone();
        loop {
            let opened = store.wait_for(Option::is_some).await.map(|opened| opened.clone());
            let Ok(Some(opened)) = opened else { return End::Done };
            match opened.mail() {
                Some(mail) => self.serve_by(mail).await,
                // This backend carries no messages, and another one takes a restart.
                None => return End::Done,
            }
            sleep(SERVE_AGAIN).await;
        }
    }

    async fn serve_by(&self, mail: Arc<dyn Mail>) {
        let mut letters = match mail.letters(&self.me).await {
            Ok(letters) => letters,
            Err(why) => return tracing::warn!(why, "not reachable by messages of the store"),
        };
        while let Some(letter) = letters.recv().await {
            if let Some(answer) = self.take(&letter.payload, Way::Store).await {
                mail.reply(letter, answer).await;
            }
        }
    }
}

fn both(store: &str, http: &str) -> String {
    format!("{store}; {http}")
}
