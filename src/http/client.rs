//! One HTTP request to an agent.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::lookup::Lookups;

/// Longest answer taken: a status of many members is a few kilobytes.
const LONGEST_ANSWER: usize = 4 << 20;

/// Gets `path` from the agent at `authority` (`host:port`) within `timeout`.
///
/// # Errors
/// A text that says what went wrong.
pub async fn get(
    authority: &str,
    path: &str,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let connected = TcpStream::connect(authority);
    send(Method::GET, authority, path, Bytes::new(), connected, timeout).await
}

/// Posts `body` to `path` of the agent at `authority` (`host:port`) within `timeout`, as long as no
/// lookup of it from before hangs.
///
/// # Errors
/// A text that says what went wrong.
pub async fn post(
    lookups: &Lookups,
    authority: &str,
    path: &str,
    body: Vec<u8>,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let connected =
        async { TcpStream::connect(lookups.addresses(authority).await?.as_slice()).await };
    send(Method::POST, authority, path, body.into(), connected, timeout).await
}

async fn send(
    method: Method,
    authority: &str,
    path: &str,
    body: Bytes,
    connected: impl Future<Output = io::Result<TcpStream>>,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), String> {
    match tokio::time::timeout(timeout, exchange(method, authority, path, body, connected)).await {
        Ok(answer) => answer.map_err(|error| format!("http://{authority}{path}: {error}")),
        Err(_) => Err(format!("http://{authority}{path}: no answer within {timeout:?}")),
    }
}

async fn exchange(
    method: Method,
    authority: &str,
    path: &str,
    body: Bytes,
    connected: impl Future<Output = io::Result<TcpStream>>,
) -> Result<(StatusCode, Bytes), anyhow::Error> {
    let stream = connected.await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, authority)
        .body(Full::new(body))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    // The connection moves only while it is polled, and may end before the answer is read.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        closed = connection => {
            closed?;
            answer.await
        }
    }
}
