//! Which row of a table takes longer to print than a statement may take, or lies in a file that the
//! server cannot read. Pure.
//!
//! Such a failure ends its session, so the result has to outlive sessions: the first row that was
//! not received, and how many rows were requested from there on. The next reads end before that
//! row, or begin with it and request half as many, until the row is alone. A server that is slow or
//! has no disk must cost no event: a row counts as unreadable only after two reads of it alone have
//! failed, in sessions that answered everything else before.

use crate::error::Error;
use crate::outbox::RowId;
use crate::postgres::{ServerError, is_out_of_time};

/// Whether a read took too long, or failed at a file of the server.
pub(in crate::outbox) fn may_be_of_a_slow_row(error: &Error) -> bool {
    is_out_of_time(error) || ServerError::of(error).is_some_and(ServerError::is_of_a_file)
}

/// See the module's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlowRows {
    /// The first row that the read that failed last did not receive, and how many rows it requested
    /// from there on.
    at: Option<(RowId, usize)>,
    /// How many times a read of that row alone has failed.
    times: u32,
}

impl SlowRows {
    /// A read of this many rows, beginning with this one, failed.
    pub(crate) fn note(&mut self, first: RowId, rows: usize) {
        let again = self.is_alone(&first) && rows == 1;
        self.times = if again { self.times + 1 } else { 1 };
        self.at = Some((first, rows));
    }

    /// The most rows to request, beginning with this one.
    pub(crate) fn most(&self, first: &RowId) -> usize {
        match &self.at {
            Some((at, rows)) if at == first => (rows / 2).max(1),
            _ => usize::MAX,
        }
    }

    /// Whether a read has to begin with this row.
    pub(crate) fn begins_with(&self, row: &RowId) -> bool {
        self.at.as_ref().is_some_and(|(at, _)| at == row)
    }

    /// Whether the last read that failed was of this row alone.
    fn is_alone(&self, row: &RowId) -> bool {
        self.begins_with(row) && self.at.as_ref().is_some_and(|(_, rows)| *rows == 1)
    }

    /// Whether the row counts as unreadable. True only once, so that a later retry of its dead
    /// letter reads it again.
    pub(crate) fn gives_up(&mut self, row: &RowId) -> bool {
        let gives_up = self.is_alone(row) && self.times >= 2;
        if gives_up {
            *self = SlowRows::default();
        }
        gives_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_halved_down_to_the_row_which_has_two_chances_alone() {
        let mut slow = SlowRows::default();
        let mut asked = vec![10];
        while !slow.gives_up(&RowId::Number(7)) {
            let rows = asked
                .last()
                .copied()
                .unwrap_or(0)
                .min(slow.most(&RowId::Number(7)));
            slow.note(RowId::Number(7), rows);
            asked.push(rows);
        }
        assert_eq!(asked, [10, 10, 5, 2, 1, 1]);
        assert!(!slow.gives_up(&RowId::Number(7)), "true only once");
        assert_eq!(slow.most(&RowId::Number(7)), usize::MAX);
    }

    #[test]
    fn a_read_begins_with_the_row_that_was_not_received() {
        let mut slow = SlowRows::default();
        assert!(!slow.begins_with(&RowId::Number(7)));
        slow.note(RowId::Number(7), 3);
        assert!(slow.begins_with(&RowId::Number(7)) && !slow.begins_with(&RowId::Number(8)));
        assert_eq!(
            (slow.most(&RowId::Number(7)), slow.most(&RowId::Number(6))),
            (1, usize::MAX)
        );
    }

    #[test]
    fn another_row_starts_over() {
        let mut slow = SlowRows::default();
        slow.note(RowId::Number(7), 1);
        slow.note(RowId::Number(9), 1);
        assert!(!slow.gives_up(&RowId::Number(9)) && !slow.gives_up(&RowId::Number(7)));
        slow.note(RowId::Number(9), 1);
        assert!(slow.gives_up(&RowId::Number(9)));
    }
}
