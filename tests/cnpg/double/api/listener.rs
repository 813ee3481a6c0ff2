//! The server's socket: can be closed for a time, with every connection that came through it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::faults::Network;

/// A listening socket that is there only as long as the network is.
pub(crate) struct Door {
    address: SocketAddr,
    listener: Option<TcpListener>,
    network: watch::Receiver<Network>,
}

impl Door {
    /// On any free port of this machine.
    pub(crate) async fn open(port: u16, network: watch::Receiver<Network>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        Ok(Self { address: listener.local_addr()?, listener: Some(listener), network })
    }
}

impl Listener for Door {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            if *self.network.borrow_and_update() == Network::Refused {
                self.listener = None;
                if self.network.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                continue;
            }
            let Some(listener) = &self.listener else {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => self.listener = Some(listener),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
                continue;
            };
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, peer)) = accepted {
                        return (Wire::new(stream, self.network.clone()), peer);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                changed = self.network.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection that breaks when the network does.
pub(crate) struct Wire {
    stream: TcpStream,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    broken: bool,
}

impl Wire {
    fn new(stream: TcpStream, mut network: watch::Receiver<Network>) -> Self {
        let cut = async move {
            if network.wait_for(|network| *network == Network::Refused).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        Self { stream, cut: Box::pin(cut), broken: false }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.broken || self.cut.as_mut().poll(context).is_ready() {
            self.broken = true;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
