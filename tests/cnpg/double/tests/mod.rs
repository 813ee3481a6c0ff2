//! The double itself: each behaviour that agents are tried against is there.

mod api;
mod demotions;
mod fences;
mod instances;
mod pods;
mod promotions;

use serde_json::{Value, json};

use super::{Double, Options};
use crate::cnpg::manifest::manifest;

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
    let (a, b) = (Double::start(&Options::default()), Double::start(&Options::default()));
    let ports = [a.pod("pg-a-1").postgres.port, b.pod("pg-b-1").postgres.port];
    a.create(manifest("pg-a", "pg-a", ports)).await.unwrap();
    a.until_healthy("pg-a").await;
    sql(&a, "pg-a-1", "create table t (n int)").await;
    b.create(manifest("pg-b", "pg-a", ports)).await.unwrap();
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
