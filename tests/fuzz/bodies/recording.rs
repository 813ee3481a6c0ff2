//! A recording, replayed.

use harmony_agent::recording::replay::Trouble;
use harmony_agent::recording::{Replay, Taken};

use super::assert_says;

pub(crate) fn body(data: &[u8]) {
    let mut replay = Replay::new();
    let mut lines = 0;
    let read = replay.file(data, |taken| {
        lines += 1;
        if let Taken::Differs(difference) = taken {
            assert!(!difference.to_string().is_empty());
        }
    });
    assert!(replay.steps() <= lines);
    if let Err(error) = read {
        assert!(!matches!(error.what, Trouble::Broke(_)), "{error}");
        assert!(
            data.len() > 4096 || {
                assert_says(&error.to_string());
                true
            }
        );
    }
}
