//! The HTTP listener of an agent. It answers questions and takes no orders; it says no secrets.
//!
//! | path | 200 | 503 |
//! |---|---|---|
//! | `/livez` | the driver's loop beats | it does not: restart the agent |
//! | `/readyz` | a primary that may write, or a replica that follows | anything else, with the reason |
//! | `/startup` | whoever starts PostgreSQL may: for a startup probe | not now, with the reason |
//! | `/status` | the [`View`] as JSON | |
//! | `/metrics` | OpenMetrics text | |
//! | `POST /promise` | another agent's signed request, answered; there only with `peers.secret_file` | |

pub mod client;
pub mod lookup;
pub mod view;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
pub use view::View;

/// How long open connections may finish after the listener was told to stop.
const GRACE: Duration = Duration::from_millis(500);

/// What the listener answers from.
#[derive(Clone)]
pub struct Shared {
    /// Makes the view as of now, ages and remaining times included, from what the driver last published.
    pub view: Arc<dyn Fn() -> View + Send + Sync>,
    /// Time since the driver's loop last beat, by the driver's clock.
    pub beat_age: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// A loop that has not beaten for longer than this is stuck.
    pub beat_limit: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Why nobody must start the database now, if so.
    pub held_back: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// The metrics.
    pub metrics: Metrics,
    /// Takes requests of other agents, when they are taken over HTTP.
    pub promise: Option<Arc<dyn Questions>>,
}

/// Takes requests of other agents.
pub trait Questions: Send + Sync {
    /// The answer to a message; none, and a line in the log, when it cannot be trusted or answered.
    fn take(&self, payload: Vec<u8>) -> BoxFuture<'static, Option<Vec<u8>>>;
}

/// Longest request taken; ours are a few hundred bytes.
const LONGEST_REQUEST: usize = 4096;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// Why the driver's loop counts as stuck, if it does.
    fn stuck(&self) -> Option<String> {
        let (age, limit) = ((self.beat_age)(), (self.beat_limit)());
        (age > limit)
            .then(|| format!("the driver's loop has not beaten for {age:?}, more than {limit:?}"))
    }
}

/// The listener's paths.
pub fn router(shared: Shared) -> Router {
    let promise = match &shared.promise {
        Some(_) => Router::new()
            .route("/promise", post(promise))
            .layer(DefaultBodyLimit::max(LONGEST_REQUEST)),
        None => Router::new(),
    };
    promise
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startup", get(startup))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

/// Answers on `listener` until `shutdown` resolves, then gives open connections half a second.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    shared: Shared,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (stop, stopping) = tokio::sync::oneshot::channel();
    let shutdown = async move {
        shutdown.await;
        // Nobody waits for it any more when the server has ended before.
        stop.send(()).ok();
    };
    let server = axum::serve(listener, router(shared)).with_graceful_shutdown(shutdown);
    let too_long = async {
        match stopping.await {
            Ok(()) => tokio::time::sleep(GRACE).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = async { server.await } => ended,
        () = too_long => Ok(()),
    }
}

async fn livez(State(shared): State<Shared>) -> Response {
    verdict("alive", shared.stuck(), json!({}))
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let view = (shared.view)();
    let unready = shared.stuck().or_else(|| view.unready());
    let about =
        json!({ "member": view.member, "state": view.state, "is_primary": view.is_primary });
    verdict("ready", unready, about)
}

async fn startup(State(shared): State<Shared>) -> Response {
    // It reads files, and a disk that hangs must not hang everybody who asks.
    let asked = tokio::task::spawn_blocking(move || (shared.held_back)()).await;
    let against = asked.unwrap_or_else(|error| Some(format!("the look ended: {error}")));
    verdict("startable", against, json!({}))
}

async fn status(State(shared): State<Shared>) -> Response {
    Json((shared.view)()).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn promise(State(shared): State<Shared>, payload: Bytes) -> Response {
    let Some(questions) = &shared.promise else { return StatusCode::NOT_FOUND.into_response() };
    match questions.take(payload.to_vec()).await {
        Some(answer) => answer.into_response(),
        // Why is for our log alone: whoever asks may be a stranger.
        None => StatusCode::FORBIDDEN.into_response(),
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn verdict(word: &str, against: Option<String>, mut body: serde_json::Value) -> Response {
    let code = if against.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    body[word] = json!(against.is_none());
    body["reason"] = json!(against);
    (code, Json(body)).into_response()
}
