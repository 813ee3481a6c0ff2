//! The adapter against an API server of one object, and a data directory that no PostgreSQL runs.
//!
//! What needs a running PostgreSQL, an operator and an instance manager is in `tests/cnpg`.

mod api;
mod audits;
mod bars;
mod beside;
mod fences;
mod following;
mod gates;
mod guards;
mod hindrances;
mod instances;
mod roles;
mod site;
mod tokens;
mod troubles;

use std::time::Duration;

/// Something wrong with a Cluster, and words of what is said about it.
type Broken = (&'static str, fn(&mut serde_json::Value));

/// Every test ends by then.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a test to its end, or fails it.
async fn within<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(LIMIT, test).await.expect("the test hangs")
}

/// Waits until `so`, or fails the test.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not so after 10 s: {what}");
}
