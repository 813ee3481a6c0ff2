//! Settings of the whole cluster, changed with the command line while it runs.

use super::checks::{assert_fails, assert_sound};
use super::cluster::Place;
use super::orders::{ask, done};

#[test]
fn a_setting_of_the_cluster_counts_for_all_members_until_it_is_unset() {
    let place = Place::new();
    let (mut a, mut b) = place.pair();
    let lag = "failover.maximum_lag_on_failover";
    let shown = |effective: &str| {
        let said = done(&b, &["config", "show", effective, "-o", "json"]);
        let said: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
        let of = said.into_iter().find(|entry| entry["key"] == lag).unwrap();
        format!("{} {}", of["value"].as_str().unwrap(), of["origin"].as_str().unwrap())
    };
    assert_eq!(shown("--effective"), "\"16MiB\" default");
    // Beside a standby just as well.
    let told = done(&b, &["config", "set", lag, "4KiB"]);
    assert!(told.starts_with("set;"), "{told}");
    assert_eq!(done(&a, &["config", "set", lag, "4KiB"]).trim(), "nothing to change");
    for member in [&a, &b] {
        member.until_says("settings of the cluster changed");
        member.until_says("\"maximum_lag_on_failover\":4096");
    }
    assert_eq!(shown("--effective"), "\"4KiB\" the cluster (config set)");
    // A change of primary carries it on.
    done(&a, &["switchover", "--to", "b", "--yes"]);
    b.until_leads();
    a.until_follows();
    assert_eq!(shown("--effective"), "\"4KiB\" the cluster (config set)");
    done(&a, &["config", "unset", lag]);
    assert_eq!(shown("--effective"), "\"16MiB\" default");

    let timing = ask(&a, &["config", "set", "timing.lease_duration", "10s"]);
    assert_fails(&timing, 64, &["timing.lease_duration cannot be set", lag]);
    assert_fails(&ask(&a, &["config", "set", lag, "16"]), 64, &["expected bytes", "16MiB"]);
    let misspelt = ask(&a, &["config", "unset", "failover.maximum_lag"]);
    assert_fails(&misspelt, 64, &["did you mean", lag]);
    assert_sound(&mut [&mut a, &mut b]);
}
