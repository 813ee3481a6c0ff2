//! first slice
mod api;
mod cluster;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use api::Server;

/// How long a double may take to start or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// A Kubernetes cluster that is none.
pub(crate) struct Double {
    server: Arc<Server>,
    url: String,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Double {
    /// Starts one on a free port of this machine.
    pub(crate) fn start() -> Self {
        let server = Arc::new(Server::new());
        let stop = CancellationToken::new();
        let (told, tells) = mpsc::channel();
        let thread = {
            let (server, stop) = (Arc::clone(&server), stop.clone());
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let address = api::http::serve(&server, 0).await.unwrap();
                    told.send(address).unwrap();
                    stop.cancelled().await;
                });
            })
        };
        let address = tells.recv_timeout(LIMIT).expect("the double did not start");
        Self { server, url: format!("http://{address}"), stop, thread: Some(thread) }
    }

    /// Where its API server is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The API server, for what tests break.
    pub(crate) fn api(&self) -> &Server {
        &self.server
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
