//! Texts of PostgreSQL and its programs. `c`: `pg_controldata`, with errors after a line `%errors`. `h`: a
//! timeline history. `n`: a connection string, `N`: a host to be written into one. `l`: a position, `s`: a
//! system identifier, `m`: a name. `v`: a version. `p`: a process, `w`: a standby or the name of a WAL file. `r`: a
//! value of `harmony.conf`.

use std::collections::BTreeMap;

use harmony_agent::core::ids::{Lsn, MemberId, SystemId};
use harmony_agent::database::local::decoders;

use super::{assert_says, split};

pub(crate) fn body(data: &[u8]) {
    let Some((kind, rest)) = split(data) else { return };
    let text = &*String::from_utf8_lossy(rest);
    match kind {
        b'c' => control(text),
        b'h' => {
            let history = decoders::history(text);
            assert!(history.len() <= text.lines().count());
        }
        b'n' => {
            if let Some((host, _)) = decoders::conninfo(text) {
                assert!(!host.is_empty() && host.len() <= text.len());
            }
        }
        b'N' => {
            let written = decoders::written_conninfo(text, 5433);
            let expected = (!text.is_empty()).then(|| (text.to_owned(), 5433));
            assert_eq!(decoders::conninfo(&written), expected, "{written}");
        }
        b'l' => same::<Lsn>(text, 17),
        b's' => same::<SystemId>(text, 20),
        b'm' => {
            if let Ok(name) = text.parse::<MemberId>() {
                assert_eq!(name.as_str(), text);
            }
            same::<MemberId>(text, 48);
        }
        b'v' => assert!(decoders::major(text).is_none_or(|major| major >= 12)),
        b'p' => {
            let _seen = decoders::stat(text);
            let role = decoders::role(text);
            assert!(role.is_none_or(|role| ["startup", "walreceiver"].contains(&role)));
            assert!(decoders::last_lines(text, 3).len() <= text.len() + 4);
        }
        b'w' => {
            let _read = decoders::timeline(text);
            if let Some((name, lsn)) = decoders::standby(text) {
                assert_eq!(decoders::standby(&format!("{name} {lsn}")), Some((name, lsn)));
            }
        }
        b'r' => rendered(text),
        _ => {}
    }
}

/// What is read is shown in its own form, which is short, and read the same.
fn same<T>(text: &str, longest: usize)
where
    T: std::str::FromStr<Err: std::fmt::Display> + std::fmt::Display + PartialEq + std::fmt::Debug,
{
    match text.parse::<T>() {
        Err(error) => assert_says(&error.to_string()),
        Ok(value) => {
            let shown = value.to_string();
            assert!(shown.len() <= longest, "{shown}");
            assert!(shown.parse::<T>().is_ok_and(|again| again == value), "{shown}");
        }
    }
}

fn control(text: &str) {
    let (text, errors) = text.split_once("\n%errors\n").unwrap_or((text, ""));
    match decoders::control(text, errors) {
        Err(error) => assert!(!error.trim().is_empty()),
        Ok((_, _, _, in_recovery, clean)) => {
            let state = text.lines().find_map(|line| line.strip_prefix("Database cluster state:"));
            let state = state.unwrap_or_default().trim();
            // Clean means that it says so: anything else would let a member start with less than it wrote.
            assert_eq!(clean, state == "shut down" || state == "shut down in recovery");
            let standby = ["shut down in recovery", "in archive recovery"].contains(&state);
            assert_eq!(in_recovery, standby);
            assert!(!errors.to_ascii_lowercase().contains("warning:"));
        }
    }
}

/// One setting stays one line with one value.
fn rendered(value: &str) {
    if value.contains(['\n', '\r', '\0']) {
        // Refused when the agent starts (`conf::check`).
        return;
    }
    let settings = BTreeMap::from([("work_mem".to_owned(), value.to_owned())]);
    let text = decoders::rendered(&settings);
    assert_eq!(text.matches('\n').count(), 2, "{text}");
    let quoted = text
        .trim_end_matches('\n')
        .split('\n')
        .nth(1)
        .and_then(|line| line.strip_prefix("work_mem = '"));
    let mut chars = quoted.unwrap().chars();
    let mut read = String::new();
    loop {
        match chars.next() {
            Some('\\') => read.extend(chars.next()),
            Some('\'') => match chars.next() {
                Some('\'') => read.push('\''),
                rest => {
                    assert_eq!(rest, None);
                    break;
                }
            },
            Some(c) => read.push(c),
            None => panic!("not closed: {text}"),
        }
    }
    assert_eq!(read, value);
}
