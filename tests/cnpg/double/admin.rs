//! The double's own endpoint, beside that of its API server: what tests do to it by calls, other processes
//! do by `POST /double` with an [`Order`] as JSON; `GET /double` says how everything is.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::api::access::rules;
use super::api::faults::{Fault, Network};
use super::instance::pod::Gate;
use super::world::World;

/// Something to break, or to mend.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Order {
    /// How the API server is reached: `up`, `refused`, `silent`.
    Network(Network),
    /// Whether the admission webhook is down.
    WebhookDown(bool),
    /// Replaces the faults of single answers.
    Faults(Vec<Fault>),
    /// Forgets every version but the newest.
    Forget,
    /// Ends every watch.
    CutWatches,
    /// Forgets the calls so far.
    ForgetCalls,
    /// Lets somebody in.
    Account {
        /// His name.
        name: String,
        /// His token.
        token: String,
        /// YAML of the roles that say what he may do.
        roles: String,
    },
    /// The operator; what is not said stays.
    Operator {
        /// There is none.
        #[serde(default)]
        off: Option<bool>,
        /// It is cut off from the API server.
        #[serde(default)]
        cut: Option<bool>,
        /// It is cut off from the pods.
        #[serde(default)]
        blind: Option<bool>,
        /// Its cache is so far behind.
        #[serde(default)]
        lag_milliseconds: Option<u64>,
    },
    /// A pod; what is not said stays.
    Pod(PodOrder),
}

/// What to break in a pod.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodOrder {
    /// Which.
    name: String,
    /// Its machine is gone.
    #[serde(default)]
    node_down: Option<bool>,
    /// Its manager is cut off from the API server.
    #[serde(default)]
    cut: Option<bool>,
    /// Nobody reaches it.
    #[serde(default)]
    unreachable: Option<bool>,
    /// Its fast stops do not come to an end.
    #[serde(default)]
    fast_stop_fails: Option<bool>,
    /// The checkpoint before a stop takes so long.
    #[serde(default)]
    checkpoint_milliseconds: Option<u64>,
    /// Its manager's cache is so far behind.
    #[serde(default)]
    lag_milliseconds: Option<u64>,
    /// What its sidecar's startup probe asks.
    #[serde(default)]
    gate_url: Option<String>,
    /// The file that opens it.
    #[serde(default)]
    gate_file: Option<PathBuf>,
}

/// Listens on this machine; port 0 for any.
pub(crate) async fn serve(world: &Arc<World>, port: u16) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let route = get(|State(world): State<Arc<World>>| async move { Json(look(&world)) }).post(
        |State(world): State<Arc<World>>, Json(order): Json<Order>| async move {
            apply(&world, order).map_err(|error| (StatusCode::BAD_REQUEST, error))
        },
    );
    let router = Router::new().route("/double", route).with_state(Arc::clone(world));
    tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    Ok(address)
}

fn look(world: &World) -> Value {
    let pods: serde_json::Map<String, Value> = world
        .pods()
        .iter()
        .map(|pod| {
            let state = pod.state().clone();
            let told = json!({ "port": pod.postgres.port, "dir": pod.dir, "state": state });
            (pod.name.clone(), told)
        })
        .collect();
    json!({ "pods": pods, "calls": world.server.calls() })
}

/// Does it.
pub(crate) fn apply(world: &World, order: Order) -> Result<(), String> {
    match order {
        Order::Network(network) => world.server.set_network(network),
        Order::WebhookDown(down) => world.server.set_webhook_down(down),
        Order::Faults(faults) => world.server.set_faults(faults),
        Order::Forget => world.server.forget(),
        Order::CutWatches => world.server.cut_watches(),
        Order::ForgetCalls => world.server.forget_calls(),
        Order::Account { name, token, roles } => {
            world.server.set_account(&name, &token, rules(&roles)?);
        }
        Order::Operator { off, cut, blind, lag_milliseconds } => {
            let operator = &world.operator;
            off.into_iter().for_each(|off| operator.set_off(off));
            cut.into_iter().for_each(|cut| operator.link.set_cut(cut));
            blind.into_iter().for_each(|blind| operator.set_blind(blind));
            let lag = lag_milliseconds.map(Duration::from_millis);
            lag.into_iter().for_each(|lag| operator.link.set_lag(lag));
        }
        Order::Pod(order) => order.apply(world),
    }
    Ok(())
}

impl PodOrder {
    fn apply(self, world: &World) {
        let pod = world.pod(&self.name);
        if let Some(cut) = self.cut {
            pod.link.set_cut(cut);
        }
        if let Some(lag) = self.lag_milliseconds {
            pod.link.set_lag(Duration::from_millis(lag));
        }
        let mut knobs = pod.knobs();
        knobs.node_down = self.node_down.unwrap_or(knobs.node_down);
        knobs.unreachable = self.unreachable.unwrap_or(knobs.unreachable);
        knobs.fast_stop_fails = self.fast_stop_fails.unwrap_or(knobs.fast_stop_fails);
        if let Some(time) = self.checkpoint_milliseconds {
            knobs.checkpoint_takes = Duration::from_millis(time);
        }
        if let Some(url) = self.gate_url {
            knobs.gate = Gate::Url(url);
        }
        if let Some(file) = self.gate_file {
            knobs.gate = Gate::File(file);
        }
    }
}
