//! A configuration: TOML, then a line `%env` and lines `NAME=VALUE`, then a line `%flags` and lines
//! `key=value`.

use std::fmt::Write;

use harmony_agent::config::{LoadError, Loaded, Sources, decode, policy_problems};

use super::assert_says;

pub(crate) fn body(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.len() > 32 * 1024 {
        return;
    }
    let (text, flags) = text.split_once("\n%flags\n").unwrap_or((text, ""));
    let (file, environment) = text.split_once("\n%env\n").unwrap_or((text, ""));
    let pairs = |text: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let sources = Sources { file: None, environment: pairs(environment), flags: pairs(flags) };
    match decode(file, &sources) {
        Ok(loaded) => accepted(&loaded),
        Err(LoadError::File { .. }) => unreachable!("no file is read"),
        Err(LoadError::Invalid { problems, .. }) => {
            assert!(!problems.is_empty(), "refused without a problem");
            for problem in &problems {
                assert!(!problem.to_string().trim().is_empty());
            }
            if text.len() <= 4096 {
                for problem in &problems {
                    assert_says(&problem.to_string());
                }
            }
        }
    }
}

/// What is accepted keeps the timing rule, and says the same when it is written down and read again.
fn accepted(loaded: &Loaded) {
    assert!(policy_problems(&loaded.config.policy).is_empty());
    let mut file = String::new();
    for effective in &loaded.effective {
        let (section, name) = effective.key.rsplit_once('.').unwrap_or(("", effective.key));
        let value = &effective.value;
        if section.is_empty() {
            file.insert_str(0, &format!("{name} = {value}\n"));
        } else {
            let _ = writeln!(file, "{section}.{name} = {value}");
        }
    }
    match decode(&file, &Sources::default()) {
        Ok(again) => assert_eq!(format!("{:?}", again.config), format!("{:?}", loaded.config)),
        Err(error) => panic!("not accepted when written down: {error:?}\n{file}"),
    }
}
