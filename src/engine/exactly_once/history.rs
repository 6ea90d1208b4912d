//! Whether the stream is of the history that the progress record belongs to. Pure.
//!
//! Timeline and positions do not show an older copy of the server's files whose WAL has grown past
//! the record: its new events would count as published. But the stream begins at the slot's
//! position, and what it repeats from there has to be what was published: the last whole
//! transaction with its id and time, nothing between that and the record's position, and then the
//! rest of the transaction that is in Kafka in part. Until that is seen no row is marked.

use crate::engine::exactly_once::progress::Progress;
use crate::engine::exactly_once::start::{self, Refusal};
use crate::engine::tracker::TransactionName;
use crate::lsn::Lsn;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct HistoryCheck {
    /// Nothing is left to be seen without it.
    expected: Option<Expected>,
    /// The stream is of another history.
    is_other: bool,
}

#[derive(Debug)]
struct Expected {
    progress: Progress,
    slot: Lsn,
    /// The last whole transaction has to come.
    last: Option<TransactionName>,
}

impl HistoryCheck {
    /// For a stream from the slot's position.
    pub(crate) fn new(progress: &Progress, slot: Lsn) -> Self {
        let last = progress.last.filter(|last| last.commit_lsn >= slot);
        let is_covered = progress.position == slot && progress.partial.is_none();
        HistoryCheck {
            is_other: false,
            expected: (!is_covered).then(|| Expected {
                progress: progress.clone(),
                slot,
                last,
            }),
        }
    }

    /// Whether a transaction has to come before any row is marked. What is received until then
    /// takes no memory but that of its rows, and an earlier process had room for those.
    pub(crate) fn is_awaited(&self) -> bool {
        let awaits = |it: &Expected| it.last.is_some();
        !self.is_other && self.expected.as_ref().is_some_and(awaits)
    }

    /// Whether no row may be marked.
    pub(crate) fn forbids_marks(&self) -> bool {
        self.is_other || self.is_awaited()
    }

    /// A transaction begins.
    ///
    /// # Errors
    /// It shows another history.
    pub(crate) fn begins(&mut self, found: TransactionName) -> Result<(), Refusal> {
        let Some(expected) = &mut self.expected else {
            return Ok(());
        };
        let Expected { progress, slot, .. } = expected;
        let is_passed = |last: TransactionName| last.commit_lsn < found.commit_lsn;
        let is_other = if found.commit_lsn < progress.position {
            let is_behind = progress.last.is_some_and(is_passed);
            is_behind
                || expected
                    .last
                    .is_some_and(|it| is_same_place(it, found) && it != found)
        } else {
            let partial = progress.partial.map(|it| it.transaction);
            expected.last.is_some() || partial.is_some_and(|it| it != found)
        };
        if is_other {
            self.is_other = true;
            return Err(start::other_history(progress, found.commit_lsn, *slot));
        }
        if expected.last == Some(found) {
            expected.last = None;
        }
        if found.commit_lsn >= expected.progress.position {
            self.expected = None;
        }
        Ok(())
    }
}

fn is_same_place(one: TransactionName, other: TransactionName) -> bool {
    one.commit_lsn == other.commit_lsn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exactly_once::progress::{Partial, Phase};

    fn name(commit: u64, xid: u32) -> TransactionName {
        TransactionName {
            commit_lsn: Lsn::new(commit),
            xid,
            committed_micros: 1,
        }
    }

    /// All up to 100 is in Kafka, with the last transaction at 80; perhaps a part of one at 120.
    fn progress(has_part: bool) -> Progress {
        let partial = has_part.then(|| Partial {
            transaction: name(120, 8),
            changes: 3,
        });
        Progress {
            timeline: 1,
            publication: "outboxd".to_owned(),
            position: Lsn::new(100),
            last: Some(name(80, 5)),
            partial,
            settled: None,
            phase: Phase::Stream,
            rows: Vec::new(),
            dead_letters: Vec::new(),
            replay: None,
        }
    }

    /// Transactions by position and id.
    type Names = &'static [(u64, u32)];

    /// Whether each transaction was taken, and whether rows may be marked after it.
    fn taken(slot: u64, has_part: bool, names: Names) -> Vec<(bool, bool)> {
        let mut check = HistoryCheck::new(&progress(has_part), Lsn::new(slot));
        let mut taken = Vec::new();
        for (commit, xid) in names {
            let is_taken = check.begins(name(*commit, *xid)).is_ok();
            taken.push((is_taken, !check.forbids_marks()));
        }
        taken
    }

    #[test]
    fn the_same_history_repeats_what_was_published() {
        let cases: [(u64, bool, Names, &[bool]); 5] = [
            (
                60,
                false,
                &[(70, 4), (80, 5), (100, 6)],
                &[false, true, true],
            ),
            (
                60,
                true,
                &[(80, 5), (120, 8), (130, 9)],
                &[true, true, true],
            ),
            (90, true, &[(120, 8)], &[true]),
            (90, false, &[(100, 6), (101, 7)], &[true, true]),
            (100, false, &[(100, 6)], &[true]),
        ];
        for (slot, has_part, names, marks) in cases {
            let expected: Vec<_> = marks.iter().map(|marks| (true, *marks)).collect();
            assert_eq!(taken(slot, has_part, names), expected, "{names:?}");
        }
    }

    #[test]
    fn another_history_is_seen_before_any_row_of_it_is_marked() {
        let cases: [(u64, bool, Names); 7] = [
            // Another transaction at the place of the last one, by its id.
            (60, false, &[(80, 6)]),
            // It is passed without being seen.
            (60, false, &[(81, 5)]),
            (60, false, &[(110, 9)]),
            // Something behind it that was not there.
            (60, false, &[(80, 5), (90, 6)]),
            (85, false, &[(90, 6)]),
            // Another one where a part was published.
            (60, true, &[(80, 5), (120, 9)]),
            (100, true, &[(121, 8)]),
        ];
        for (slot, has_part, names) in cases {
            let found = taken(slot, has_part, names);
            assert_eq!(found.last(), Some(&(false, false)), "{slot} {names:?}");
        }
    }
}
