//! Help, version, completions, `config …`, and how the program ends.

use super::{output, program, text};

#[test]
fn wrong_command_lines_end_with_64() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["status", "-o", "xml"],
        &["--set", "no-equals-sign", "config", "show"],
        &["status", "--watch", "0"],
        &["status", "--url", "https://secure.example"],
        &["completions", "cmd.exe"],
        &["member"],
        &["member", "remove"],
        &["member", "drain", "Not A Name"],
        &["member", "list", "--json", "-o", "yaml"],
    ] {
        let ended = output(arguments);
        assert_eq!(ended.status.code(), Some(64), "{arguments:?}: {}", text(&ended.stderr));
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_answers() {
    let help = output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for command in
        ["run", "status", "demo", "config", "version", "completions", "--config", "HARMONY_CONFIG"]
    {
        assert!(text(&help.stdout).contains(command), "{command}");
    }
    assert!(!text(&help.stdout).contains("watchdog"), "hidden");
    for arguments in [["version"], ["--version"]] {
        let version = output(&arguments);
        assert_eq!(version.status.code(), Some(0));
        assert_eq!(text(&version.stdout), format!("harmony-agent {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let completions = output(&["completions", shell]);
        assert_eq!(completions.status.code(), Some(0));
        assert!(text(&completions.stdout).contains("budget"), "{shell}");
    }
}

#[test]
fn a_missing_file_ends_with_66_and_a_wrong_one_with_78() {
    let missing = output(&["--config", "/nonexistent.toml", "config", "check"]);
    assert_eq!(missing.status.code(), Some(66));
    assert!(text(&missing.stderr).contains("/nonexistent.toml"));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("harmony.toml");
    std::fs::write(&file, "cluster_id = \"\"\n[timing]\nlease_duration = 1\n").unwrap();
    let wrong = program(&["config", "check"]).env("HARMONY_CONFIG", &file).output().unwrap();
    assert_eq!(wrong.status.code(), Some(78));
    let said = text(&wrong.stderr);
    for part in ["error: ", "cluster_id is \"\"", "member is missing", "lease_duration is 1", ":3"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let run = program(&["run"]).env("HARMONY_CONFIG", &file).output().unwrap();
    assert_eq!(run.status.code(), Some(78));
}

/// Flags that make a configuration out of nothing.
const COMPLETE: &[&str] = &[
    "--cluster-id",
    "main",
    "--member",
    "a",
    "--data-dir",
    "/tmp/nowhere/data",
    "--profile",
    "fast",
    "--set",
    "database.local.bin_dir=/usr/bin",
];

fn with(rest: &[&str]) -> Vec<&'static str> {
    let rest = rest.iter().map(|argument| String::from(*argument).leak() as &'static str);
    COMPLETE.iter().copied().chain(rest).collect()
}

#[test]
fn check_says_what_the_configuration_amounts_to() {
    let checked = output(&with(&["config", "check"]));
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    let said = text(&checked.stdout);
    assert!(said.starts_with("ok\n"), "{said}");
    for part in [
        "timing rule",
        "= 950ms ≤ lease_duration 1s",
        "= 990ms; 40ms to spare",
        "kills at 815ms",
        "after 1s 100ms",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let impossible = output(&with(&["config", "check", "--set", "timing.lease_duration=500ms"]));
    assert_eq!(impossible.status.code(), Some(78));
    assert!(text(&impossible.stderr).contains("= 950ms > lease_duration 500ms"));
}

#[test]
fn the_budget_follows_from_the_configuration() {
    let table = output(&with(&["config", "budget"]));
    assert_eq!(table.status.code(), Some(0));
    for part in
        ["node death", "postgres death", "agent death", "planned stop", "store away", "assumed:"]
    {
        assert!(text(&table.stdout).contains(part), "{part}");
    }
    let budget = |lease: &str| {
        let lease = format!("timing.lease_duration={lease}");
        let json = output(&with(&["config", "budget", "-o", "json", "--set", &lease]));
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        json["rows"][0].clone()
    };
    let (short, long) = (budget("1s"), budget("2s"));
    assert_eq!(short["fault"], "node_death");
    // 1000 + 100 + (250 + 150) + 150 + 100
    assert_eq!(short["worst_ms"], 1750);
    // 1000 + 100 − 125 + 5 + 5 + 30
    assert_eq!(short["typical_ms"], 1015);
    assert_eq!(long["worst_ms"], 2750);
}

#[test]
fn show_says_where_every_value_came_from() {
    let shown = program(&with(&["config", "show", "-o", "json"]))
        .env("HARMONY_LOG__LEVEL", "warn")
        .output()
        .unwrap();
    let shown: Vec<serde_json::Value> = serde_json::from_slice(&shown.stdout).unwrap();
    let of = |key: &str| shown.iter().find(|entry| entry["key"] == key).unwrap().clone();
    assert_eq!(of("log.level")["origin"], "environment variable HARMONY_LOG__LEVEL");
    assert_eq!(of("member")["origin"], "command line");
    assert_eq!(of("timing.lease_duration")["origin"], "profile");
    assert_eq!(of("failover.maximum_lag_on_failover")["value"], "\"16MiB\"");
}

#[test]
fn the_template_is_printed_whole() {
    let printed = output(&["config", "template"]);
    assert_eq!(text(&printed.stdout).trim_end(), harmony_agent::config::template().trim_end());
}
