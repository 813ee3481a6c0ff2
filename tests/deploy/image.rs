//! The image's recipe. No image is built here: there is nothing to run it with. What can be read off it is.

use std::path::Path;

use super::text;

/// Its instructions: lines that are continued made one, comments left out.
fn instructions() -> Vec<Vec<String>> {
    let recipe = text("deploy/image/Containerfile").replace("\\\n", " ");
    let lines = recipe.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn nothing_is_fetched_that_nobody_vouches_for() {
    let instructions = instructions();
    let mut stages = Vec::new();
    for line in &instructions {
        match line[0].as_str() {
            // By a name that the builder has to give, with a digest.
            "FROM" => {
                assert!(line[1].starts_with("${") && line[1].ends_with("_IMAGE}"), "{line:?}");
                stages.push(line.get(3).cloned());
            }
            "ARG" if line[1].contains("_IMAGE") => assert!(!line[1].contains('='), "{line:?}"),
            "COPY" => {
                for from in line[1..line.len() - 1].iter().filter(|word| !word.starts_with("--")) {
                    assert!(!from.contains("://"), "{line:?}");
                }
            }
            "RUN" => {
                let what = line[1..].join(" ");
                assert!(what.contains("\"cargo\"") && what.contains("\"--locked\""), "{what}");
                // An exec form: no shell.
                assert!(what.starts_with('['), "{what}");
                assert_eq!(stages.len(), 1, "nothing runs in the stage that is shipped");
            }
            "ADD" | "ONBUILD" | "SHELL" => panic!("{line:?}"),
            _ => {}
        }
    }
    assert_eq!(stages, [Some("build".to_owned()), None]);
    // The lock has a hash for everything that comes from a registry.
    let lock = text("Cargo.lock");
    for package in lock.split("[[package]]").filter(|package| package.contains("source = ")) {
        assert!(package.contains("checksum = "), "{package}");
        assert!(
            package.contains("registry+https://github.com/rust-lang/crates.io-index"),
            "{package}"
        );
    }
}

#[test]
fn it_runs_as_nobody_in_particular_and_without_a_shell() {
    let instructions = instructions();
    let last = |name: &str| {
        let mut found = instructions.iter().filter(|line| line[0] == name);
        found.next_back().unwrap_or_else(|| panic!("no {name}"))[1..].join(" ")
    };
    assert_eq!(last("USER"), "26:26");
    assert_eq!(last("ENTRYPOINT"), "[\"/usr/bin/harmony-agent\"]");
    assert_eq!(last("CMD"), "[\"run\"]");
    let copied = last("COPY");
    assert!(
        copied.contains("--chown=0:0 --chmod=0755") && copied.ends_with("/usr/bin/harmony-agent"),
        "{copied}"
    );
    let labels = last("LABEL");
    for name in ["title", "description", "licenses", "version", "revision"] {
        assert!(labels.contains(&format!("org.opencontainers.image.{name}=")), "{labels}");
    }
    assert!(labels.contains("licenses=\"Apache-2.0\""), "{labels}");
    let version = format!("VERSION={}", env!("CARGO_PKG_VERSION"));
    assert!(instructions.iter().any(|line| line[0] == "ARG" && line[1] == version), "{version}");
}

/// What is copied is let in, what is let in is copied, and cargo can work with it.
#[test]
fn the_context_has_what_is_built_and_nothing_else() {
    let ignore = text(".dockerignore");
    let mut lines = ignore.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(lines.next(), Some("*"), "everything is left out but what is named");
    let mut let_in: Vec<_> = lines.map(|line| line.strip_prefix('!').unwrap().to_owned()).collect();
    let mut copied: Vec<_> = instructions()
        .into_iter()
        .filter(|line| line[0] == "COPY" && !line.iter().any(|word| word.starts_with("--from")))
        .flat_map(|line| line[1..line.len() - 1].to_vec())
        .collect();
    let_in.sort();
    copied.sort();
    assert_eq!(let_in, copied);
    let context = tempfile::tempdir().unwrap();
    for path in &copied {
        copy(Path::new(env!("CARGO_MANIFEST_DIR")), context.path(), Path::new(path));
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let said = std::process::Command::new("timeout")
        .args([
            "60",
            &cargo,
            "metadata",
            "--locked",
            "--offline",
            "--no-deps",
            "--format-version",
            "1",
        ])
        .current_dir(context.path())
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let targets = said["packages"][0]["targets"].as_array().unwrap();
    let built: Vec<_> = targets
        .iter()
        .filter(|target| ["bin", "lib"].iter().any(|kind| target["kind"][0] == *kind))
        .map(|target| Path::new(target["src_path"].as_str().unwrap()))
        .filter(|source| source.starts_with(context.path().join("src")))
        .collect();
    assert!(built.len() >= 2, "{targets:?}");
    for source in built {
        assert!(source.is_file(), "{} is not in the context", source.display());
    }
}

fn copy(from: &Path, to: &Path, what: &Path) {
    let source = from.join(what);
    if source.is_dir() {
        std::fs::create_dir_all(to.join(what)).unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            copy(from, to, &what.join(entry.unwrap().file_name()));
        }
    } else {
        std::fs::copy(source, to.join(what)).unwrap();
    }
}

#[test]
fn an_image_without_a_digest_is_refused() {
    let digest = format!("r.example.com/a@sha256:{}", "0".repeat(64));
    let build = |rust: &str, postgresql: &str| {
        std::process::Command::new("timeout")
            .args(["60", "bash"])
            .arg(super::project("deploy/image/build"))
            .arg("tag")
            .env("BUILDER", "echo")
            .env("RUST_IMAGE", rust)
            .env("POSTGRESQL_IMAGE", postgresql)
            .output()
            .unwrap()
    };
    let good = build(&digest, &digest);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let said = String::from_utf8_lossy(&good.stdout);
    assert!(said.contains(&format!("POSTGRESQL_IMAGE={digest}")), "{said}");
    for (rust, postgresql) in [("rust:1", &digest[..]), (&digest, "postgresql:17"), (&digest, "")] {
        let refused = build(rust, postgresql);
        assert_eq!(refused.status.code(), Some(64), "{rust} {postgresql}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("digest"));
    }
}
