//! The configuration: what is accepted, what is refused, and what the refusal says.

mod cnpg;
mod files;
mod relations;
mod sources;

use std::path::{Path, PathBuf};

use harmony_agent::config::{LoadError, Loaded, Sources, load};

/// A directory with a configuration file.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Sources of a configuration with what is required, `top` before its sections and `rest` after.
    fn sources(&self, top: &str, rest: &str) -> Sources {
        let file = self.write("harmony.toml", &complete(self.directory.path(), top, rest));
        Sources { file: Some(file), ..Sources::default() }
    }

    fn load(&self, top: &str, rest: &str) -> Result<Loaded, LoadError> {
        load(&self.sources(top, rest))
    }

    fn problems(&self, top: &str, rest: &str) -> Vec<String> {
        problems(self.load(top, rest))
    }
}

/// A configuration without problems on any machine.
fn complete(directory: &Path, top: &str, rest: &str) -> String {
    let directory = directory.display();
    format!(
        "cluster_id = \"main\"\nmember = \"a\"\n{top}\n[database.local]\ndata_dir = \"{directory}/data\"\n\
         bin_dir = \"{directory}\"\n[store.sqlite]\npath = \"{directory}/store.sqlite\"\n{rest}\n"
    )
}

/// What was wrong; panics when nothing was.
fn problems(loaded: Result<Loaded, LoadError>) -> Vec<String> {
    match loaded.map(|loaded| loaded.config) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(LoadError::Invalid { problems, .. }) => {
            problems.iter().map(ToString::to_string).collect()
        }
        Err(error @ LoadError::File { .. }) => vec![error.to_string()],
    }
}

/// Asserts that one text has all of `parts`.
fn assert_says(texts: &[String], parts: &[&str]) {
    let said = texts.iter().any(|text| parts.iter().all(|part| text.contains(part)));
    assert!(said, "nothing says {parts:?} in {texts:#?}");
}
