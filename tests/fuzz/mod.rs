//! The committed corpus of every fuzz target, on a stable compiler: the very bodies that libFuzzer runs
//! (`just fuzz`, `docs/proof.md`).

mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What a target does with an input.
type Body = fn(&[u8]);

/// Every target with its body.
const TARGETS: [(&str, Body); 11] = [
    ("cnpg", bodies::cnpg::body),
    ("config", bodies::config::body),
    ("nats", bodies::nats::body),
    ("peers", bodies::peers::body),
    ("postgres", bodies::postgres::body),
    ("processes", bodies::processes::body),
    ("recording", bodies::recording::body),
    ("records", bodies::records::body),
    ("state", bodies::state::body),
    ("status", bodies::status::body),
    ("watchdog", bodies::watchdog::body),
];

/// Fewest inputs that a target's corpus has to have.
const FEWEST: usize = 3;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| {
        panic!("{}: {error}: every target needs a corpus", directory.display())
    });
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn the_corpus_is_taken_without_a_crash() {
    let (mut inputs, mut crashed) = (0, Vec::new());
    for (target, body) in TARGETS {
        for path in files(&fuzz().join("corpus").join(target)) {
            let input = fs::read(&path).unwrap();
            inputs += 1;
            if catch_unwind(AssertUnwindSafe(|| body(&input))).is_err() {
                crashed.push(path);
            }
        }
    }
    assert!(crashed.is_empty(), "crashed: {crashed:#?}");
    println!("fuzz: {} targets, {inputs} inputs, 0 crashes", TARGETS.len());
}

#[test]
fn every_target_has_a_body_a_corpus_and_a_line_in_the_documentation() {
    let manifest: toml::Table =
        fs::read_to_string(fuzz().join("Cargo.toml")).unwrap().parse().unwrap();
    let named: BTreeSet<&str> = manifest["bin"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target["name"].as_str().unwrap())
        .collect();
    let ours: BTreeSet<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
    assert_eq!(named, ours, "tests/fuzz/Cargo.toml and the list here");
    let proof = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/proof.md");
    let proof = fs::read_to_string(proof).unwrap();
    for target in ours {
        let text = fs::read_to_string(fuzz().join(format!("targets/{target}.rs"))).unwrap();
        assert!(text.contains(&format!("bodies::{target}::body(data)")), "{target}: {text}");
        let count = files(&fuzz().join("corpus").join(target)).len();
        assert!(count >= FEWEST, "{target} has a corpus of {count}");
        assert!(proof.contains(&format!("| `{target}` |")), "{target} is not in docs/proof.md");
    }
}

/// A corpus is there to be read and to be quick.
#[test]
fn the_corpus_is_small() {
    let directories = files(&fuzz().join("corpus"));
    let all: Vec<PathBuf> = directories.iter().flat_map(|directory| files(directory)).collect();
    let bytes: u64 = all.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(all.len() <= 400 && bytes <= 1 << 20, "{} files, {bytes} bytes", all.len());
    assert_eq!(directories.len(), TARGETS.len(), "{directories:?}");
}
