//! The postmaster of a manager: waited for all the time, as CloudNativePG does. One that ended and is not waited
//! for looks alive to `pg_ctl`, which then waits for it.

use std::process::ExitStatus;

use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A postmaster; it is killed when this is dropped.
pub(super) struct Postmaster {
    /// Its process id.
    pub(super) pid: Option<u32>,
    ended: watch::Receiver<Option<ExitStatus>>,
    kill: CancellationToken,
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl Postmaster {
    /// Of this process.
    pub(super) fn new(mut child: Child) -> Self {
        let (told, ended) = watch::channel(None);
        let kill = CancellationToken::new();
        let (pid, dropped) = (child.id(), kill.clone());
        tokio::spawn(async move {
            let status = tokio::select! {
                status = child.wait() => status,
                () = dropped.cancelled() => {
                    let _ = child.start_kill();
                    child.wait().await
                }
            };
            told.send_replace(status.ok());
        });
        Self { pid, ended, kill }
    }

    /// How it ended, if it did.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) {
        let _ = self.ended.wait_for(Option::is_some).await;
    }

    /// Kills it, and waits for its end.
    pub(super) async fn kill(&mut self) {
        self.kill.cancel();
        self.wait().await;
    }
}
