//! The settings of a site of CloudNativePG.

use std::path::Path;
use std::time::Duration;

use harmony_agent::config::{Database, Sources, load};

use super::{Place, assert_says, problems};

/// A configuration of kind `cnpg`, with `own` in its section.
fn sources(place: &Place, top: &str, own: &str, rest: &str) -> Sources {
    let directory = place.path("");
    let directory = directory.display();
    let text = format!(
        "cluster_id = \"main\"\nmember = \"pg-a\"\n{top}\n[database]\nkind = \"cnpg\"\n[database.cnpg]\n\
         bin_dir = \"{directory}\"\n{own}\n[store.sqlite]\npath = \"{directory}/store.sqlite\"\n{rest}\n"
    );
    Sources { file: Some(place.write("harmony.toml", &text)), ..Sources::default() }
}

#[test]
fn the_name_of_the_cluster_is_enough() {
    let place = Place::new();
    let loaded = load(&sources(&place, "", "cluster = \"pg\"", "")).unwrap();
    let Database::Cnpg(cnpg) = &loaded.config.database else { panic!("{:?}", loaded.config) };
    assert_eq!(cnpg.access.cluster, "pg");
    assert_eq!(cnpg.pgdata, Path::new("/var/lib/postgresql/data/pgdata"));
    assert_eq!(cnpg.socket_dir, Path::new("/controller/run"));
    assert_eq!(cnpg.access.timeout, Duration::from_secs(2));
    assert_eq!((cnpg.access.url.as_ref(), cnpg.port), (None, 5432));
    assert_eq!(loaded.config.address.host, "pg-rw");
    assert!(loaded.config.policy.demotes);
    assert_eq!(loaded.config.database.port_to_hold(), Some(5432));
    assert_eq!(cnpg.member, loaded.config.member);
}

#[test]
fn a_local_database_is_neither_asked_for_nor_demoted() {
    let place = Place::new();
    let loaded = place.load("", "").unwrap();
    assert!(!loaded.config.policy.demotes);
    assert_eq!(loaded.config.database.port_to_hold(), None);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let place = Place::new();
    let state = "state_dir = \"/var/lib/postgresql/data/pgdata/x\"";
    for (top, own, rest, parts) in [
        ("", "", "", &["database.cnpg.cluster is missing"][..]),
        ("", "cluster = \"PG\"", "", &["database.cnpg.cluster is \"PG\""]),
        ("", "cluster = \"pg/../x\"", "", &["database.cnpg.cluster is \"pg/../x\""]),
        ("", "cluster = \"pg\"\nnamespace = \"a.b\"", "", &["database.cnpg.namespace is \"a.b\""]),
        ("", "cluster = \"pg\"\nnamespace = \"\"", "", &["database.cnpg.namespace is \"\""]),
        ("", "cluster = \"pg\"\napi = \"10.0.0.1\"", "", &["database.cnpg.api is \"10.0.0.1\""]),
        (
            "",
            "cluster = \"pg\"\napi_timeout = \"10ms\"",
            "",
            &["database.cnpg.api_timeout is 10ms"],
        ),
        ("", "cluster = \"pg\"\nhost = \" \"", "", &["database.cnpg.host is \" \""]),
        ("", "cluster = \"pg\"\nhung_after = \"1ms\"", "", &["database.cnpg.hung_after is 1ms"]),
        (state, "cluster = \"pg\"", "", &["state_dir", "lies in database.cnpg.pgdata"]),
        (
            "",
            "cluster = \"pg\"",
            "[synchronous]\nmode = \"on\"",
            &["synchronous.mode is on and database.kind is cnpg"],
        ),
    ] {
        let found = problems(load(&sources(&place, top, own, rest)));
        assert_says(&found, parts);
        // The recording is in the state directory.
        assert_eq!(found.len(), if top.is_empty() { 1 } else { 2 }, "{found:#?}");
    }
}

#[test]
fn a_promotion_that_has_less_time_than_cloudnativepg_takes_is_doubted() {
    let place = Place::new();
    let doubted = |top: &str, rest: &str| {
        let loaded = load(&sources(&place, top, "cluster = \"pg\"", rest)).unwrap();
        loaded.warnings.iter().any(|it| it.to_string().contains("timing.promote_timeout is"))
    };
    assert!(doubted("profile = \"fast\"", ""));
    assert!(doubted("profile = \"wan\"", "[timing]\npromote_timeout = \"29s\""));
    assert!(!doubted("profile = \"fast\"", "[timing]\npromote_timeout = \"30s\""));
    assert!(!doubted("profile = \"standard\"", "") && !doubted("profile = \"wan\"", ""));
    // PostgreSQL of this machine needs no such time.
    let local = place.load("profile = \"fast\"", "").unwrap();
    assert!(!local.warnings.iter().any(|it| it.to_string().contains("promote_timeout")));
}

/// A member that is an instance.
#[test]
fn an_instance_has_the_name_of_its_pod_and_a_site() {
    let place = Place::new();
    let with = |top: &str, instance: &str| {
        let own = format!("cluster = \"pg\"\ninstance = \"{instance}\"");
        load(&sources(&place, top, &own, ""))
    };
    let loaded = with("site = \"east\"", "pg-a").unwrap();
    let Database::Cnpg(cnpg) = &loaded.config.database else { panic!("{:?}", loaded.config) };
    assert_eq!(cnpg.instance.as_deref(), Some("pg-a"));
    assert_eq!(cnpg.site, loaded.config.policy.site);
    assert_says(
        &problems(with("site = \"east\"", "pg-1")),
        &["database.cnpg.instance is \"pg-1\""],
    );
    assert_says(&problems(with("", "pg-a")), &["site is missing"]);
}
