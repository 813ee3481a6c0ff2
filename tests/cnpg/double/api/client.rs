//! How the double's own actors talk to the server: by the same rules as everybody, over a link of their
//! own that can be cut, and with a cache that can lag behind.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::failure::Failure;
use super::faults::Network;
use super::resource::{Place, Resource};
use super::{Call, Server};

/// How long an actor waits for a server that says nothing.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    cut_since: Option<Instant>,
    lag: Duration,
}

/// The way from one actor to the server.
#[derive(Debug, Default)]
pub(crate) struct Link {
    state: Mutex<State>,
}

impl Link {
    /// Cuts it, or mends it.
    pub(crate) fn set_cut(&self, cut: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cut_since = cut.then(|| state.cut_since.unwrap_or_else(Instant::now));
    }

    /// How far the cache is behind.
    pub(crate) fn set_lag(&self, lag: Duration) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lag = lag;
    }

    fn is_cut(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cut_since.is_some()
    }

    fn seen_until(&self, down_since: Option<Instant>) -> Instant {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let live = [state.cut_since, down_since].into_iter().flatten().fold(now, Instant::min);
        live.checked_sub(state.lag).unwrap_or(live)
    }
}

/// An actor's access to the server.
#[derive(Clone)]
pub(crate) struct Client {
    server: Arc<Server>,
    account: String,
    namespace: String,
    /// Its way there.
    pub(crate) link: Arc<Link>,
}

impl Client {
    /// For `account`, in `namespace`.
    pub(crate) fn new(
        server: &Arc<Server>,
        account: &str,
        namespace: &str,
        link: &Arc<Link>,
    ) -> Self {
        Self {
            server: Arc::clone(server),
            account: account.to_owned(),
            namespace: namespace.to_owned(),
            link: Arc::clone(link),
        }
    }

    /// Whether the server can be reached.
    pub(crate) fn reachable(&self) -> bool {
        !self.link.is_cut() && *self.server.network.borrow() == Network::Up
    }

    async fn call(&self, verb: &'static str, place: Place, body: Value) -> Result<Value, Failure> {
        if !self.reachable() {
            return Err(Failure::unreachable());
        }
        let call = Call {
            who: self.account.clone(),
            verb,
            place,
            body,
            selected: None,
            labels: Vec::new(),
            dry: false,
        };
        let answer = tokio::time::timeout(PATIENCE, self.server.request(&call)).await;
        answer.unwrap_or_else(|_| Err(Failure::unreachable()))
    }

    fn place(&self, resource: &'static Resource, name: Option<&str>, status: bool) -> Place {
        Place {
            resource,
            namespace: Some(self.namespace.clone()),
            name: name.map(str::to_owned),
            status,
        }
    }

    /// Asks for one object.
    pub(crate) async fn get(
        &self,
        resource: &'static Resource,
        name: &str,
    ) -> Result<Value, Failure> {
        self.call("get", self.place(resource, Some(name), false), Value::Null).await
    }

    /// One object as the cache has it.
    pub(crate) fn cached(&self, resource: &'static Resource, name: &str) -> Option<Value> {
        let inner = self.server.inner();
        let when = self.link.seen_until(inner.down_since);
        inner.store.as_of(resource, &self.namespace, name, when)
    }

    /// The version the cache has of an object.
    pub(crate) fn cached_version(&self, resource: &'static Resource, name: &str) -> Option<String> {
        let object = self.cached(resource, name)?;
        object["metadata"]["resourceVersion"].as_str().map(str::to_owned)
    }

    /// The names of all objects of a kind, for [`Self::cached`].
    pub(crate) fn names(&self, resource: &'static Resource) -> Vec<String> {
        let inner = self.server.inner();
        let list = inner.store.list(resource, Some(&self.namespace));
        list.iter()
            .filter_map(|object| Some(object["metadata"]["name"].as_str()?.to_owned()))
            .collect()
    }

    /// Creates an object.
    pub(crate) async fn create(
        &self,
        resource: &'static Resource,
        body: Value,
    ) -> Result<Value, Failure> {
        self.call("create", self.place(resource, None, false), body).await
    }

    /// Merges into the main resource.
    pub(crate) async fn patch(
        &self,
        resource: &'static Resource,
        name: &str,
        body: Value,
    ) -> Result<Value, Failure> {
        self.call("patch", self.place(resource, Some(name), false), body).await
    }

    /// Merges into the status, whatever version it has.
    pub(crate) async fn patch_status(
        &self,
        resource: &'static Resource,
        name: &str,
        status: Value,
    ) -> Result<Value, Failure> {
        let body = json!({ "status": status });
        self.call("patch", self.place(resource, Some(name), true), body).await
    }

    /// Replaces the status of this version of the object.
    pub(crate) async fn update_status(
        &self,
        resource: &'static Resource,
        object: &Value,
    ) -> Result<Value, Failure> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.call("update", self.place(resource, Some(name), true), object.clone()).await
    }

    /// Replaces an object of this version.
    pub(crate) async fn update(
        &self,
        resource: &'static Resource,
        object: &Value,
    ) -> Result<Value, Failure> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.call("update", self.place(resource, Some(name), false), object.clone()).await
    }

    /// Deletes at once.
    pub(crate) async fn remove(
        &self,
        resource: &'static Resource,
        name: &str,
    ) -> Result<Value, Failure> {
        let body = json!({ "gracePeriodSeconds": 0 });
        self.call("delete", self.place(resource, Some(name), false), body).await
    }

    /// Deletes as one asks for it.
    pub(crate) async fn delete(
        &self,
        resource: &'static Resource,
        name: &str,
    ) -> Result<Value, Failure> {
        self.call("delete", self.place(resource, Some(name), false), json!({})).await
    }
}
