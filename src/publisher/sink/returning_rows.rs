//! Which rows of the table come back as unpublished again and again. Pure.
//!
//! A row whose `published_at` a person sets to null goes out again: that is how an event is
//! repeated on purpose. A program that resets every mark would make outboxd repeat its events
//! without end. So a row that is to be sent from the table once more within minutes is not sent but
//! filed.
//!
//! Every row is settled before the table is read for it again, so a row that is read twice was
//! marked in between; where memory is dropped, this is dropped with it. Memory is bounded: the
//! oldest half is forgotten after some minutes, or when there are too many rows.

use std::collections::HashMap;
use std::time::Duration;

use crate::outbox::RowName;

/// How many times a row is sent from the table.
const SENDS_MAX: u8 = 3;
/// Within this time, or twice as long.
const WINDOW: Duration = Duration::from_secs(600);
const ROWS_MAX: usize = 50_000;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct ReturningRows {
    recent: HashMap<RowName, u8>,
    before: HashMap<RowName, u8>,
    since: Duration,
}

impl ReturningRows {
    /// Whether this row may be sent from the table `now`; counts it if so.
    pub(crate) fn may_send(&mut self, now: Duration, row: &RowName) -> bool {
        if now >= self.since + WINDOW || self.recent.len() >= ROWS_MAX {
            self.before = std::mem::take(&mut self.recent);
            self.since = now;
        }
        let before = self.before.get(row).copied().unwrap_or(0);
        let recent = self.recent.entry(row.clone()).or_insert(0);
        if before + *recent >= SENDS_MAX {
            return false;
        }
        *recent += 1;
        true
    }

    /// Memory is dropped: rows may be sent again without a mark in between.
    pub(crate) fn clear(&mut self) {
        *self = ReturningRows::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::CreatedAt;

    /// A row with this id that was created at this second.
    fn row(id: i64, second: u8) -> RowName {
        let created = CreatedAt::of_text(&format!("2026-01-31 12:00:0{second}"));
        RowName {
            id: id.into(),
            created,
        }
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_row_that_comes_back_again_and_again_is_sent_three_times() {
        let mut rows = ReturningRows::default();
        let sent = (0..10).filter(|n| rows.may_send(S * *n, &row(7, 1)));
        assert_eq!(sent.count(), 3);
        assert!(rows.may_send(S, &row(8, 1)), "another row");
        assert!(
            rows.may_send(S, &row(7, 2)),
            "another row that was given the id"
        );
    }

    #[test]
    fn what_a_person_resets_now_and_then_goes_out_each_time() {
        let mut rows = ReturningRows::default();
        assert!((1..10).all(|n| rows.may_send(WINDOW * n, &row(7, 1))));
    }

    #[test]
    fn memory_is_bounded_and_dropped_with_the_rest() {
        let mut rows = ReturningRows::default();
        for id in 0..200_000 {
            assert!(rows.may_send(S, &row(id, 0)));
        }
        assert!(rows.recent.len() + rows.before.len() <= 2 * ROWS_MAX);
        let mut rows = ReturningRows::default();
        assert!((0..3).all(|_| rows.may_send(S, &row(7, 0))) && !rows.may_send(S, &row(7, 0)));
        rows.clear();
        assert!(rows.may_send(S, &row(7, 0)));
    }
}
