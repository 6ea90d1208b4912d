//! Up to which row a replay is done. Pure.
//!
//! Records of different topics and partitions are acknowledged in any order, so the rows that were
//! sent are kept in the order of reading until every row before them is done. Bounded: a replay
//! sends no further row while this many wait behind one that is not done.

use std::collections::VecDeque;

use crate::outbox::{RowId, RowName, RowSet};

/// The most rows that are kept.
const WAITING_MAX: usize = 200_000;
/// With fewer rows than this, looking for those that are done is not worth its cost.
const LOOK_MIN: usize = 10_000;

/// See the module's head.
#[derive(Debug)]
pub(super) struct SentOrder {
    done: Option<RowId>,
    waiting: VecDeque<RowName>,
    /// With so many rows, it is time to look for those that are done.
    look_at: usize,
}

impl Default for SentOrder {
    fn default() -> Self {
        SentOrder {
            done: None,
            waiting: VecDeque::new(),
            look_at: LOOK_MIN,
        }
    }
}

impl SentOrder {
    /// The next row was sent.
    pub(super) fn sent(&mut self, row: RowName) {
        self.waiting.push_back(row);
    }

    /// Whether [`settle`](SentOrder::settle) is due. Each look costs as much as there are rows in
    /// flight, so the next one follows after as many more rows.
    pub(super) fn is_due(&self) -> bool {
        self.waiting.len() >= self.look_at
    }

    /// Whether no further row may be sent.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// All rows that were sent are done, but for these.
    pub(super) fn settle(&mut self, unsettled: &RowSet) {
        while let Some(first) = self.waiting.front()
            && !unsettled.contains(first)
        {
            self.done = self.waiting.pop_front().map(|row| row.id);
        }
        let twice = self.waiting.len() * 2;
        self.look_at = twice.clamp(LOOK_MIN, WAITING_MAX);
    }

    /// The last row before which every row is done, itself included.
    pub(super) fn done(&self) -> Option<&RowId> {
        self.done.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[i64]) -> RowSet {
        ids.iter().copied().map(RowName::of_id).collect()
    }

    #[test]
    fn the_position_stays_before_the_first_row_that_is_not_done() {
        let mut order = SentOrder::default();
        assert_eq!(order.done(), None);
        (1..=5).for_each(|id| order.sent(RowName::of_id(id)));
        order.settle(&set(&[1, 4]));
        assert_eq!(order.done(), None);
        order.settle(&set(&[4]));
        assert_eq!(order.done(), Some(&RowId::Number(3)));
        order.settle(&set(&[]));
        assert_eq!(order.done(), Some(&RowId::Number(5)));
    }

    #[test]
    fn rows_behind_one_that_is_not_done_are_limited_and_looked_at_seldom() {
        let mut order = SentOrder::default();
        let mut looks = 0;
        let mut id = 0;
        while !order.is_full() {
            order.sent(RowName::of_id(id));
            id += 1;
            if order.is_due() {
                order.settle(&set(&[0]));
                looks += 1;
            }
        }
        assert_eq!(id, WAITING_MAX as i64);
        assert!(looks <= 7, "{looks} looks");
        assert!(order.is_due(), "a full order is looked at each time");
        order.settle(&set(&[]));
        assert!(!order.is_full() && !order.is_due());
    }
}
