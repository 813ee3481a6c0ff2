//! The server's HTTP: paths and parameters as Kubernetes has them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use axum::serve::Listener as _;
use futures_util::stream;
use serde_json::{Value, json};

use super::failure::Failure;
use super::listener::Door;
use super::resource::Place;
use super::watch::Wish;
use super::{Call, Server};

/// The longest body that is read.
const LONGEST: usize = 1 << 20;

/// Listens on this machine; port 0 for any. Serves as long as the runtime lives.
pub(crate) async fn serve(server: &Arc<Server>, port: u16) -> io::Result<SocketAddr> {
    let door = Door::open(port, server.network.subscribe()).await?;
    let address = door.local_addr()?;
    let server = Arc::clone(server);
    let router = Router::new().fallback(move |request: Request| {
        let server = Arc::clone(&server);
        async move { respond(&server, request).await }
    });
    tokio::spawn(async move {
        let _ = axum::serve(door, router).await;
    });
    Ok(address)
}

async fn respond(server: &Arc<Server>, request: Request) -> Response {
    server.audible().await;
    let response = match handle(server, request).await {
        Ok(response) => response,
        Err(failure) => refuse(&failure),
    };
    server.audible().await;
    response
}

/// JSON with a status.
pub(crate) fn answer(code: u16, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn refuse(failure: &Failure) -> Response {
    if failure.code == 0 {
        // The connection breaks in the middle of an answer.
        let broken =
            stream::iter([Err::<String, io::Error>(io::ErrorKind::ConnectionReset.into())]);
        return Response::new(Body::from_stream(broken));
    }
    let mut response = answer(failure.code, &failure.body());
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

async fn handle(server: &Arc<Server>, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/version" => {
            let version = json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.0-double" });
            return Ok(answer(200, &version));
        }
        "/livez" | "/readyz" | "/healthz" => return Ok(Response::new(Body::from("ok"))),
        _ => {}
    }
    let place = Place::read(head.uri.path())?;
    let header = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let who = server.who(header)?;
    let parameters = parameters(head.uri.query().unwrap_or_default());
    let body =
        to_bytes(body, LONGEST).await.map_err(|error| Failure::bad_request(error.to_string()))?;
    let has = |name: &str, value: &str| parameters.get(name).is_some_and(|given| given == value);
    let watches = has("watch", "true") || has("watch", "1");
    let named = place.name.is_some();
    let verb = match (&head.method, named) {
        (&Method::GET, true) => "get",
        (&Method::GET, false) if watches => "watch",
        (&Method::GET, false) => "list",
        (&Method::POST, false) => "create",
        (&Method::PATCH, true) => "patch",
        (&Method::PUT, true) => "update",
        (&Method::DELETE, true) => "delete",
        _ => return Err(Failure::no_such_path()),
    };
    if verb == "patch" {
        let content = head.headers.get(header::CONTENT_TYPE);
        let content = content.and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content != "application/merge-patch+json" {
            return Err(Failure::unsupported(content));
        }
    }
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?
    };
    let call = Call {
        who,
        verb,
        place,
        body,
        selected: field_selector(parameters.get("fieldSelector"))?,
        labels: label_selector(parameters.get("labelSelector"))?,
        dry: has("dryRun", "All"),
    };
    if verb == "watch" {
        return watch(server, call, &parameters).await;
    }
    let code = if verb == "create" { 201 } else { 200 };
    server.request(&call).await.map(|object| answer(code, &object))
}

async fn watch(
    server: &Arc<Server>,
    call: Call,
    parameters: &BTreeMap<String, String>,
) -> Result<Response, Failure> {
    let number = |name: &str| parameters.get(name).and_then(|text| text.parse::<u64>().ok());
    let from = match parameters.get("resourceVersion").map(String::as_str) {
        None | Some("" | "0") => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Failure::bad_request(format!("invalid resource version {text:?}")))?,
        ),
    };
    let has = |name: &str| parameters.get(name).is_some_and(|value| value == "true");
    let wish = Wish {
        from,
        bookmarks: has("allowWatchBookmarks"),
        initial: has("sendInitialEvents"),
        limit: Duration::from_secs(number("timeoutSeconds").unwrap_or(300)),
    };
    let watch = server.watch(call, wish).await?;
    let lines = stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((lines, watch))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

fn field_selector(text: Option<&String>) -> Result<Option<String>, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.split_once('=') {
        Some(("metadata.name", name)) => Ok(Some(name.trim_start_matches('=').to_owned())),
        _ => Err(Failure::bad_request(format!("field label not supported: {text}"))),
    }
}

fn label_selector(text: Option<&String>) -> Result<Vec<(String, String)>, Failure> {
    let text = text.map(String::as_str).unwrap_or_default();
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (label, value) = part.split_once('=').ok_or_else(|| {
                Failure::bad_request(format!("this double knows no label selector but a=b: {part}"))
            })?;
            Ok((label.to_owned(), value.trim_start_matches('=').to_owned()))
        })
        .collect()
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        let hex = others.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
