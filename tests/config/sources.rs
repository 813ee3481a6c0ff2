//! File, environment and flags; unknown keys and wrong types.

use std::time::Duration;

use harmony_agent::config::{KEYS, LoadError, Sources, load};

use super::{Place, assert_says, problems};

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_missing_file_is_named() {
    let sources = Sources { file: Some("/nonexistent/harmony.toml".into()), ..Sources::default() };
    let error = load(&sources).unwrap_err();
    assert!(matches!(error, LoadError::File { .. }));
    assert!(error.to_string().contains("/nonexistent/harmony.toml"), "{error}");
}

#[test]
fn what_is_required_is_asked_for_all_at_once() {
    let found = problems(load(&Sources::default()));
    assert_says(&found, &["cluster_id is missing", "HARMONY_CLUSTER_ID"]);
    assert_says(&found, &["member is missing"]);
    assert_says(
        &found,
        &["database.local.data_dir is missing", "HARMONY_DATABASE__LOCAL__DATA_DIR"],
    );
}

#[test]
fn not_toml_names_the_line() {
    let place = Place::new();
    let found = place.problems("profile = ", "");
    assert_says(&found, &["harmony.toml:3", "not TOML"]);
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    let place = Place::new();
    let found = place.problems(
        "lease_duration = \"1s\"\nstate_directory = \"/x\"",
        "[timings]\n[timing]\nlease_durtion = \"1s\"",
    );
    assert_says(&found, &["harmony.toml:3", "no key lease_duration", "timing.lease_duration?"]);
    assert_says(&found, &["harmony.toml:4", "state_dir?"]);
    assert_says(&found, &["no key timings"]);
    assert_says(&found, &["no key timing.lease_durtion", "timing.lease_duration?"]);
}

#[test]
fn a_misspelt_key_is_not_also_missing_and_comes_in_the_order_of_the_file() {
    let place = Place::new();
    let file = place.path("typos.toml");
    let text = "member_idd = \"a\"\n[store]\npth = \"/x\"\n[database.local]\nbindir = \"/x\"\n";
    std::fs::write(&file, text).unwrap();
    let found = problems(load(&Sources { file: Some(file), ..Sources::default() }));
    let lines: Vec<_> = found.iter().filter_map(|found| found.split(".toml:").nth(1)).collect();
    assert!(
        lines[0].starts_with("1: there is no key member_idd; did you mean member?"),
        "{found:#?}"
    );
    assert!(lines[1].starts_with("3: there is no key store.pth"), "{found:#?}");
    assert!(lines[2].starts_with("5: there is no key database.local.bindir"), "{found:#?}");
    assert!(found[..3].iter().all(|found| found.contains("there is no key")), "{found:#?}");
    assert_says(&found, &["cluster_id is missing"]);
    assert!(!found.iter().any(|found| found.contains("member is missing")), "{found:#?}");
}

#[test]
fn unknown_variables_and_flags_are_refused() {
    let place = Place::new();
    let mut sources = place.sources("", "");
    sources.environment = pairs(&[("HARMONY_TIMING_LEASE_DURATION", "1s"), ("PATH", "/bin")]);
    sources.flags = pairs(&[("watchdog", "off")]);
    let found = problems(load(&sources));
    assert_says(&found, &["HARMONY_TIMING_LEASE_DURATION", "HARMONY_TIMING__LEASE_DURATION?"]);
    assert_says(&found, &["command line", "no key watchdog"]);
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn what_kubernetes_sets_for_a_service_is_passed_over_with_a_warning() {
    let place = Place::new();
    let mut sources = place.sources("", "");
    sources.environment = pairs(&[
        ("HARMONY_CONFIG", "/somewhere"),
        ("HARMONY_AGENT_SERVICE_HOST", "10.0.0.1"),
        ("HARMONY_AGENT_PORT_8008_TCP_ADDR", "10.0.0.1"),
        ("HARMONY_DATABASE__LOCAL__PORT", "5433"),
    ]);
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.address.port, 5433);
    let warned: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_says(&warned, &["HARMONY_AGENT_SERVICE_HOST"]);
    assert_says(&warned, &["HARMONY_AGENT_PORT_8008_TCP_ADDR"]);
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let place = Place::new();
    let mut sources = place
        .sources("profile = \"fast\"", "[timing]\ncool_down = \"7s\"\n[log]\nlevel = \"warn\"");
    sources.environment = pairs(&[
        ("HARMONY_TIMING__COOL_DOWN", "8s"),
        ("HARMONY_LOG__LEVEL", "debug"),
        ("HARMONY_FAILOVER__PRIORITY", "3"),
        ("HARMONY_DATABASE__LOCAL__PARAMETERS__SHARED_BUFFERS", "64MB"),
    ]);
    sources.flags =
        pairs(&[("timing.cool_down", "9s"), ("member", "b"), ("timing.cool_down", "10s")]);
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.policy.cool_down, Duration::from_secs(10));
    assert_eq!(loaded.config.log_level, "debug");
    assert_eq!(loaded.config.policy.priority, 3);
    assert_eq!(loaded.config.member.as_str(), "b");
    let harmony_agent::config::Database::Local(local) = &loaded.config.database else {
        panic!("the default is local")
    };
    assert_eq!(local.parameters["shared_buffers"], "64MB");
    assert_eq!(local.member.as_str(), "b");
    let level = loaded.effective.iter().find(|entry| entry.key == "log.level").unwrap();
    assert_eq!(level.origin, "environment variable HARMONY_LOG__LEVEL");
}

#[test]
fn every_key_can_be_set_in_the_environment() {
    let mut names: Vec<_> = KEYS.iter().map(harmony_agent::config::Key::variable).collect();
    assert!(names.contains(&"HARMONY_STORE__NATS__TLS_CA_FILE".to_owned()));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), KEYS.len(), "two keys share a variable");
}

#[test]
fn lists_come_from_the_environment_too() {
    let place = Place::new();
    let mut sources = place.sources("", "[store]\nbackend = \"nats\"");
    sources.environment =
        pairs(&[("HARMONY_STORE__NATS__SERVERS", "nats://10.0.0.1:4222, tls://n2:4222")]);
    let loaded = load(&sources).unwrap();
    let harmony_agent::config::Store::Nats(nats) = &loaded.config.store else { panic!("not nats") };
    assert_eq!(nats.servers, ["nats://10.0.0.1:4222", "tls://n2:4222"]);
}

#[test]
fn wrong_types_name_line_key_value_and_what_to_write() {
    let place = Place::new();
    let found = place.problems(
        "profile = \"quick\"",
        "[timing]\nlease_duration = 10\nheartbeat_interval = \"250\"\nclock_drift = 2.0\nfailure_threshold = \"two\"\n\
         cool_down = \"soon\"\n[failover]\nmay_bootstrap = \"yes\"\nmaximum_lag_on_failover = 16\npriority = 256\n\
         [store.nats]\nservers = \"nats://a:1\"\n[http]\nlisten = \"here\"\n[database.local.parameters]\nx = [1]",
    );
    assert_says(
        &found,
        &["harmony.toml:3: profile is the text \"quick\", expected fast | standard | wan"],
    );
    assert_says(&found, &["timing.lease_duration is 10, without a unit", "\"10s\""]);
    assert_says(&found, &["timing.heartbeat_interval is \"250\"", "\"250ms\""]);
    assert_says(&found, &["timing.clock_drift is the number 2.0"]);
    assert_says(&found, &["timing.failure_threshold is the text \"two\""]);
    assert_says(&found, &["timing.cool_down is \"soon\""]);
    assert_says(&found, &["failover.may_bootstrap is the text \"yes\", expected true or false"]);
    assert_says(&found, &["failover.maximum_lag_on_failover is 16", "\"16MiB\""]);
    assert_says(&found, &["failover.priority is the number 256", "0 to 255"]);
    assert_says(&found, &["store.nats.servers is the text"]);
    assert_says(&found, &["http.listen is \"here\"", "127.0.0.1:8008"]);
    assert_says(&found, &["database.local.parameters.x is the list"]);
    assert_eq!(found.len(), 12, "{found:#?}");
}

#[test]
fn odd_names_are_refused() {
    let place = Place::new();
    for bad in ["", "Main", "a.b", "a*", "main cluster", "ü", &"x".repeat(49)] {
        let mut sources = place.sources("", "");
        sources.flags = pairs(&[("cluster_id", bad), ("member", bad)]);
        let found = problems(load(&sources));
        assert_says(&found, &["cluster_id is", &format!("{bad:?}"), "1 to 48 characters"]);
        assert_says(&found, &["member is", &format!("{bad:?}")]);
    }
}

#[test]
fn relative_paths_are_refused() {
    let place = Place::new();
    let found = place.problems("state_dir = \"state\"", "");
    assert_says(&found, &["state_dir is \"state\"", "absolute path"]);
}

/// A hook may call the program that runs it.
#[test]
fn what_a_hook_finds_in_its_environment_is_no_setting() {
    let place = Place::new();
    let mut sources = place.sources("", "");
    sources.environment = pairs(&[
        ("HARMONY_HOOK", "on_fence"),
        ("HARMONY_HOOK_MEMBER", "b"),
        ("HARMONY_HOOKS__TIMEOUT", "3s"),
    ]);
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.member.as_str(), "a");
    assert_eq!(loaded.config.hooks.timeout, Duration::from_secs(3));
    sources.environment = pairs(&[("HARMONY_HOOKED", "x")]);
    assert!(load(&sources).is_err());
}
