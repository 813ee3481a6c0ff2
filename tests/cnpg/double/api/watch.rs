//! A watch: one line of JSON per change, bookmarks between them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::failure::Failure;
use super::faults::Network;
use super::{Call, Server};

/// How often a watch that asked for bookmarks gets one. A real server: once a minute.
const BOOKMARKS: Duration = Duration::from_millis(500);

/// What a watch asks for.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// From which version on; None: first everything there is.
    pub(crate) from: Option<u64>,
    /// Whether it takes bookmarks.
    pub(crate) bookmarks: bool,
    /// Whether it wants to be told where what there is ends.
    pub(crate) initial: bool,
    /// When it ends.
    pub(crate) limit: Duration,
}

/// A watch that was begun.
pub(crate) struct Watch {
    server: Arc<Server>,
    call: Call,
    version: u64,
    bookmarks: bool,
    ready: Option<String>,
    ended: bool,
    until: Instant,
    next_bookmark: Instant,
    changed: watch::Receiver<u64>,
    cuts: watch::Receiver<u64>,
}

impl Server {
    /// Begins a watch.
    pub(crate) async fn watch(self: &Arc<Self>, call: Call, wish: Wish) -> Result<Watch, Failure> {
        let fate = self.begin(&call).await;
        let allowed = match fate.failure {
            Some(failure) => Err(failure),
            None => self.inner().accounts.check(&call.who, call.verb, &call.place, call.named()),
        };
        let code = allowed.as_ref().map_or_else(|failure| failure.code, |()| 200);
        self.note(&call, code);
        allowed?;
        let changed = self.changed.subscribe();
        let cuts = self.cuts.subscribe();
        let inner = self.inner();
        let mut ready = String::new();
        let mut version = inner.store.version();
        if let Some(from) = wish.from {
            version = from;
        } else {
            for object in inner.store.list(call.place.resource, call.place.namespace.as_deref()) {
                if call.selects(object) {
                    ready += &line("ADDED", object);
                }
            }
            if wish.initial {
                ready += &bookmark(&call, version, true);
            }
        }
        drop(inner);
        let now = Instant::now();
        Ok(Watch {
            server: Arc::clone(self),
            call,
            version,
            bookmarks: wish.bookmarks,
            ready: Some(ready),
            ended: false,
            until: now + wish.limit,
            next_bookmark: now + BOOKMARKS,
            changed,
            cuts,
        })
    }
}

impl Watch {
    /// The next lines; None at its end.
    pub(crate) async fn next(&mut self) -> Option<io::Result<String>> {
        if let Some(ready) = self.ready.take()
            && !ready.is_empty()
        {
            return Some(Ok(ready));
        }
        while !self.ended {
            self.server.audible().await;
            self.changed.mark_unchanged();
            let lines = self.lines();
            if !lines.is_empty() {
                return Some(Ok(lines));
            }
            tokio::select! {
                changed = self.changed.changed() => self.ended = changed.is_err(),
                _ = self.cuts.changed() => {
                    self.ended = true;
                    return Some(Err(io::ErrorKind::ConnectionReset.into()));
                }
                () = sleep_until(self.until) => self.ended = true,
                () = sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARKS;
                    if *self.server.network.borrow() == Network::Up {
                        return Some(Ok(bookmark(&self.call, self.version, false)));
                    }
                }
            }
        }
        None
    }

    fn lines(&mut self) -> String {
        let inner = self.server.inner();
        let (version, oldest) = (inner.store.version(), inner.store.oldest());
        let mut lines = String::new();
        if self.version < oldest {
            self.ended = true;
            return line("ERROR", &Failure::gone(self.version, oldest).body());
        }
        for change in inner.store.after(self.version) {
            if change.key.0 == self.call.place.resource.full() && self.call.selects(&change.object)
            {
                lines += &line(change.kind, &change.object);
            }
        }
        self.version = version;
        lines
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

fn bookmark(call: &Call, version: u64, end: bool) -> String {
    let resource = call.place.resource;
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if end {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    let mut object = json!({
        "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata,
    });
    // Typed clients read a bookmark as an object of its kind.
    if resource.has_status {
        object["spec"] = json!({});
    }
    line("BOOKMARK", &object)
}
