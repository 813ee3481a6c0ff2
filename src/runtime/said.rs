//! What was last logged, so that a trouble that stands is said once and not at every message.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::clock;
use crate::core::time::Instant;

/// Shortest time between two lines about one matter: what is said may be a stranger's choice.
const SHORTEST_GAP: Duration = Duration::from_secs(1);

/// More matters than a cluster has members: somebody makes up names.
const MOST: usize = 64;

/// The troubles by what they are about.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<BTreeMap<String, Last>>);

#[derive(Debug)]
struct Last {
    at: Instant,
    /// Nothing, when all has been well since.
    trouble: Option<String>,
}

impl Said {
    /// Takes in how it stands with `about`; whether `trouble` is to be logged.
    pub(crate) fn is_news(&self, about: &str, trouble: Option<&str>) -> bool {
        self.is_news_at(clock::now(), about, trouble)
    }

    fn is_news_at(&self, now: Instant, about: &str, trouble: Option<&str>) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = said.get_mut(about);
        let Some(trouble) = trouble else {
            if let Some(last) = last {
                last.trouble = None;
            }
            return false;
        };
        if last.is_some_and(|last| {
            last.trouble.as_deref() == Some(trouble) || now.since(last.at) < SHORTEST_GAP
        }) {
            return false;
        }
        if said.len() >= MOST {
            said.clear();
        }
        said.insert(about.to_owned(), Last { at: now, trouble: Some(trouble.to_owned()) });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_said_once_and_a_change_at_a_bounded_rate() {
        let said = Said::default();
        let start = clock::now();
        let news = |seconds: u64, about: &str, trouble: Option<&str>| {
            said.is_news_at(start + Duration::from_secs(seconds), about, trouble)
        };
        assert!(!news(0, "a", None));
        assert!(news(0, "a", Some("down")));
        assert!(news(0, "b", Some("down")), "of another one");
        assert!(!news(5, "a", Some("down")), "it stands");
        assert!(news(5, "a", Some("refuses")));
        assert!(!news(5, "a", Some("down")), "too soon");
        assert!(news(6, "a", Some("down")), "a change is said when it lasts");
        assert!(!news(7, "a", None));
        assert!(news(8, "a", Some("down")), "again after all was well");
        for name in 0..10 * MOST {
            news(9, &name.to_string(), Some("down"));
        }
        assert!(said.0.lock().unwrap().len() <= MOST);
    }
}
