//! The double of CloudNativePG as a program: one Kubernetes cluster until it is told to end.
//!
//! ```text
//! cargo run --example cnpg-double -- --factor 0.1 --namespace site cluster.yaml
//! ```
//!
//! It prints one line of JSON: the address of its API server with the token that may do everything, that of
//! its own endpoint, and the port and the directory of each pod that was asked for by `--pod`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool of tests ends where it cannot go on, and says why"
)]

#[path = "mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the rest is for tests of the same process")]
mod double;

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use double::{Double, Options};

/// A double of CloudNativePG and of the Kubernetes it runs in: neither of them, for trials only.
#[derive(Parser)]
struct Arguments {
    /// Port of the API server on 127.0.0.1; any without.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Port of the double's own endpoint; any without.
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// The namespace everything is in.
    #[arg(long, default_value = "site")]
    namespace: String,
    /// A second of CloudNativePG takes so many seconds.
    #[arg(long, default_value_t = 0.1)]
    factor: f64,
    /// Where pods have their volumes; without, a directory that goes in the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Pods whose ports are to be known before there are Clusters.
    #[arg(long)]
    pod: Vec<String>,
    /// Clusters to begin with; `PORT:pg-a-1` in them stands for the port of that pod.
    manifests: Vec<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let options = Options {
        namespace: arguments.namespace,
        factor: arguments.factor,
        port: arguments.port,
        admin_port: arguments.admin_port,
        actors: true,
        dir: arguments.dir,
        ..Options::default()
    };
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let double = Double::start(&options);
    let mut pods = json!({});
    for name in &arguments.pod {
        let pod = double.pod(name);
        pods[name] = json!({ "port": pod.postgres.port, "dir": pod.dir });
    }
    for path in &arguments.manifests {
        let mut text = std::fs::read_to_string(path)?;
        for name in &arguments.pod {
            let port = double.pod(name).postgres.port.to_string();
            text = text.replace(&format!("PORT:{name}"), &port);
        }
        double.apply(&text).await;
    }
    let token = double::api::access::ADMIN_TOKEN;
    println!(
        "{}",
        json!({ "api": double.url(), "token": token, "admin": double.admin_url(), "pods": pods })
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
