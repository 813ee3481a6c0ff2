//! The documentation is about what is there: every alarm has a runbook, every runbook is found from the index, and
//! what a page links to exists.

use std::collections::BTreeSet;
use std::path::Path;

use harmony_agent::core::reason::Alarm;

use super::{files, project, read, text};

#[test]
fn every_alarm_has_a_runbook() {
    let index = text("docs/runbooks/README.md");
    for alarm in Alarm::ALL {
        let row = index.lines().find(|line| line.starts_with(&format!("| `{alarm}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/runbooks/README.md has no row for {alarm}"));
        let (_, link) = row.rsplit_once("](").unwrap();
        let file = link.split(')').next().unwrap();
        assert!(project("docs/runbooks").join(file).is_file(), "{alarm}: {file}");
    }
    let named: BTreeSet<_> = Alarm::ALL.iter().map(|alarm| alarm.name()).collect();
    for line in index.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = line.split('`').next().unwrap();
        assert!(named.contains(name), "{name} is in the table of alarms and is none");
    }
}

#[test]
fn every_runbook_is_in_the_index_and_has_its_parts() {
    let index = text("docs/runbooks/README.md");
    for path in files(&project("docs/runbooks"), &|path| !path.ends_with("README.md")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("({name})")), "{name} is not in the index");
        if name.starts_with("cnpg-") {
            let page = read(&path);
            let mut last = 0;
            for part in
                ["**Symptom.**", "**What the agent does.**", "**Check", "**Do.**", "**Do not**"]
            {
                let at = page.find(part).unwrap_or_else(|| panic!("{name} has no {part}"));
                assert!(at >= last, "{name}: {part} is out of order");
                last = at;
            }
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let mut seen = 0;
    let pages = [
        files(&project("docs"), &is_page),
        files(&project("adr"), &is_page),
        vec![project("README.md")],
    ];
    for path in pages.concat() {
        for link in read(&path).split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { path.clone() } else { path.with_file_name("").join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let known = anchors(&target);
                assert!(known.contains(anchor), "{}: {link}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} links");
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "md")
}

/// The anchors of a page's headings, as they are made of their words.
fn anchors(path: &Path) -> BTreeSet<String> {
    let page = read(path);
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}
