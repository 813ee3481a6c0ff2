//! What clients were told, and what that says: who acknowledged what when, and what survived.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// Without an acknowledgement for longer than this nobody could write.
const PAUSE: Duration = Duration::from_millis(500);

/// An acknowledged commit. All clients are on one machine: one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) client: usize,
    /// Each client counts its own.
    pub(super) number: u64,
    /// Who acknowledged it.
    pub(super) member: usize,
    /// Timeline it was written in.
    pub(super) timeline: u32,
    pub(super) sent: Instant,
    pub(super) acknowledged: Instant,
}

/// Commits that one member acknowledged in one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reign {
    pub(super) member: usize,
    pub(super) timeline: u32,
    pub(super) first: Instant,
    pub(super) last: Instant,
    pub(super) commits: usize,
}

/// The reigns, by their first acknowledgement.
pub(super) fn reigns(commits: &[Commit]) -> Vec<Reign> {
    let mut reigns: Vec<Reign> = Vec::new();
    for commit in commits {
        let at = commit.acknowledged;
        let same = |r: &&mut Reign| (r.member, r.timeline) == (commit.member, commit.timeline);
        match reigns.iter_mut().find(same) {
            Some(reign) => {
                (reign.first, reign.last) = (reign.first.min(at), reign.last.max(at));
                reign.commits += 1;
            }
            None => reigns.push(Reign {
                member: commit.member,
                timeline: commit.timeline,
                first: at,
                last: at,
                commits: 1,
            }),
        }
    }
    reigns.sort_by_key(|reign| reign.first);
    reigns
}

/// Commits a member took although another had acknowledged one in a reign that is later: sent after
/// that, so that no delay of an answer explains it. Each is a violation, in a sentence.
pub(super) fn alternations(commits: &[Commit]) -> Vec<String> {
    let reigns = reigns(commits);
    let mut found = Vec::new();
    for commit in commits {
        let own = reigns
            .iter()
            .position(|r| (r.member, r.timeline) == (commit.member, commit.timeline))
            .unwrap_or(0);
        let later = reigns.iter().enumerate().find(|(at, reign)| {
            let after = *at > own || reign.timeline > commit.timeline;
            after && reign.member != commit.member && commit.sent > reign.first
        });
        if let Some((_, reign)) = later {
            found.push(format!(
                "member {} (timeline {}) took commit {}.{} sent {:?} after member {} had first \
                 acknowledged in timeline {}",
                commit.member,
                commit.timeline,
                commit.client,
                commit.number,
                commit.sent - reign.first,
                reign.member,
                reign.timeline,
            ));
        }
    }
    found
}

/// Acknowledged commits that are not in the database any more, in order of time.
pub(super) fn lost<'a>(
    commits: &'a [Commit],
    survived: &BTreeSet<(usize, u64)>,
) -> Vec<&'a Commit> {
    let mut lost: Vec<_> = commits
        .iter()
        .filter(|commit| !survived.contains(&(commit.client, commit.number)))
        .collect();
    lost.sort_by_key(|commit| commit.acknowledged);
    lost
}

/// Times from one acknowledgement to the next that are long enough to be noticed.
pub(super) fn pauses(commits: &[Commit]) -> Vec<Duration> {
    let mut times: Vec<Instant> = commits.iter().map(|commit| commit.acknowledged).collect();
    times.sort_unstable();
    times.windows(2).map(|two| two[1] - two[0]).filter(|pause| *pause > PAUSE).collect()
}

/// For each change of who acknowledges: the time between the last one's last and the next one's first.
pub(super) fn failovers(commits: &[Commit]) -> Vec<Duration> {
    let reigns = reigns(commits);
    let changes = reigns.windows(2).filter(|two| two[0].member != two[1].member);
    changes.map(|two| two[1].first.saturating_duration_since(two[0].last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(rows: &[(usize, u32, u64)]) -> Vec<Commit> {
        let start = Instant::now();
        let commit = |(number, (member, timeline, at)): (u64, &(usize, u32, u64))| Commit {
            client: *member,
            number,
            member: *member,
            timeline: *timeline,
            sent: start + Duration::from_millis(*at),
            acknowledged: start + Duration::from_millis(*at + 5),
        };
        (0..).zip(rows).map(commit).collect()
    }

    #[test]
    fn one_after_the_other_is_no_violation() {
        let commits = history(&[(0, 1, 0), (0, 1, 10), (1, 2, 900), (1, 2, 910), (0, 3, 2000)]);
        assert_eq!(alternations(&commits), Vec::<String>::new());
        assert_eq!(failovers(&commits), [890, 1090].map(Duration::from_millis));
        assert_eq!(pauses(&commits), [890, 1090].map(Duration::from_millis));
    }

    #[test]
    fn two_writers_at_once_are_found() {
        let commits = history(&[(0, 1, 0), (1, 2, 100), (0, 1, 200), (1, 2, 300)]);
        let found = alternations(&commits);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("member 0 (timeline 1) took commit 0.2 sent 95ms"),
            "{found:?}"
        );
    }

    #[test]
    fn two_writers_with_one_timeline_are_found() {
        let commits = history(&[(0, 2, 0), (1, 2, 100), (0, 2, 200)]);
        assert_eq!(alternations(&commits).len(), 1);
    }

    #[test]
    fn a_former_primary_that_writes_for_the_first_time_after_the_next_one_is_found() {
        assert_eq!(alternations(&history(&[(1, 3, 0), (0, 2, 100)])).len(), 1);
    }

    #[test]
    fn an_answer_that_is_late_is_no_second_writer() {
        let mut commits = history(&[(0, 1, 0), (0, 1, 10), (1, 2, 100)]);
        commits[1].acknowledged += Duration::from_millis(300);
        assert_eq!(alternations(&commits), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_there_any_more_is_lost() {
        let commits = history(&[(0, 1, 0), (0, 1, 10), (1, 2, 100)]);
        let survived = BTreeSet::from([(0, 0), (1, 2), (1, 99)]);
        let lost: Vec<u64> = lost(&commits, &survived).iter().map(|commit| commit.number).collect();
        assert_eq!(lost, [1]);
    }
}
