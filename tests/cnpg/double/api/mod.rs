//! The API server of the double: objects with versions, roles, admission, faults, a log of every call.
//! Requests of other processes come over HTTP ([`http`]), those of the double's own actors directly
//! ([`client`]); the rules are the same for both.

pub(crate) mod access;
pub(crate) mod admission;
pub(crate) mod client;
pub(crate) mod failure;
pub(crate) mod faults;
pub(crate) mod http;
mod listener;
pub(crate) mod resource;
mod schema;
pub(crate) mod store;
mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch as signal;
use tokio::time::Instant;

use access::{Accounts, Rule};
use failure::Failure;
use faults::{Fate, Fault, Faults, Network};
use resource::{CLUSTERS, Place, Resource};
use store::{Change, Store};

/// A call that was made, for tests of roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Called {
    /// By whom.
    pub(crate) account: String,
    /// `get`, `list`, `watch`, `create`, `patch`, `update` or `delete`.
    pub(crate) verb: String,
    /// As roles name it: `clusters/status`.
    pub(crate) resource: String,
    /// API group.
    pub(crate) group: String,
    /// What was named.
    pub(crate) name: Option<String>,
    /// The answer; 0 when nobody was told.
    pub(crate) code: u16,
}

/// One request, whoever brings it.
#[derive(Debug)]
pub(crate) struct Call {
    /// By whom.
    pub(crate) who: String,
    /// What to do.
    pub(crate) verb: &'static str,
    /// With what.
    pub(crate) place: Place,
    /// What was sent.
    pub(crate) body: Value,
    /// `metadata.name` of a field selector.
    pub(crate) selected: Option<String>,
    /// Labels that have to be so.
    pub(crate) labels: Vec<(String, String)>,
    /// Only look what would become of it.
    pub(crate) dry: bool,
}

impl Call {
    fn named(&self) -> Option<&str> {
        self.place.name.as_deref().or(self.selected.as_deref())
    }

    fn selects(&self, object: &Value) -> bool {
        let of_space = self
            .place
            .namespace
            .as_ref()
            .is_none_or(|namespace| object["metadata"]["namespace"] == namespace.as_str());
        let of_name =
            self.selected.as_ref().is_none_or(|name| object["metadata"]["name"] == name.as_str());
        of_space
            && of_name
            && self
                .labels
                .iter()
                .all(|(label, value)| object["metadata"]["labels"][label] == value.as_str())
    }
}

struct Inner {
    store: Store,
    accounts: Accounts,
    faults: Faults,
    called: Vec<Called>,
    down_since: Option<Instant>,
}

/// The server itself, without its sockets.
pub(crate) struct Server {
    inner: Mutex<Inner>,
    changed: signal::Sender<u64>,
    network: signal::Sender<Network>,
    cuts: signal::Sender<u64>,
}

impl Server {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let inner = Inner {
            store: Store::default(),
            accounts: Accounts::new(),
            faults: Faults::default(),
            called: Vec::new(),
            down_since: None,
        };
        Self {
            inner: Mutex::new(inner),
            changed: signal::Sender::new(0),
            network: signal::Sender::new(Network::Up),
            cuts: signal::Sender::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `name` in with `token`, to do what `rules` allow.
    pub(crate) fn set_account(&self, name: &str, token: &str, rules: Vec<Rule>) {
        self.inner().accounts.set(name, token, rules);
    }

    /// How it can be reached from now on.
    pub(crate) fn set_network(&self, network: Network) {
        let mut inner = self.inner();
        inner.down_since = match network {
            Network::Up => None,
            Network::Refused | Network::Silent => inner.down_since.or_else(|| Some(Instant::now())),
        };
        drop(inner);
        self.network.send_replace(network);
    }

    /// Whether the admission webhook of CloudNativePG answers.
    pub(crate) fn set_webhook_down(&self, down: bool) {
        self.inner().faults.webhook_down = down;
    }

    /// Whether the webhook's configuration was deleted, so that nobody asks it.
    pub(crate) fn set_webhook_gone(&self, gone: bool) {
        self.inner().faults.webhook_gone = gone;
    }

    /// Replaces all faults of single answers.
    pub(crate) fn set_faults(&self, faults: Vec<Fault>) {
        self.inner().faults.list = faults;
    }

    /// Ends every watch there is.
    pub(crate) fn cut_watches(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Forgets every version but the newest: watches from an older one are told so.
    pub(crate) fn forget(&self) {
        self.inner().store.forget();
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Every call so far.
    pub(crate) fn calls(&self) -> Vec<Called> {
        self.inner().called.clone()
    }

    /// Every change of an object so far, whoever made it.
    pub(crate) fn changes(&self, resource: &Resource, namespace: &str, name: &str) -> Vec<Change> {
        let (key, inner) = (store::key(resource, namespace, name), self.inner());
        inner.store.after(0).iter().filter(|change| change.key == key).cloned().collect()
    }

    /// Forgets the calls so far.
    pub(crate) fn forget_calls(&self) {
        self.inner().called.clear();
    }

    /// Whose request this is.
    pub(crate) fn who(&self, header: Option<&str>) -> Result<String, Failure> {
        self.inner().accounts.who(header)
    }

    /// Waits while nothing gets through.
    pub(crate) async fn audible(&self) {
        let mut network = self.network.subscribe();
        let _ = network.wait_for(|network| *network != Network::Silent).await;
    }

    /// Answers one request that is no watch.
    pub(crate) async fn request(&self, call: &Call) -> Result<Value, Failure> {
        let fate = self.begin(call).await;
        let result = match fate.failure {
            Some(failure) => Err(failure),
            None => self.answer(call),
        };
        let result = if fate.lost { Err(Failure::unreachable()) } else { result };
        self.note(call, result.as_ref().map_or_else(|failure| failure.code, |_| 200));
        result
    }

    /// What becomes of a request; waits its delay.
    async fn begin(&self, call: &Call) -> Fate {
        let fate = self.inner().faults.fate(&call.who, call.verb, &call.place);
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        fate
    }

    fn note(&self, call: &Call, code: u16) {
        self.inner().called.push(Called {
            account: call.who.clone(),
            verb: call.verb.to_owned(),
            resource: call.place.in_roles(),
            group: call.place.resource.group.to_owned(),
            name: call.named().map(str::to_owned),
            code,
        });
    }

    fn answer(&self, call: &Call) -> Result<Value, Failure> {
        let mut inner = self.inner();
        inner.accounts.check(&call.who, call.verb, &call.place, call.named())?;
        let before = inner.store.version();
        let result = inner.act(call);
        let after = inner.store.version();
        inner.store.sign(before, &call.who);
        drop(inner);
        if before != after {
            self.changed.send_modify(|changes| *changes += 1);
        }
        result
    }
}

impl Inner {
    fn act(&mut self, call: &Call) -> Result<Value, Failure> {
        let place = &call.place;
        let namespace = place.namespace.as_deref().unwrap_or_default();
        match (call.verb, place.name.as_deref()) {
            ("get", Some(name)) => self.store.get(place.resource, namespace, name).cloned(),
            ("list", None) => Ok(self.list(call)),
            ("create", None) => self.create(call),
            ("patch", Some(name)) => self.change(call, name, true),
            ("update", Some(name)) => self.change(call, name, false),
            ("delete", Some(name)) => {
                let now = call.body["gracePeriodSeconds"] == 0;
                self.store.delete(place, name, &call.body, now)
            }
            _ => Err(Failure::no_such_path()),
        }
    }

    fn list(&self, call: &Call) -> Value {
        let resource = call.place.resource;
        let all = self.store.list(resource, call.place.namespace.as_deref());
        let items: Vec<&Value> = all.into_iter().filter(|object| call.selects(object)).collect();
        json!({
            "kind": format!("{}List", resource.kind),
            "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": self.store.version().to_string() },
            "items": items,
        })
    }

    fn create(&mut self, call: &Call) -> Result<Value, Failure> {
        let place = &call.place;
        let mut object = call.body.clone();
        same_kind(place, &object)?;
        if let Some(prefix) = object["metadata"]["generateName"].as_str() {
            object["metadata"]["name"] = format!("{prefix}{:05}", self.store.version()).into();
        }
        let named = object["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty());
        if !named {
            let fault = (
                "metadata.name".to_owned(),
                "Required value: name or generateName is required".to_owned(),
            );
            return Err(Failure::invalid(place.resource, place.resource.group, "", &[fault]));
        }
        self.admit(place, &mut object, None)?;
        if call.dry { Ok(object) } else { self.store.create(place, object) }
    }

    fn change(&mut self, call: &Call, name: &str, patch: bool) -> Result<Value, Failure> {
        let place = &call.place;
        if !patch {
            same_kind(place, &call.body)?;
        }
        let namespace = place.namespace.as_deref().unwrap_or_default();
        let mut next = self.store.proposed(place, name, &call.body, patch)?;
        let old = self.store.get(place.resource, namespace, name)?.clone();
        self.admit(place, &mut next, Some(&old))?;
        if call.dry { Ok(next) } else { self.store.replace(place, name, next) }
    }

    fn admit(&self, place: &Place, object: &mut Value, old: Option<&Value>) -> Result<(), Failure> {
        if *place.resource != CLUSTERS {
            return Ok(());
        }
        if !place.status {
            if self.faults.webhook_down {
                return Err(admission::unreachable());
            }
            schema::check(object)?;
            if self.faults.webhook_gone {
                return Ok(());
            }
            return admission::admit(object, old);
        }
        schema::check(object)
    }
}

fn same_kind(place: &Place, object: &Value) -> Result<(), Failure> {
    let resource = place.resource;
    if object["kind"] != resource.kind || object["apiVersion"] != resource.api_version().as_str() {
        let text = format!("the object is no {} of {}", resource.kind, resource.api_version());
        return Err(Failure::bad_request(text));
    }
    let namespace = &object["metadata"]["namespace"];
    if !namespace.is_null() && place.namespace.as_deref() != namespace.as_str() {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
