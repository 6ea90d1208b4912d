//! Which rows a pass of polling sends, and when it is over. Pure.
//!
//! Why one process sends no row twice: a row that was sent to Kafka stays unpublished in the table
//! until it is written back, which takes long if the row is locked. So the ids of sent rows are
//! kept, and skipped, until a pass no longer finds them unpublished, or everything is settled. Why
//! no row holds up others: a pass goes on behind rows that stay unpublished, and it starts
//! over after a while even if it finds no end, since transactions commit in another order than they
//! take ids.

use std::time::Duration;

use crate::outbox::{ReadPosition, RowName, RowSet};
use crate::publisher::source::table_scan::RowFilter;

/// A pass that takes longer starts over: rows that were committed late have lower ids than it has
/// reached.
const PASS_LIMIT: Duration = Duration::from_secs(5);
/// A pass that has sent this many rows starts over too, which drops the ids of those that are
/// marked by then.
const SENT_MAX: usize = 100_000;

/// Whether a session begins by dropping memory: it `is_new` if it belongs to another server, or to
/// a producer that has failed. If everything is settled, memory holds nothing but parked keys,
/// which are read again.
pub(crate) fn starts_over(is_new: bool, is_drained: bool) -> bool {
    is_new || is_drained
}

/// What follows a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterBatch {
    /// The next batch of this pass.
    Next,
    /// The pass has reached the last unpublished row: a pause, and another pass.
    Rest,
    /// Another pass, at once.
    StartOver,
}

/// One pass through the unpublished rows, in order.
#[derive(Debug)]
pub(crate) struct PollPass {
    behind: Option<ReadPosition>,
    ends: Duration,
}

impl PollPass {
    /// A pass begins `now`; see [`SentRows::begin`].
    pub(crate) fn begin(
        now: Duration,
        interval: Duration,
        settled: bool,
        sent_rows: &mut SentRows,
    ) -> Self {
        sent_rows.begin(settled);
        PollPass {
            behind: None,
            ends: now + PASS_LIMIT.max(interval),
        }
    }

    /// The row that the next batch follows; `None` at the beginning.
    pub(crate) fn behind(&self) -> Option<&ReadPosition> {
        self.behind.as_ref()
    }

    /// The rows of a batch were sent. The next one follows `next`, if any row can follow.
    /// `unsettled` gives the rows that are not marked yet.
    pub(crate) fn published(
        &mut self,
        now: Duration,
        next: Option<ReadPosition>,
        sent_rows: &mut SentRows,
        unsettled: impl FnOnce() -> RowSet,
    ) -> AfterBatch {
        let Some(next) = next else {
            sent_rows.end(&RowSet::default());
            return AfterBatch::Rest;
        };
        self.behind = Some(next);
        if now <= self.ends && sent_rows.count() < SENT_MAX {
            return AfterBatch::Next;
        }
        sent_rows.end(&unsettled());
        AfterBatch::StartOver
    }
}

/// The rows that were sent to Kafka and may still be unpublished in the table. Pure.
#[derive(Debug, Default)]
pub(crate) struct SentRows {
    /// Sent by earlier passes.
    before: RowSet,
    /// Sent, or found again, in this pass.
    now: RowSet,
}

impl SentRows {
    /// A pass begins. If everything is `settled`, all unpublished rows are to be sent, even if they
    /// were sent before.
    fn begin(&mut self, settled: bool) {
        self.before.take(&mut self.now);
        if settled {
            self.before.clear();
        }
    }

    /// A pass ends. Of the rows that it has not found, only those in `left` may still be
    /// unpublished: one that has read every unpublished row has found them all.
    fn end(&mut self, left: &RowSet) {
        self.before.keep(left);
        self.before.take(&mut self.now);
    }

    /// How many rows this pass has sent or found again.
    fn count(&self) -> usize {
        self.now.len()
    }
}

impl RowFilter for SentRows {
    fn wants(&mut self, row: &RowName) -> bool {
        if !self.before.contains(row) {
            return true;
        }
        self.now.insert(row.clone());
        false
    }

    fn sent(&mut self, row: &RowName) {
        self.now.insert(row.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::RowId;

    fn set(ids: &[i64]) -> RowSet {
        ids.iter().copied().map(RowName::of_id).collect()
    }

    /// A pass over these unpublished rows, when these others may be left; returns the rows that it
    /// sends.
    fn pass(sent_rows: &mut SentRows, rows: &[i64], left: &[i64]) -> Vec<i64> {
        sent_rows.begin(false);
        let mut sent = Vec::new();
        for id in rows {
            let row = RowName::of_id(*id);
            if sent_rows.wants(&row) {
                sent_rows.sent(&row);
                sent.push(*id);
            }
        }
        sent_rows.end(&set(left));
        sent
    }

    #[test]
    fn a_row_that_stays_unpublished_is_sent_once_and_one_that_comes_back_again() {
        let mut sent_rows = SentRows::default();
        assert_eq!(pass(&mut sent_rows, &[1, 2, 3], &[]), [1, 2, 3]);
        assert_eq!(pass(&mut sent_rows, &[2, 4], &[]), [4]);
        assert_eq!(pass(&mut sent_rows, &[2], &[]), Vec::<i64>::new());
        assert_eq!(sent_rows.before.len(), 1);
        // Row 4 was marked, and its mark was removed.
        assert_eq!(pass(&mut sent_rows, &[2, 4], &[]), [4]);
    }

    #[test]
    fn a_pass_that_started_over_forgets_nothing_that_it_did_not_see() {
        let mut sent_rows = SentRows::default();
        assert_eq!(pass(&mut sent_rows, &[1, 2, 9], &[]), [1, 2, 9]);
        assert_eq!(pass(&mut sent_rows, &[2, 3], &[9]), [3]);
        assert_eq!(pass(&mut sent_rows, &[2, 3, 9], &[]), Vec::<i64>::new());
    }

    #[test]
    fn what_is_unpublished_when_all_is_settled_is_sent_again() {
        let mut sent_rows = SentRows::default();
        assert_eq!(pass(&mut sent_rows, &[1], &[]), [1]);
        sent_rows.begin(true);
        assert!(sent_rows.wants(&RowName::of_id(1)));
    }

    #[test]
    fn a_pass_that_was_given_up_keeps_what_it_sent() {
        let mut sent_rows = SentRows::default();
        sent_rows.begin(false);
        sent_rows.sent(&RowName::of_id(5));
        assert_eq!(pass(&mut sent_rows, &[5, 6], &[]), [6]);
    }

    #[test]
    fn a_pass_rests_at_its_end_and_starts_over_when_it_takes_long_or_sends_many() {
        let second = Duration::from_secs(1);
        let mut sent_rows = SentRows::default();
        let mut pass = PollPass::begin(second, second, false, &mut sent_rows);
        assert_eq!(pass.behind(), None);
        let at = ReadPosition {
            id: RowId::from(11),
            order: None,
        };
        let (next, long) = (|| Some(at.clone()), second * 7);
        assert_eq!(
            pass.published(second * 6, next(), &mut sent_rows, RowSet::default),
            AfterBatch::Next
        );
        assert_eq!(pass.behind(), Some(&at));
        assert_eq!(
            pass.published(long, next(), &mut sent_rows, RowSet::default),
            AfterBatch::StartOver
        );
        let rest = pass.published(long, None, &mut sent_rows, RowSet::default);
        assert_eq!(rest, AfterBatch::Rest);
        let mut pass = PollPass::begin(second, second * 9, false, &mut sent_rows);
        assert_eq!(
            pass.published(second * 10, next(), &mut sent_rows, RowSet::default),
            AfterBatch::Next
        );
        (0..SENT_MAX as i64).for_each(|id| sent_rows.sent(&RowName::of_id(id)));
        assert_eq!(
            pass.published(second, next(), &mut sent_rows, RowSet::default),
            AfterBatch::StartOver
        );
    }

    #[test]
    fn a_session_goes_on_with_what_is_not_settled_and_belongs_to_it() {
        assert!(!starts_over(false, false));
        assert!(starts_over(true, false) && starts_over(false, true));
    }
}
