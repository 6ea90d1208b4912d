//! Rows that another program has marked as published, though outboxd had sent their events. Pure.
//!
//! Such a program publishes the same events, so consumers receive them twice. The write-back finds
//! the rows: it was about to mark them, and they were marked. A row that another instance of
//! outboxd may have marked is no evidence:
//!
//! - An instance that held the lock before has sent events that the stream delivers again. So only
//!   events count that were committed behind the position where this session held the lock. While
//!   the table is polled, only rows count that appeared behind the first complete pass.
//! - An instance that holds the lock now has marked rows of this one, which does not know yet that
//!   it has lost the lock. So a row counts only after the session has proven that it still holds
//!   the lock. Of two proofs in a row, the second one was asked for after the row was found.
//! - An earlier statement of this instance has taken effect and its reply was lost. The write-back
//!   does not report such a row.

use crate::lsn::Lsn;
use crate::outbox::RowId;

/// Rows that were found marked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MarkedByOther {
    pub(crate) count: u64,
    /// The last of them.
    pub(crate) example: Option<RowId>,
}

impl MarkedByOther {
    /// Adds rows that were found later.
    pub(crate) fn add(&mut self, other: MarkedByOther) {
        self.count += other.count;
        self.example = other.example.or(self.example.take());
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct ForeignMarks {
    /// The position where this session held the lock; `None` if it is not known.
    held_at: Option<Lsn>,
    /// The events of the transaction that has begun were sent by no other instance.
    events_count: bool,
    /// Rows of the table that are read from now on were sent by no other instance.
    rows_count: bool,
    /// Found since the last proof.
    found: MarkedByOther,
    /// Found before the last proof, which may have been asked for earlier.
    proven_once: MarkedByOther,
    proven: MarkedByOther,
}

impl ForeignMarks {
    /// A session holds the lock, and held it at this position.
    pub(crate) fn lock_held(&mut self, held_at: Option<Lsn>) {
        *self = ForeignMarks {
            held_at,
            proven: std::mem::take(&mut self.proven),
            ..ForeignMarks::default()
        };
    }

    /// The position where this session held the lock, if it is known.
    pub(crate) fn held_at(&self) -> Option<Lsn> {
        self.held_at
    }

    /// Every row that an instance before this one can have sent was read from the table.
    pub(crate) fn table_was_read(&mut self) {
        self.rows_count = true;
    }

    /// The stream begins a transaction that was committed at this position.
    pub(crate) fn begin(&mut self, commit_lsn: Lsn) {
        self.events_count = self.held_at.is_some_and(|held_at| commit_lsn > held_at);
    }

    /// Whether a mark that an event already has, when outboxd marks it, is another program's. The
    /// event was read `from_table`, or belongs to the transaction that has begun.
    pub(crate) fn counts(&self, from_table: bool) -> bool {
        match from_table {
            true => self.rows_count,
            false => self.events_count,
        }
    }

    /// The write-back has found this row marked.
    pub(crate) fn found(&mut self, row: RowId) {
        self.found.add(MarkedByOther {
            count: 1,
            example: Some(row),
        });
    }

    /// The session has answered that it holds the lock. It was asked after the proof before.
    pub(crate) fn lock_proven(&mut self) {
        let twice = std::mem::take(&mut self.proven_once);
        self.proven.add(twice);
        self.proven_once = std::mem::take(&mut self.found);
    }

    /// The rows that another program has marked, since the last call.
    pub(crate) fn take(&mut self) -> Option<MarkedByOther> {
        (self.proven.count > 0).then(|| std::mem::take(&mut self.proven))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: i64) -> RowId {
        RowId::from(number)
    }

    #[test]
    fn a_row_counts_once_the_lock_was_proven_behind_it() {
        let mut marks = ForeignMarks::default();
        marks.lock_held(Some(Lsn::new(100)));
        for (commit_lsn, counts) in [(100, false), (101, true)] {
            marks.begin(Lsn::new(commit_lsn));
            assert_eq!(marks.counts(false), counts, "at {commit_lsn}");
        }
        marks.found(id(1));
        marks.found(id(2));
        assert_eq!(marks.take(), None);
        marks.lock_proven();
        assert_eq!(marks.take(), None, "it may have been asked before");
        marks.found(id(3));
        marks.lock_proven();
        let (count, example) = (2, Some(id(2)));
        assert_eq!(marks.take(), Some(MarkedByOther { count, example }));
        assert_eq!(marks.take(), None);
        marks.lock_proven();
        assert_eq!(marks.take().map(|marked| marked.count), Some(1));
    }

    #[test]
    fn a_row_that_was_found_before_the_lock_was_lost_does_not_count() {
        let mut marks = ForeignMarks::default();
        marks.lock_held(Some(Lsn::new(100)));
        marks.found(id(1));
        marks.lock_proven();
        marks.found(id(2));
        marks.lock_held(Some(Lsn::new(200)));
        marks.lock_proven();
        marks.lock_proven();
        assert_eq!(marks.take(), None);
    }

    #[test]
    fn without_a_position_no_event_counts_and_rows_count_behind_a_pass() {
        let mut marks = ForeignMarks::default();
        marks.lock_held(None);
        marks.begin(Lsn::new(u64::MAX));
        assert!(!marks.counts(false) && !marks.counts(true));
        marks.table_was_read();
        assert!(!marks.counts(false) && marks.counts(true));
        marks.lock_held(None);
        assert!(!marks.counts(true));
    }
}
