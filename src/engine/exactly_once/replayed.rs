//! The progress of a replay: what its records name. Pure.
//!
//! A replay sends rows in the order of reading, and nothing is sent behind an event that waits. So
//! one row says it all: every row before the last one that was sent is sent, filed as a dead
//! letter, or left out. The event that waits is not done, and lies behind that row.
//!
//! Nothing is written back, so transactions follow each other as those of the stream do, with as
//! many events.

use crate::engine::Engine;
use crate::engine::exactly_once::progress::Progress;
use crate::engine::exactly_once::recorded_row::RecordedRow;
use crate::engine::exactly_once::transaction::{Sent, Transactions};
use crate::lsn::Lsn;

impl Engine {
    /// The progress that Kafka has for certain, if that is known.
    pub(crate) fn committed_progress(&self) -> Option<&Progress> {
        self.transactions().and_then(Transactions::committed)
    }

    /// All rows are done, and nothing is in flight: the next record says so.
    pub(crate) fn replay_complete(&mut self) {
        let Some(mut progress) = self.committed_progress().cloned() else {
            return;
        };
        if let Some(replay) = &mut progress.replay {
            replay.complete = true;
        }
        self.transactions_begun(progress, Lsn::INVALID, true);
    }

    /// Completes the record of the current transaction. One without events repeats the row of the
    /// record before.
    pub(super) fn name_last_row(&mut self, progress: &mut Progress) {
        let events = self.transactions().map_or(&[][..], Transactions::events);
        if let Some(replay) = &mut progress.replay {
            replay.sent += events.len() as u64;
        }
        let row = |event: &Sent| RecordedRow::of(self.tracker.event(event.ticket)?);
        if let Some(last) = events.last().and_then(row) {
            progress.rows = vec![last];
        }
        if let Some(exactly_once) = &mut self.exactly_once {
            exactly_once.transactions.next = Some(progress.clone());
        }
    }
}
