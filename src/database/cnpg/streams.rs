//! Whether a standby gets anything from the site it follows, or never will.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::promote::asked;
use crate::core::event::Upstream;
use crate::core::ids::{Lsn, TimelineId};
use crate::database::server::look::{Seen, timeline};
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::timeline::history;
use crate::database::server::wait::pause;

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(200);

/// For so long it may stream nothing and replay nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Length of the name of a file of WAL.
const SEGMENT: usize = 24;

/// Waits until it streams. What left the upstream's history, or gets nothing for a while, is no standby
/// of it.
pub(super) async fn until_it_streams(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    cancel: &CancellationToken,
) -> Step<()> {
    let mut best = (Lsn(0), Lsn(0));
    let mut since = Instant::now();
    loop {
        if let Some(seen) = asked(shared).await {
            if seen.streaming || !seen.in_recovery {
                return Ok(());
            }
            if (seen.lsn, seen.replayed) != best {
                best = (seen.lsn, seen.replayed);
                since = Instant::now();
            }
            let wal = shared.server.place.data_dir().join("pg_wal");
            if let Some((next, left)) = blocking(move || Ok(left(&wal, &seen))).await? {
                return Err(Failure::Refused(format!(
                    "its data goes on to {}, but timeline {next} of {} left there at {left}: what it has \
                     more is in no other site; build it anew (docs/cnpg, runbook \"rebuild a site\")",
                    best.1, upstream.member
                )));
            }
        }
        if since.elapsed() >= PATIENCE {
            return Err(Failure::Refused(format!(
                "it gets nothing from {} for {PATIENCE:?}: see its log; when that says that timelines do \
                 not fit, build it anew (docs/cnpg, runbook \"rebuild a site\"), else see to the network",
                upstream.member
            )));
        }
        pause(POLL, cancel).await?;
    }
}

/// The timeline that the upstream told of, and where it left ours, if we replayed further than that. Between its
/// checkpoints a standby that is not streaming does not say which timeline it replays: one that has got something
/// of the upstream's is on it.
fn left(wal: &Path, seen: &Seen) -> Option<(TimelineId, Lsn)> {
    let names = fs::read_dir(wal).ok()?.flatten();
    let names: Vec<String> =
        names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let told = names.iter().filter_map(|name| timeline(name.strip_suffix(".history")?));
    let newest = told.max().map(TimelineId).filter(|newest| *newest > seen.timeline)?;
    let is_of_newest =
        |name: &String| name.len() == SEGMENT && name.get(..8).and_then(timeline) == Some(newest.0);
    if names.iter().any(is_of_newest) {
        return None;
    }
    let text = fs::read_to_string(wal.join(format!("{:08X}.history", newest.0))).ok()?;
    let (_, left) = history(&text).into_iter().find(|(timeline, _)| *timeline == seen.timeline)?;
    (seen.replayed > left).then_some((newest, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(timeline: u32, replayed: u64) -> Seen {
        Seen {
            in_recovery: true,
            system: None,
            timeline: TimelineId(timeline),
            lsn: Lsn(replayed),
            replayed: Lsn(replayed),
            streaming: false,
            conninfo: String::new(),
            upstream: None,
            standbys: Vec::new(),
        }
    }

    #[test]
    fn what_was_replayed_beyond_the_fork_has_left() {
        let wal = tempfile::tempdir().unwrap();
        assert_eq!(left(wal.path(), &seen(1, 9)), None, "nobody told of another timeline");
        fs::write(wal.path().join("00000002.history"), "1\t0/5\tno recovery target\n").unwrap();
        assert_eq!(left(wal.path(), &seen(1, 5)), None);
        assert_eq!(left(wal.path(), &seen(1, 6)), Some((TimelineId(2), Lsn(5))));
        assert_eq!(left(wal.path(), &seen(2, 9)), None, "it is on that one");
        let text = "1\t0/5\tx\n\n2\t0/8\tx\n";
        fs::write(wal.path().join("00000003.history"), text).unwrap();
        assert_eq!(left(wal.path(), &seen(1, 5)), None);
        assert_eq!(left(wal.path(), &seen(2, 9)), Some((TimelineId(3), Lsn(8))));
        fs::write(wal.path().join("000000020000000000000001"), "").unwrap();
        assert_eq!(left(wal.path(), &seen(1, 9)), Some((TimelineId(3), Lsn(5))), "not of that one");
        let got = wal.path().join("000000030000000000000001");
        fs::write(&got, "").unwrap();
        assert_eq!(
            left(wal.path(), &seen(1, 9)),
            None,
            "it has gone over, and does not say so yet"
        );
        fs::remove_file(got).unwrap();
        fs::write(wal.path().join("0000000G.history"), "rubbish").unwrap();
        fs::write(wal.path().join("00000004.history"), "rubbish").unwrap();
        assert_eq!(left(wal.path(), &seen(2, 9)), None, "what cannot be read proves nothing");
    }
}
