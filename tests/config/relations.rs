//! The rules between values.

use std::time::Duration;

use harmony_agent::config::{Config, Profile, TimingRule, load, policy_problems};
use harmony_agent::core::policy::Policy;
use proptest::prelude::*;

use super::{Place, assert_says};

fn config(profile: &str) -> Config {
    let place = Place::new();
    place.load(&format!("profile = \"{profile}\""), "").unwrap().config
}

#[test]
fn every_profile_is_accepted() {
    for profile in Profile::ALL {
        let config = config(profile.name());
        assert_eq!(config.profile, profile);
        assert_eq!(policy_problems(&config.policy), Vec::<String>::new());
    }
    assert_eq!(config("fast").policy.lease_duration, Duration::from_secs(1));
}

#[test]
fn profiles_for_nats_ride_out_an_election() {
    let place = Place::new();
    let nats = "[store]\nbackend = \"nats\"\n[store.nats]\nservers = [\"nats://10.0.0.1:4222\"]\n\
                [failover]\n[http]\nadvertise = \"10.0.0.1:8008\"";
    for (profile, warned) in [("fast", true), ("standard", false), ("wan", false)] {
        let loaded = place.load(&format!("profile = \"{profile}\""), nats).unwrap();
        let elections =
            loaded.warnings.iter().filter(|warning| warning.what.contains("elect a leader"));
        assert_eq!(elections.count() == 1, warned, "{profile}");
    }
}

#[test]
fn promises_over_nats_that_nobody_signs_are_a_doubt() {
    let place = Place::new();
    let store = "[store]\nbackend = \"nats\"\n[store.nats]\nservers = [\"nats://192.0.2.1:4222\"]\n\
                 [failover]\n[http]\nadvertise = \"192.0.2.1:8008\"\n";
    let secret = place.write("secret", "a secret of enough characters");
    let signed = format!("[peers]\nsecret_file = {secret:?}");
    for (peers, warned) in
        [("", true), ("[peers]\npromises = false", false), (signed.as_str(), false)]
    {
        let loaded = place.load("", &format!("{store}{peers}")).unwrap();
        let forged = loaded.warnings.iter().filter(|warning| warning.what.contains("forge"));
        assert_eq!(forged.count() == 1, warned, "{peers}");
    }
}

#[test]
fn impossible_timing_is_refused_with_the_numbers() {
    let place = Place::new();
    let found = place.problems("profile = \"fast\"", "[timing]\nlease_duration = \"900ms\"");
    assert_says(
        &found,
        &[
            "timing rule",
            "heartbeat_interval 250ms + failure_threshold 2 × heartbeat_timeout 150ms + fence_timeout 300ms \
             + safety_margin 100ms = 950ms > lease_duration 900ms × (1 − clock_drift 0.01) = 891ms",
            "raise lease_duration to 960ms",
        ],
    );
    assert!(place.load("profile = \"fast\"", "[timing]\nlease_duration = \"960ms\"").is_ok());
}

#[test]
fn a_margin_of_zero_and_other_zeros_are_refused() {
    let place = Place::new();
    let times = [
        "safety_margin",
        "heartbeat_interval",
        "heartbeat_timeout",
        "fence_timeout",
        "lease_duration",
        "takeover_step",
        "cool_down",
        "hand_over_timeout",
        "stop_timeout",
        "start_timeout",
        "promote_timeout",
        "rejoin_timeout",
        "shutdown_timeout",
    ];
    for name in times {
        let found = place.problems("", &format!("[timing]\n{name} = \"0s\""));
        assert_says(&found, &[&format!("timing.{name} is 0s"), "it has to be"]);
    }
    assert_says(&place.problems("", "[timing]\nclock_drift = 0.0"), &["timing.clock_drift is 0"]);
    assert_says(
        &place.problems("", "[timing]\nfailure_threshold = 0"),
        &["timing.failure_threshold"],
    );
}

#[test]
fn the_other_relations_are_refused_with_the_numbers() {
    let place = Place::new();
    let found = place.problems(
        "profile = \"fast\"",
        "[timing]\nshutdown_timeout = \"3s\"\nhand_over_timeout = \"100ms\"\ncool_down = \"100ms\"",
    );
    assert_says(
        &found,
        &[
            "shutdown_timeout is 3s",
            "hand_over_timeout 100ms + stop_timeout 10s + fence_timeout 300ms",
        ],
    );
    assert_says(
        &found,
        &[
            "hand_over_timeout is 100ms",
            "heartbeat_interval 250ms + heartbeat_timeout 150ms = 400ms",
        ],
    );
    assert_says(&found, &["cool_down is 100ms"]);

    let mut sources = place.sources("", "");
    let long = format!("/{}", "d".repeat(100));
    for (key, value) in [
        ("database.local.hung_after", "8s"),
        ("database.local.socket_dir", long.as_str()),
        ("database.local.host", " "),
        ("database.local.wal_keep", "1000KiB"),
        ("http.advertise", "nowhere"),
        ("log.level", "a=b=c"),
    ] {
        sources.flags.push((key.to_owned(), value.to_owned()));
    }
    let found = super::problems(load(&sources));
    assert_says(&found, &["hung_after is 8s", "write_probe_interval 5s"]);
    assert_says(&found, &["socket path of 115 bytes", "107"]);
    assert_says(&found, &["database.local.host is \" \""]);
    assert_says(&found, &["wal_keep", "whole MiB"]);
    assert_says(&found, &["http.advertise is \"nowhere\""]);
    assert_says(&found, &["log.level is \"a=b=c\""]);
}

#[test]
fn the_state_does_not_lie_in_the_data() {
    let place = Place::new();
    let inside = format!("state_dir = \"{}\"", place.path("data/state").display());
    assert_says(&place.problems(&inside, ""), &["state_dir", "lies in database.local.data_dir"]);
}

#[test]
fn a_recording_is_long_enough_and_not_in_the_data() {
    let place = Place::new();
    let found = place.problems("", "[record]\nmax_size = \"64KiB\"");
    assert_says(&found, &["record.max_size is 65536 bytes; it has to be at least 1MiB, or 0B"]);
    let inside = format!("[record]\nfile = \"{}\"", place.path("data/recording").display());
    assert_says(&place.problems("", &inside), &["record.file", "lies in database.local.data_dir"]);
    let file = place.load("", "").unwrap().config.recording.unwrap().file;
    assert!(file.ends_with("recording.jsonl"), "{}", file.display());
    assert_eq!(place.load("", "[record]\nmax_size = \"0B\"").unwrap().config.recording, None);
}

#[test]
fn a_lease_is_whole_milliseconds_as_its_record_is() {
    let place = Place::new();
    let found = place.problems("", "[timing]\nlease_duration = \"15s 500us\"");
    assert_says(&found, &["lease_duration is 15s 500µs; it has to be whole milliseconds"]);
}

#[test]
fn nats_settings_are_checked() {
    let place = Place::new();
    assert_says(
        &place.problems("", "[store]\nbackend = \"nats\""),
        &["store.nats.servers is missing"],
    );
    let found = place.problems(
        "",
        "[store]\nbackend = \"nats\"\n[store.nats]\nreplicas = 2\nuser = \"x\"\nconnect_timeout = \"0s\"\n\
         servers = [\"http://a:1\", \"nats://u:secret@b:4222\", \"nats://c\"]",
    );
    assert_says(&found, &["store.nats.replicas is 2, expected 1, 3 or 5"]);
    assert_says(&found, &["store.nats.user is set without"]);
    assert_says(&found, &["\"http://a:1\""]);
    assert_says(&found, &["credentials", "b:4222"]);
    assert_says(&found, &["\"nats://c\""]);
    assert_says(&found, &["connect_timeout is 0s"]);
    assert!(!found.iter().any(|text| text.contains("secret@")), "{found:#?}");
}

#[test]
fn a_promotion_has_time_left_after_its_hook() {
    let place = Place::new();
    let hook =
        |more: &str| format!("[hooks]\nbefore_promote = [\"/bin/sh\", \"-c\", \"true\"]\n{more}");
    let config = place.load("", &hook("before_promote_required = true")).unwrap().config;
    let waited = config.policy.before_promote.unwrap();
    assert_eq!((waited.limit, waited.required), (Duration::from_secs(5), true));
    let found = place.problems("profile = \"fast\"", &hook("timeout = \"10s\""));
    assert_says(&found, &["hooks.timeout is 10s", "timing.promote_timeout 10s"]);
    assert_says(&place.problems("", &hook("timeout = \"1ms\"")), &["hooks.timeout is 1ms", "10ms"]);
    let found = place.problems("", "[hooks]\nbefore_promote_required = true");
    assert_says(&found, &["hooks.before_promote_required", "without hooks.before_promote"]);
    // What only tells has nothing to do with the promotion's time.
    let told =
        place.load("profile = \"fast\"", "[hooks]\non_fence = [\"/bin/sh\"]\ntimeout = \"1m\"");
    assert_eq!(told.unwrap().config.policy.before_promote, None);
}

#[test]
fn doubts_are_warnings() {
    let place = Place::new();
    let loaded = place.load("", "[watchdog]\nmode = \"off\"\n[failover]\npriority = 0").unwrap();
    let warned: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_says(&warned, &["watchdog.mode is off"]);
    assert_says(&warned, &["failover.priority is 0"]);
    assert_says(&warned, &["has no program postgres"]);
}

fn milliseconds(longest: u64) -> impl Strategy<Value = Duration> {
    (0..longest).prop_map(Duration::from_millis)
}

prop_compose! {
    fn any_policy()(
        heartbeat_interval in milliseconds(3_000),
        heartbeat_timeout in milliseconds(1_500),
        failure_threshold in 0..8_u32,
        fence_timeout in milliseconds(4_000),
        safety_margin in milliseconds(2_000),
        lease_duration in milliseconds(30_000),
        clock_drift_ppm in 0..120_000_u32,
    ) -> Policy {
        Policy {
            heartbeat_interval, heartbeat_timeout, failure_threshold, fence_timeout, safety_margin,
            lease_duration, clock_drift_ppm, ..config("standard").policy
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is accepted leaves a primary fenced, and a margin, before anybody may take over.
    #[test]
    fn an_accepted_policy_keeps_the_timing_rule(policy in any_policy()) {
        use harmony_agent::core::time::Instant;
        if policy_problems(&policy).is_empty() {
            let sent = Instant::from_millis(1_000_000);
            let until = policy.lease_until(sent, policy.lease_duration);
            let failed = sent + policy.heartbeat_interval + policy.heartbeat_timeout * policy.failure_threshold;
            prop_assert!(failed <= policy.fence_at(until));
            prop_assert!(policy.fence_at(until) < policy.guard_at(until));
            prop_assert!(policy.guard_at(until) + policy.kill_allowance() < until);
            prop_assert!(until < sent + policy.failover_timeout(policy.lease_duration));
            prop_assert!(sent < policy.fence_at(until));
        }
    }

    /// The lease that the error advises is accepted, and the shortest that is.
    #[test]
    fn the_advised_lease_is_right(policy in any_policy()) {
        let advised = TimingRule::of(&policy).shortest_lease();
        let with = |lease_duration| TimingRule::of(&Policy { lease_duration, ..policy.clone() });
        prop_assert!(with(advised + Duration::from_millis(1)).holds());
        let shorter = advised.saturating_sub(Duration::from_millis(1));
        prop_assert!(advised.is_zero() || !with(shorter).holds());
    }
}
