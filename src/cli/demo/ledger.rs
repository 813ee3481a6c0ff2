//! What the demo's clients were promised, and what that says about a failover.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::core::time::Instant;

/// Who wrote: the client that follows the primary, or the one pinned to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Writer {
    /// Follows the primary, as an application does.
    Following,
    /// Only ever connects to this member, by its index.
    Pinned(usize),
}

impl Writer {
    /// How it is called in the table.
    pub(super) fn name(self) -> String {
        match self {
            Self::Following => "following".to_owned(),
            Self::Pinned(member) => format!("pinned-{member}"),
        }
    }
}

/// One acknowledged commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// When the acknowledgement arrived.
    pub(super) at: Instant,
    /// Who had written.
    pub(super) writer: Writer,
    /// Index of the member that acknowledged.
    pub(super) member: usize,
    /// PostgreSQL's timeline the row was written on: it grows with every promotion, and nobody
    /// but PostgreSQL has to be believed for it.
    pub(super) timeline: u32,
    /// Number of the row, by writer.
    pub(super) seq: i64,
}

/// All acknowledged commits of a run, in order of arrival.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    acks: Vec<Ack>,
}

impl Ledger {
    /// Notes one more. Times never go back: one thread receives them all.
    pub(super) fn push(&mut self, ack: Ack) {
        self.acks.push(ack);
    }

    fn following(&self) -> impl DoubleEndedIterator<Item = &Ack> {
        self.acks.iter().filter(|ack| ack.writer == Writer::Following)
    }

    /// The following client's last acknowledged commit.
    pub(super) fn last(&self) -> Option<Ack> {
        self.following().next_back().copied()
    }

    /// The following client's first commit after `fault` on a later timeline than it had before.
    pub(super) fn first_after_failover(&self, fault: Instant) -> Option<Ack> {
        let before = self.timeline_before(fault);
        self.following().find(|ack| ack.at > fault && ack.timeline > before).copied()
    }

    /// The first commit after `fault` on a later timeline, of any client: somebody took over.
    pub(super) fn first_taken_over(&self, fault: Instant) -> Option<Ack> {
        let before = self.timeline_before(fault);
        self.acks.iter().find(|ack| ack.at > fault && ack.timeline > before).copied()
    }

    /// The last commit of any client before `until`.
    pub(super) fn last_before(&self, until: Instant) -> Option<Ack> {
        self.acks.iter().rev().find(|ack| ack.at < until).copied()
    }

    /// The following client's commits after `from`.
    pub(super) fn count_since(&self, from: Instant) -> usize {
        self.following().rev().take_while(|ack| ack.at > from).count()
    }

    /// The longest time between two acknowledged commits of the following client that ended after
    /// `from`, until `until`. Silence up to `until` counts.
    pub(super) fn longest_gap(&self, from: Instant, until: Instant) -> Duration {
        let start = self.following().take_while(|ack| ack.at <= from).last().map_or(from, |a| a.at);
        let inside = self.following().map(|ack| ack.at).filter(|at| *at > from && *at < until);
        let (last, longest) = inside
            .chain([until])
            .fold((start, Duration::ZERO), |(last, longest), at| (at, longest.max(at.since(last))));
        debug_assert!(last >= start);
        longest
    }

    /// How often acknowledgements went back to a member that had already lost the right to write.
    ///
    /// A member has lost it once another one acknowledged on a later timeline. A timeline belongs to
    /// the member that first acknowledged on it; another one there is a second primary, too. Acks
    /// that follow one another on the same stale member are one return to it.
    pub(super) fn alternations(&self) -> u32 {
        let mut owner = BTreeMap::new();
        let mut newest = 0;
        let mut previous = None;
        let mut count = 0;
        for ack in &self.acks {
            let stale = ack.timeline < newest
                || *owner.entry(ack.timeline).or_insert(ack.member) != ack.member;
            newest = newest.max(ack.timeline);
            count += u32::from(stale && previous.is_some_and(|member| member != ack.member));
            previous = Some(ack.member);
        }
        count
    }

    /// Acknowledged rows that are not among `kept`, the rows found in the end.
    pub(super) fn lost(&self, kept: &BTreeSet<(String, i64)>) -> u64 {
        let lost = self.acks.iter().filter(|ack| !kept.contains(&(ack.writer.name(), ack.seq)));
        u64::try_from(lost.count()).unwrap_or(u64::MAX)
    }

    fn timeline_before(&self, fault: Instant) -> u32 {
        self.following()
            .take_while(|ack| ack.at <= fault)
            .map(|ack| ack.timeline)
            .max()
            .unwrap_or(0)
    }
}

/// A ledger that the clients write while others look.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Access; a panic elsewhere does not make acknowledgements untrue.
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(at: u64) -> Instant {
        Instant::from_millis(at)
    }

    fn ledger(acks: &[(u64, Writer, usize, u32)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (seq, &(at, writer, member, timeline)) in (0..).zip(acks) {
            ledger.push(Ack { at: ms(at), writer, member, timeline, seq });
        }
        ledger
    }

    const F: Writer = Writer::Following;
    const A: Writer = Writer::Pinned(0);
    const B: Writer = Writer::Pinned(1);

    #[test]
    fn the_gap_begins_with_the_last_commit_before_the_fault() {
        let ledger =
            ledger(&[(10, F, 0, 1), (15, F, 0, 1), (20, A, 0, 1), (400, F, 1, 2), (405, F, 1, 2)]);
        assert_eq!(ledger.longest_gap(ms(18), ms(410)), Duration::from_millis(385));
    }

    #[test]
    fn silence_until_the_end_is_a_gap() {
        let ledger = ledger(&[(10, F, 0, 1), (15, F, 0, 1)]);
        assert_eq!(ledger.longest_gap(ms(12), ms(1000)), Duration::from_millis(985));
        assert_eq!(Ledger::default().longest_gap(ms(100), ms(300)), Duration::from_millis(200));
    }

    #[test]
    fn gaps_before_the_fault_and_of_pinned_writers_do_not_count() {
        let ledger = ledger(&[
            (10, F, 0, 1),
            (500, F, 0, 1),
            (505, F, 0, 1),
            (510, F, 0, 1),
            (900, A, 0, 1),
        ]);
        assert_eq!(ledger.longest_gap(ms(502), ms(512)), Duration::from_millis(5));
    }

    #[test]
    fn a_failover_and_a_later_one_back_are_no_alternations() {
        let ledger = ledger(&[
            (1, A, 0, 1),
            (2, F, 0, 1),
            (50, B, 1, 2),
            (51, F, 1, 2),
            (90, A, 0, 3),
            (91, F, 0, 3),
        ]);
        assert_eq!(ledger.alternations(), 0);
    }

    #[test]
    fn each_return_to_a_stale_member_counts_once() {
        let ledger = ledger(&[
            (1, A, 0, 1),
            (50, B, 1, 2),
            (51, A, 0, 1),
            (52, A, 0, 1),
            (53, B, 1, 2),
            (54, A, 0, 1),
        ]);
        assert_eq!(ledger.alternations(), 2);
    }

    #[test]
    fn two_members_on_one_timeline_are_two_primaries() {
        let ledger =
            ledger(&[(1, A, 0, 1), (2, B, 1, 2), (3, Writer::Pinned(2), 2, 2), (4, B, 1, 2)]);
        assert_eq!(ledger.alternations(), 1);
    }

    #[test]
    fn a_restart_in_place_is_no_failover() {
        let ledger = ledger(&[(1, F, 0, 1), (2, A, 0, 1), (80, F, 0, 1), (81, A, 0, 1)]);
        assert_eq!(ledger.alternations(), 0);
        assert_eq!(ledger.first_after_failover(ms(3)), None);
    }

    #[test]
    fn the_first_commit_is_the_one_on_the_new_timeline() {
        let ledger = ledger(&[(1, F, 0, 1), (5, F, 0, 1), (50, B, 1, 2), (52, F, 1, 2)]);
        assert_eq!(ledger.first_after_failover(ms(3)).map(|ack| ack.at), Some(ms(52)));
        assert_eq!(ledger.count_since(ms(3)), 2);
        assert_eq!(ledger.last_before(ms(50)).map(|ack| ack.at), Some(ms(5)));
        assert_eq!(ledger.last_before(ms(1)), None);
    }

    #[test]
    fn lost_are_rows_that_were_acknowledged_and_are_gone() {
        let ledger = ledger(&[(1, F, 0, 1), (2, A, 0, 1), (50, F, 1, 2)]);
        let kept = [("following".to_owned(), 0), ("following".to_owned(), 2)].into();
        assert_eq!(ledger.lost(&kept), 1);
        assert_eq!(ledger.lost(&BTreeSet::new()), 3);
    }
}
