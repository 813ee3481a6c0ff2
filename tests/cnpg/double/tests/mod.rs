//! The double itself: each behaviour that agents are tried against is there.

mod api;
mod demotions;
mod failovers;
mod faults;
mod fences;
mod guards;
mod hibernation;
mod instances;
mod leases;
mod operators;
mod pods;
mod promotions;
mod versions;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Double, Options};
use crate::cnpg::manifest::manifest;

/// How long a state may take to come.
const LIMIT: Duration = Duration::from_secs(20);

/// What the double's documentation says of its tests is so.
#[test]
fn every_test_that_the_documentation_names_is_there() {
    let named: Vec<&str> = include_str!("../mod.rs")
        .lines()
        .filter(|line| line.starts_with("//!"))
        .flat_map(|line| line.split('`'))
        .filter(|word| {
            word.split_once("::").is_some_and(|(file, _)| FILES.iter().any(|it| it.0 == file))
        })
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        let (file, test) = name.split_once("::").unwrap();
        let text = FILES.iter().find(|it| it.0 == file).unwrap().1;
        assert!(text.contains(&format!("async fn {test}()")), "there is no {name}");
    }
}

/// The files of these tests.
const FILES: [(&str, &str); 12] = [
    ("api", include_str!("api.rs")),
    ("demotions", include_str!("demotions.rs")),
    ("failovers", include_str!("failovers.rs")),
    ("faults", include_str!("faults.rs")),
    ("fences", include_str!("fences.rs")),
    ("guards", include_str!("guards.rs")),
    ("hibernation", include_str!("hibernation.rs")),
    ("instances", include_str!("instances.rs")),
    ("leases", include_str!("leases.rs")),
    ("operators", include_str!("operators.rs")),
    ("pods", include_str!("pods.rs")),
    ("promotions", include_str!("promotions.rs")),
];

/// One site, a primary, healthy.
async fn one() -> Double {
    one_as(&Options::default(), |_| {}).await
}

/// The same with a manifest and options of one's own.
async fn one_as(options: &Options, change: impl Fn(&mut Value)) -> Double {
    let site = Double::start(options);
    let port = site.pod("pg-a-1").postgres.port;
    let mut object = manifest("pg-a", "pg-a", [port, 1]);
    change(&mut object);
    site.apply(&object.to_string()).await;
    site.until_healthy("pg-a").await;
    site
}

/// Two sites: pg-a acts, pg-b follows it and has everything.
async fn two() -> (Double, Double) {
    two_as(|_| {}).await
}

/// The same with manifests of one's own.
async fn two_as(change: impl Fn(&mut Value)) -> (Double, Double) {
    let (a, b) = (Double::start(&Options::default()), Double::start(&Options::default()));
    let ports = [a.pod("pg-a-1").postgres.port, b.pod("pg-b-1").postgres.port];
    let [of_a, of_b] = ["pg-a", "pg-b"].map(|name| {
        let mut object = manifest(name, "pg-a", ports);
        change(&mut object);
        object
    });
    a.create(of_a).await.unwrap();
    a.until_healthy("pg-a").await;
    sql(&a, "pg-a-1", "create table t (n int)").await;
    b.create(of_b).await.unwrap();
    b.until_healthy("pg-b").await;
    write(&a, "pg-a-1", 1).await;
    b.until_says("pg-b-1", "select count(*) from t", "1").await;
    (a, b)
}

/// SQL that has to work.
async fn sql(site: &Double, pod: &str, statement: &str) -> String {
    let said = site.pod(pod).postgres.sql(statement).await;
    said.unwrap_or_else(|error| panic!("{pod}: {statement}: {error}\n{}", site.told()))
}

async fn write(site: &Double, pod: &str, number: u32) {
    sql(site, pod, &format!("insert into t values ({number})")).await;
}

/// Asks for another role of a site.
async fn role(site: &Double, cluster: &str, primary: &str, source: &str, token: Option<&str>) {
    let replica = json!({ "primary": primary, "source": source, "promotionToken": token });
    site.patch(cluster, json!({ "spec": { "replica": replica } })).await.unwrap();
}

/// A Cluster of two instances, the first of which acts.
async fn pair(change: impl Fn(&mut Value)) -> Double {
    let site = one_as(&Options::default(), |object| {
        object["spec"]["instances"] = 2.into();
        change(object);
    })
    .await;
    sql(&site, "pg-a-1", "create table t (n int)").await;
    site.until_says("pg-a-2", "select count(*) from pg_class where relname = 't'", "1").await;
    site
}

/// Says which instance is to act, as `kubectl cnpg promote` does.
async fn target(site: &Double, cluster: &str, pod: &str) {
    let status = json!({
        "targetPrimary": pod, "targetPrimaryTimestamp": "2026-08-21T10:00:00.000000Z",
        "phase": "Switchover in progress", "phaseReason": format!("Switching over to {pod}"),
    });
    site.patch_status(cluster, status).await.unwrap();
}

/// What an instance's pod is labelled as.
fn label(site: &Double, pod: &str) -> String {
    let role = &site.pod_object(pod)["metadata"]["labels"]["cnpg.io/instanceRole"];
    role.as_str().unwrap_or_default().to_owned()
}

/// Waits until what is not in the Cluster is as wanted.
#[track_caller]
fn until(site: &Double, wanted: impl Fn() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let due = Instant::now() + LIMIT;
        while !wanted() {
            assert!(Instant::now() < due, "{place}: {}", site.told());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Demotes pg-a behind pg-b; its token.
async fn demote(a: &Double) -> String {
    role(a, "pg-a", "pg-b", "pg-b", None).await;
    let object = a
        .until("pg-a", |cluster| {
            !cluster.text("/status/demotionToken").is_empty()
                && !cluster.in_transition()
                && cluster.condition("ReplicaClusterSwitch") == Some("True")
        })
        .await;
    object["status"]["demotionToken"].as_str().unwrap().to_owned()
}
