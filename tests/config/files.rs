//! Secrets, the committed files, and the template.

use std::os::unix::fs::PermissionsExt;

use harmony_agent::config::{Default, KEYS, Sources, load, template};

use super::{Place, assert_says};

fn repository(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn secrets_are_checked_and_never_printed() {
    let place = Place::new();
    let missing = place.path("missing");
    let empty = place.write("empty", "");
    let rest = format!(
        "[store.nats]\npassword_file = \"{}\"\ntoken_file = \"{}\"\nnkey_file = \"{}\"",
        missing.display(),
        empty.display(),
        place.directory.path().display(),
    );
    let found = place.problems("", &rest);
    assert_says(
        &found,
        &["store.nats.password_file", &missing.display().to_string(), "cannot be read"],
    );
    assert_says(&found, &["store.nats.token_file", "is empty"]);
    assert_says(&found, &["store.nats.nkey_file", "cannot be read"]);
}

#[test]
fn a_secret_everybody_can_read_is_a_warning() {
    let place = Place::new();
    let secret = place.write("secret", "hunter2");
    let rest = format!("[database.local]\nreplication_password_file = \"{}\"", secret.display());
    let rest = rest.replace("[database.local]\n", "");
    let mut sources = place.sources("", "");
    sources.flags.push((
        "database.local.replication_password_file".to_owned(),
        rest.split('"').nth(1).unwrap().to_owned(),
    ));
    for (mode, warned) in [(0o644, true), (0o640, false)] {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = load(&sources).unwrap();
        let about: Vec<_> = loaded
            .warnings
            .iter()
            .map(ToString::to_string)
            .filter(|text| text.contains("everybody can read"))
            .collect();
        assert_eq!(about.len() == 1, warned, "{mode:o}: {about:?}");
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }
}

/// `cargo run -- config template > config/harmony-agent.toml` mends a failure here.
#[test]
fn the_committed_template_is_the_template() {
    assert_eq!(repository("config/harmony-agent.toml").trim_end(), template().trim_end());
}

#[test]
fn the_template_has_every_key_and_its_defaults_are_true() {
    let place = Place::new();
    let directory = place.directory.path().display().to_string();
    let filled = template()
        .replace("cluster_id = \"\"", "cluster_id = \"main\"")
        .replace("\nmember = \"\"", "\nmember = \"a\"")
        .replace("data_dir = \"\"", &format!("data_dir = \"{directory}/data\""))
        .replace("# bin_dir = …", &format!("bin_dir = \"{directory}\""));
    let uncommented: String = filled
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(code) if is_setting(code) => format!("{code}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    let plain = load_text(&place, &filled);
    let spelt_out = load_text(&place, &uncommented);
    assert_eq!(format!("{:?}", plain.config), format!("{:?}", spelt_out.config));
    for key in KEYS {
        let said = spelt_out.effective.iter().find(|entry| entry.key == key.path);
        match key.default {
            Default::Is(_) | Default::ByProfile(_) | Default::Required => {
                let origin =
                    &said.unwrap_or_else(|| panic!("{} is not in the template", key.path)).origin;
                assert!(origin.contains("template.toml"), "{}: {origin}", key.path);
            }
            Default::Absent | Default::Found(_) => {
                assert!(template().contains(&format!("\n# {} = …", key.name())), "{}", key.path);
            }
        }
    }
}

fn is_setting(code: &str) -> bool {
    let name = code.split_once(" = ").map(|(name, value)| (name, !value.starts_with('…')));
    matches!(name, Some((name, true)) if KEYS.iter().any(|key| key.name() == name))
}

fn load_text(place: &Place, text: &str) -> harmony_agent::config::Loaded {
    let file = place.write("template.toml", text);
    let loaded = load(&Sources { file: Some(file), ..Sources::default() });
    loaded.unwrap_or_else(|error| panic!("{:#?}", super::problems(Err(error))))
}

#[test]
fn the_examples_are_accepted() {
    for name in ["config/fast.toml", "config/wan.toml"] {
        let place = Place::new();
        let file = place.write("example.toml", &repository(name));
        let mut sources = Sources { file: Some(file), ..Sources::default() };
        let secret = place.write("secret", "x").display().to_string();
        sources.flags = vec![("database.local.bin_dir".to_owned(), "/usr/bin".to_owned())];
        if name.contains("wan") {
            sources.flags.push(("store.nats.credentials_file".to_owned(), secret.clone()));
            sources.flags.push(("store.nats.tls_ca_file".to_owned(), secret.clone()));
            sources.flags.push(("database.local.replication_password_file".to_owned(), secret));
        }
        load(&sources).unwrap_or_else(|error| panic!("{name}: {:#?}", super::problems(Err(error))));
    }
}

#[test]
fn programs_of_hooks_are_looked_at() {
    let place = Place::new();
    let plain = place.write("plain", "no program");
    let found = place.problems(
        "",
        &format!(
            "[hooks]\non_fence = [\"/nonexistent/program\"]\non_primary = [{:?}]\non_replica = [{plain:?}]",
            place.directory.path()
        ),
    );
    assert_says(&found, &["hooks.on_fence", "/nonexistent/program", "No such file"]);
    assert_says(&found, &["hooks.on_primary", "is no file"]);
    assert_says(&found, &["hooks.on_replica", "cannot be executed", "chmod +x"]);
    let found =
        place.problems("", "[hooks]\non_fence = [\"true\"]\non_demote = []\non_primary = 7");
    assert_says(&found, &["hooks.on_fence", "absolute path"]);
    assert_says(&found, &["hooks.on_demote", "is empty"]);
    assert_says(&found, &["hooks.on_primary", "absolute path of a program"]);
}
