//! An API server that keeps one Cluster: resource versions, merge patches, and answers to order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};

/// An answer to order.
#[derive(Clone, Debug)]
pub(super) enum Say {
    /// A status with a message and, when it is not empty, `Retry-After`.
    Code(u16, String, &'static str),
    /// Nothing, for ever.
    Nothing,
    /// Nothing, although the change was made.
    MadeAndNothing,
    /// This text, with status 200.
    Text(String),
    /// What is so, after this time.
    Late(Duration),
}

impl Say {
    pub(super) fn code(code: u16, message: &str) -> Self {
        Self::Code(code, message.to_owned(), "")
    }
}

/// What the server keeps.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) cluster: Value,
    pub(super) lease: bool,
    /// Who has that lease.
    pub(super) holder: String,
    /// The pod is ready.
    pub(super) ready: bool,
    pub(super) operator: Option<String>,
    /// Answers to the next calls, by verb.
    pub(super) gets: VecDeque<Say>,
    pub(super) patches: VecDeque<Say>,
    /// The answer to every call, by verb.
    pub(super) always: Vec<(&'static str, Say)>,
    /// Every patch that came, also those refused.
    pub(super) sent: Vec<Value>,
    /// Every call: verb and resource.
    pub(super) calls: Vec<(String, String)>,
    /// The same: verb, path and query.
    pub(super) asked: Vec<String>,
}

/// The server.
#[derive(Clone, Debug)]
pub(super) struct FakeApi {
    world: Arc<Mutex<World>>,
    pub(super) url: String,
}

impl FakeApi {
    pub(super) async fn start(cluster: Value) -> Self {
        let world = World { cluster, lease: true, ..World::default() };
        let world = Arc::new(Mutex::new(world));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&world));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { world, url }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Somebody else's change.
    pub(super) fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut world = self.world();
        change(&mut world.cluster);
        bump(&mut world.cluster);
    }

    /// A field of the Cluster, by its path.
    pub(super) fn field(&self, pointer: &str) -> Value {
        self.world().cluster.pointer(pointer).cloned().unwrap_or(Value::Null)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<String> {
        self.world().cluster["metadata"]["annotations"][key].as_str().map(str::to_owned)
    }
}

fn bump(cluster: &mut Value) {
    let version = &mut cluster["metadata"]["resourceVersion"];
    let next = version.as_str().unwrap().parse::<u64>().unwrap() + 1;
    *version = json!(next.to_string());
}

async fn answer(
    State(world): State<Arc<Mutex<World>>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let verb = if method == Method::GET { "get" } else { "patch" };
    let object = uri.path().trim_end_matches("/status");
    let resource = object.rsplit('/').nth(1).unwrap_or_default().to_owned();
    let mut wait = Duration::ZERO;
    let said = {
        let mut world = world.lock().unwrap();
        world.calls.push((verb.to_owned(), resource.clone()));
        world.asked.push(format!("{verb} {uri}"));
        let patch = serde_json::from_slice::<Value>(&body).ok();
        world.sent.extend(patch.clone());
        let next = if verb == "get" { world.gets.pop_front() } else { world.patches.pop_front() };
        let always = world.always.iter().find(|(on, _)| *on == verb).map(|(_, say)| say.clone());
        match next.or(always) {
            Some(Say::MadeAndNothing) => {
                let _ = plain(&mut world, verb, &resource, patch.as_ref(), false);
                Say::Nothing
            }
            Some(Say::Late(time)) => {
                wait = time;
                plain(&mut world, verb, &resource, patch.as_ref(), false)
            }
            Some(say) => say,
            None => {
                let dry = uri.query().is_some_and(|query| query.contains("dryRun=All"));
                plain(&mut world, verb, &resource, patch.as_ref(), dry)
            }
        }
    };
    tokio::time::sleep(wait).await;
    match said {
        Say::Nothing | Say::MadeAndNothing | Say::Late(_) => std::future::pending().await,
        Say::Text(text) => Response::new(Body::from(text)),
        Say::Code(code, message, after) => {
            let status = json!({ "kind": "Status", "message": message, "code": code });
            let mut response = Response::new(Body::from(status.to_string()));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            if !after.is_empty() {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            response
        }
    }
}

/// What the server does when nobody ordered anything else.
fn plain(world: &mut World, verb: &str, resource: &str, patch: Option<&Value>, dry: bool) -> Say {
    let found = match resource {
        "clusters" => Some(world.cluster.clone()),
        "leases" => world.lease.then(|| {
            json!({
                "metadata": { "name": "pg", "resourceVersion": "7" },
                "spec": { "holderIdentity": world.holder },
            })
        }),
        "pods" => world.operator.as_ref().map(|version| {
            let annotations = json!({ "cnpg.io/operatorVersion": version });
            let ready = if world.ready { "True" } else { "False" };
            json!({
                "metadata": { "name": "p", "resourceVersion": "1", "annotations": annotations },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            })
        }),
        _ => None,
    };
    let Some(found) = found else { return Say::code(404, "not found") };
    let (Some(patch), "patch") = (patch, verb) else { return Say::Text(found.to_string()) };
    if resource == "leases" && dry {
        return Say::Text(found.to_string());
    }
    if resource == "leases" {
        patch["spec"]["holderIdentity"].as_str().unwrap_or("?").clone_into(&mut world.holder);
        return Say::Text(found.to_string());
    }
    let version = &patch["metadata"]["resourceVersion"];
    if *version != world.cluster["metadata"]["resourceVersion"] {
        return Say::code(409, "the object has been modified");
    }
    if !dry {
        let mut patch = patch.clone();
        patch["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        merge(&mut world.cluster, &patch);
        bump(&mut world.cluster);
    }
    Say::Text(world.cluster.to_string())
}

/// RFC 7396.
fn merge(to: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *to = patch.clone();
        return;
    };
    if !to.is_object() {
        *to = json!({});
    }
    let to = to.as_object_mut().unwrap();
    for (name, value) in fields {
        if value.is_null() {
            to.remove(name);
        } else {
            merge(to.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
