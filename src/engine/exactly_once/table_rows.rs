//! Rows of the table that are sent in transactions. Pure.
//!
//! No position says that Kafka has such a row. So the progress record of its transaction names it,
//! and so does each record after that until the row is marked: after a crash a row that is named is
//! marked and not sent. Before there is a slot, a transaction waits for the marks of the one
//! before; beside the stream none does, since a row that is locked would hold up the stream. The
//! names have a limit there, and further rows wait.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::exactly_once::limits::ROWS_MAX;
use crate::engine::exactly_once::recorded_row::RecordedRow;
use crate::engine::exactly_once::state::ExactlyOnce;
use crate::engine::exactly_once::transaction::{Sent, Transactions};
use crate::engine::tracker::InFlight;

impl Engine {
    /// Takes in a row that the progress record names: it is marked as published and not sent.
    pub(crate) fn accept_recorded(&mut self, now: Duration, row: InFlight) {
        let recorded = RecordedRow::of(&row);
        let ticket = self.accept_unsent(now, row);
        if let (Some(recorded), Some(exactly_once)) = (recorded, &mut self.exactly_once) {
            exactly_once.unmarked_rows.push((ticket, recorded));
        }
    }

    /// The rows that the record of the current transaction names.
    pub(super) fn rows_to_record(&mut self) -> Vec<RecordedRow> {
        let Some(ExactlyOnce {
            transactions,
            unmarked_rows,
            ..
        }) = self.exactly_once.as_deref_mut()
        else {
            return Vec::new();
        };
        unmarked_rows.retain(|(ticket, _)| self.tracker.is_unsettled(*ticket));
        let rows = transactions.events().iter().filter(|it| it.is_row);
        let named = rows.filter_map(|sent| {
            let event = self.tracker.event(sent.ticket)?;
            Some((sent.ticket, RecordedRow::of(event)?))
        });
        unmarked_rows.extend(named);
        unmarked_rows.iter().map(|(_, row)| row.clone()).collect()
    }

    /// Whether another row may be sent beside the stream: no event waits, the stream has shown its
    /// history, and there is room for the row's name. While the history is awaited the stream is
    /// read whatever waits, since nothing of it is sent.
    pub(in crate::engine) fn takes_row_beside_stream(&self) -> bool {
        let Some(exactly_once) = &self.exactly_once else {
            return true;
        };
        if self.awaits_history() || self.is_between_transactions() {
            return false;
        }
        let unmarked = exactly_once.unmarked_rows.iter();
        let unmarked = unmarked.filter(|(ticket, _)| self.tracker.is_unsettled(*ticket));
        unmarked.count() + exactly_once.transactions.row_count() < ROWS_MAX
    }
}

impl Transactions {
    /// Rows of the table in the current transaction.
    pub(super) fn row_count(&self) -> usize {
        let is_row = |it: &&Sent| it.is_row;
        let held = self.held().filter(|it| it.is_row);
        self.events().iter().filter(is_row).count() + usize::from(held.is_some())
    }
}
