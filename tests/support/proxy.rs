//! A TCP proxy on 127.0.0.1 that can fail as networks do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// How the proxy behaves, for every byte from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Passes everything.
    Pass = 0,
    /// Loses what the server says.
    LoseReplies = 1,
    /// Loses everything and closes nothing: a half-open link.
    LoseAll = 2,
}

/// A proxy in front of one server.
pub(crate) struct Proxy {
    port: u16,
    mode: Arc<AtomicU8>,
    accepted: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Begins to pass connections on to `target` on 127.0.0.1.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(AtomicU8::new(0));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (shared, counted) = (Arc::clone(&mode), Arc::clone(&accepted));
        let accepting = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                    let lose_all = Mode::LoseAll as u8;
                    tokio::spawn(pump(from_client, to_server, up, lose_all));
                    tokio::spawn(pump(from_server, to_client, down, Mode::LoseReplies as u8));
                }
            }
        }));
        Self { port, mode, accepted, _accepting: accepting }
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Behaves so from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Loses bytes when the mode is `lossy_from` or worse.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: Arc<AtomicU8>,
    lossy_from: u8,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if mode.load(Ordering::SeqCst) >= lossy_from {
            continue;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
