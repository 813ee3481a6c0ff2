//! What is said about a Cluster at the start.

use serde_json::{Value, json};

use super::super::audit::{Finding, advertised, audit};
use super::super::part::Data;
use super::super::us::Us;
use super::super::version::{Probe, Version};
use super::super::{Access, Cnpg, Settings};
use super::api::Say;
use super::site::{Site, cluster, replica, us};
use super::{Broken, until, within};

fn good() -> Probe {
    Probe { version: Some(Version::new(1, 30, 1)), lease: Some(true) }
}

fn findings(change: impl Fn(&mut Value), probe: &Probe) -> Vec<Finding> {
    let mut value = cluster();
    change(&mut value);
    audit(&serde_json::from_value(value).unwrap(), &us(), probe)
}

#[test]
fn there_is_nothing_against_what_the_documentation_says() {
    for value in [cluster(), replica()] {
        let cluster = serde_json::from_value(value).unwrap();
        assert_eq!(audit(&cluster, &us(), &good()), []);
    }
}

#[test]
fn what_safety_rests_on_is_refused() {
    let table: [Broken; 11] = [
        ("make them equal", |it| it["spec"]["replica"]["self"] = json!("pg-x")),
        ("make them equal", |it| {
            it["spec"]["replica"].as_object_mut().unwrap().remove("self");
        }),
        ("CloudNativePG refuses both", |it| it["spec"]["replica"]["enabled"] = json!(false)),
        ("there is no spec.replica", |it| it["spec"]["replica"] = json!(null)),
        ("no spec.externalClusters", |it| it["spec"]["externalClusters"] = json!([])),
        ("no spec.externalClusters", |it| it["spec"]["externalClusters"] = json!(null)),
        ("spec.replica.source is \"pg-z\"", |it| it["spec"]["replica"]["source"] = json!("pg-z")),
        ("spec.replica.primary is \"pg-z\"", |it| it["spec"]["replica"]["primary"] = json!("pg-z")),
        ("spec.instances is 2", |it| it["spec"]["instances"] = json!(2)),
        ("minApplyDelay", |it| it["spec"]["replica"]["minApplyDelay"] = json!("1h")),
        ("being deleted", |it| {
            it["metadata"]["deletionTimestamp"] = json!("2026-11-22T09:00:00Z");
        }),
    ];
    for (words, change) in table {
        let found = findings(change, &good());
        let said =
            |finding: &Finding| matches!(finding, Finding::Refusal(why) if why.contains(words));
        assert!(found.iter().any(said), "{words}: {found:#?}");
    }
    let old = Probe { version: Some(Version::new(1, 23, 9)), ..good() };
    assert!(matches!(findings(|_| (), &old).as_slice(), [Finding::Refusal(_)]));
}

#[test]
fn what_costs_time_is_warned_of() {
    let table: [Broken; 10] = [
        ("is no list of names", |it| {
            it["metadata"]["annotations"]["cnpg.io/fencedInstances"] = json!("pg-1");
        }),
        ("smartShutdownTimeout is 180", |it| {
            it["spec"].as_object_mut().unwrap().remove("smartShutdownTimeout");
        }),
        ("switchoverDelay is 3600", |it| {
            it["spec"].as_object_mut().unwrap().remove("switchoverDelay");
        }),
        ("switchoverDelay is 31", |it| it["spec"]["switchoverDelay"] = json!(31)),
        ("switchoverDelay is 9", |it| it["spec"]["switchoverDelay"] = json!(9)),
        ("primaryUpdateMethod", |it| it["spec"]["primaryUpdateMethod"] = json!("switchover")),
        ("hibernated", |it| {
            it["metadata"]["annotations"]["cnpg.io/hibernation"] = json!("on");
        }),
        ("does not look after", |it| {
            it["metadata"]["annotations"]["cnpg.io/reconciliationLoop"] = json!("disabled");
        }),
        ("application_name \"x\"", |it| {
            it["spec"]["externalClusters"][1]["connectionParameters"]["application_name"] =
                json!("x");
        }),
        ("smartShutdownTimeout is 5", |it| it["spec"]["smartShutdownTimeout"] = json!(5)),
    ];
    for (words, change) in table {
        let found = findings(change, &good());
        let [Finding::Warning(what)] = found.as_slice() else { panic!("{words}: {found:#?}") };
        assert!(what.contains(words), "{words}: {what}");
    }
    for (probe, words) in [
        (Probe { version: Some(Version::new(1, 30, 0)), ..good() }, "1.30.0"),
        (Probe { version: Some(Version::new(1, 28, 3)), ..good() }, "lose its token"),
        (Probe { version: Some(Version::new(1, 29, 1)), ..good() }, "lose its token"),
        (Probe { version: None, ..good() }, "not known"),
        (Probe { lease: Some(false), ..good() }, "lease"),
    ] {
        let found = findings(|_| (), &probe);
        let [Finding::Warning(what)] = found.as_slice() else { panic!("{probe:?}: {found:#?}") };
        assert!(what.contains(words), "{what}");
    }
    for version in [Version::new(1, 28, 4), Version::new(1, 29, 2)] {
        assert_eq!(findings(|_| (), &Probe { version: Some(version), ..good() }), []);
    }
}

/// An instance of three in a Cluster that has no other sites.
fn instances(change: impl Fn(&mut Value, &mut Us)) -> Vec<Finding> {
    let mut us = Us {
        member: "pg-1".parse().unwrap(),
        instance: Some("pg-1".to_owned()),
        site: Some("pg".parse().unwrap()),
    };
    let mut value = cluster();
    value["spec"]["instances"] = json!(3);
    value["spec"]["failoverDelay"] = json!(1_000_000);
    value["spec"]["replica"] = json!(null);
    value["spec"]["externalClusters"] = json!([]);
    change(&mut value, &mut us);
    audit(&serde_json::from_value(value).unwrap(), &us, &good())
}

#[test]
fn several_instances_are_fine_where_each_is_a_member() {
    assert_eq!(instances(|_, _| ()), []);
    // As one of two sites it is called otherwise.
    let sites = |value: &mut Value, us: &mut Us| {
        let two = cluster();
        for field in ["replica", "externalClusters"] {
            value["spec"][field] = two["spec"][field].clone();
        }
        us.site = Some("pg-a".parse().unwrap());
    };
    assert_eq!(instances(sites), []);
    // Nobody else is there to be promoted.
    assert_eq!(
        instances(|value, _| {
            value["spec"]["instances"] = json!(1);
            value["spec"]["failoverDelay"] = json!(0);
        }),
        []
    );
}

#[test]
fn an_instance_stands_in_the_site_of_its_cluster() {
    for (site, own) in [("pg-b", json!(null)), ("pg", json!("pg-a"))] {
        let found = instances(|value, us| {
            if own != json!(null) {
                value["spec"]["replica"] = cluster()["spec"]["replica"].clone();
                value["spec"]["externalClusters"] = cluster()["spec"]["externalClusters"].clone();
            }
            us.site = Some(site.parse().unwrap());
        });
        let [Finding::Refusal(why)] = found.as_slice() else { panic!("{site}: {found:#?}") };
        assert!(why.contains(&format!("site is {site:?}")), "{why}");
    }
}

#[test]
fn an_operator_that_would_fail_over_by_itself_is_warned_of() {
    for delay in [None, Some(0), Some(30), Some(3599)] {
        let found = instances(|value, _| value["spec"]["failoverDelay"] = json!(delay));
        let [Finding::Warning(what)] = found.as_slice() else { panic!("{delay:?}: {found:#?}") };
        let said = format!("spec.failoverDelay is {}", delay.unwrap_or(0));
        assert!(what.contains(&said), "{what}");
    }
    assert_eq!(instances(|value, _| value["spec"]["failoverDelay"] = json!(3600)), []);
}

#[test]
fn what_cloudnativepg_does_for_instances_by_itself_is_told_apart_from_what_the_agents_do() {
    let quorum = |value: &mut Value| {
        value["spec"]["postgresql"] = json!({ "synchronous": { "failoverQuorum": true } });
    };
    let isolated = |value: &mut Value| {
        value["spec"]["probes"] =
            json!({ "liveness": { "isolationCheck": { "enabled": false }, "periodSeconds": 5 } });
    };
    for (change, words) in [
        (&quorum as &dyn Fn(&mut Value), "in its own failover only"),
        (&isolated, "isolationCheck is off"),
    ] {
        let found = instances(|value, _| change(value));
        let [Finding::Warning(what)] = found.as_slice() else { panic!("{words}: {found:#?}") };
        assert!(what.contains(words), "{what}");
        // Alone there is nobody to fail over to, and nobody to reach.
        assert_eq!(
            instances(|value, _| {
                change(value);
                value["spec"]["instances"] = json!(1);
            }),
            []
        );
    }
    for (minor, has) in [(27, false), (28, true), (30, true)] {
        let probe = Probe { version: Some(Version::new(1, minor, 0)), ..good() };
        assert_eq!(probe.has_quorum(), has, "1.{minor}");
    }
    assert!(Probe::default().has_quorum(), "it may");
}

#[test]
fn another_host_than_the_one_that_other_sites_know_is_warned_of() {
    let of = |change: fn(&mut Value), host: &str| {
        let mut value = cluster();
        change(&mut value);
        advertised(&serde_json::from_value(value).unwrap(), &us(), host)
    };
    assert_eq!(of(|_| (), "a.example"), None);
    for host in ["pg-rw", "b.example"] {
        let found = of(|_| (), host);
        let said = |what: &str| what.contains(host) && what.contains("\"a.example\" for this site");
        assert!(matches!(&found, Some(Finding::Warning(what)) if said(what)), "{found:?}");
    }
    // Nothing is known of a site without an entry, or of an entry without a host.
    assert_eq!(of(|it| it["spec"]["externalClusters"] = json!([]), "x"), None);
    let without =
        |it: &mut Value| it["spec"]["externalClusters"][0]["connectionParameters"] = json!({});
    assert_eq!(of(without, "x"), None);
    // An instance has an address of its own, inside its site.
    let instance = Us { instance: Some("pg-1".to_owned()), ..us() };
    let read = serde_json::from_value(cluster()).unwrap();
    assert_eq!(advertised(&read, &instance, "pod.example"), None);
}

/// What the start says of a site.
async fn checked(site: &Site) -> Result<(), String> {
    let at = &site.shared.server.place.at;
    let settings = Settings {
        member: "pg-a".parse().unwrap(),
        instance: None,
        site: None,
        access: Access {
            cluster: "pg".to_owned(),
            namespace: Some("db".to_owned()),
            url: Some(site.api.url.clone()),
            token_file: None,
            ca_file: None,
            timeout: site.shared.api.limit(),
        },
        pgdata: at.data_dir.clone(),
        bin_dir: at.bin_dir.clone(),
        port: at.port,
        socket_dir: at.socket_dir.clone(),
        host: "a.example".to_owned(),
        hung_after: at.hung_after,
        write_probe_interval: at.write_probe_interval,
    };
    Cnpg::new(settings).unwrap().check().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_start_is_refused_where_nothing_could_be_done() {
    within(async {
        let site = Site::standby(replica()).await;
        site.api.world().operator = Some("1.30.1".to_owned());
        assert_eq!(checked(&site).await, Ok(()));
        for (verb, say, words) in [
            ("get", Say::code(403, "no"), "not allowed to get clusters"),
            ("get", Say::code(401, "no"), "not allowed to get clusters"),
            ("get", Say::code(404, "no"), "there is no clusters"),
            ("get", Say::Text("{\"metadata\":{}}".to_owned()), "not understood"),
            ("patch", Say::code(403, "no"), "not allowed to patch clusters"),
        ] {
            site.api.world().always = vec![(verb, say)];
            let why = checked(&site).await.unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        // What passes is no reason not to start.
        for say in [Say::Nothing, Say::code(503, "x"), Say::code(429, "x")] {
            site.api.world().always = vec![("get", say)];
            assert_eq!(checked(&site).await, Ok(()));
        }
        site.api.world().always.clear();
        site.api.change(|cluster| cluster["spec"]["replica"]["self"] = json!("pg-b"));
        assert!(checked(&site).await.unwrap_err().contains("make them equal"));
    })
    .await;
}

/// Nobody else renews its lease, or stops it when it has none.
#[tokio::test]
async fn beside_a_postgresql_that_runs_the_start_is_not_refused() {
    within(async {
        for (site, runs) in [
            (Site::primary(cluster()).await, Data::Running),
            (Site::standby(replica()).await, Data::RunningStandby),
        ] {
            site.api.world().operator = Some("1.30.1".to_owned());
            site.api.change(|cluster| cluster["spec"]["replica"]["enabled"] = json!(true));
            assert!(checked(&site).await.unwrap_err().contains("spec.replica.enabled is set"));
            let postmaster = site.start_postmaster();
            until("its process is seen", || site.shared.part.data() == runs).await;
            assert_eq!(checked(&site).await, Ok(()));
            site.api.world().always = vec![("get", Say::code(403, "no"))];
            assert_eq!(checked(&site).await, Ok(()));
            drop(postmaster);
            assert!(checked(&site).await.is_err());
        }
    })
    .await;
}
